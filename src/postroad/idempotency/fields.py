"""The Idempotency-Key header field: an Item of RFC 8941 whose value is a String."""

from __future__ import annotations

import re

LONGEST = 255
"""Characters of a key."""

_STRING = r'"(?:[\x20-\x21\x23-\x5b\x5d-\x7e]|\\["\\])*"'
_TOKEN = r"[A-Za-z*][!#$%&'*+\-.^_`|~0-9A-Za-z:/]*"
_NUMBER = r"-?(?:\d{1,12}\.\d{1,3}|\d{1,15})"
_BYTES = r":[A-Za-z0-9+/=]*:"
_BARE_ITEM = rf"(?:{_STRING}|{_TOKEN}|{_NUMBER}|{_BYTES}|\?[01])"
_PARAMETERS = rf"(?:;[ ]*[a-z*][a-z0-9_\-.*]*(?:={_BARE_ITEM})?)*"
_ITEM = re.compile(rf"[ ]*({_STRING}){_PARAMETERS}[ ]*")
_BARE = re.compile(rf"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]{{1,{LONGEST}}}")
_ESCAPED = re.compile(r'\\(["\\])')


def parse(values: list[bytes], *, bare: bool = False) -> str:
    """The key that a request's header fields of this name hold. Parameters are ignored, as RFC
    8941 has it for those that nobody defined.

    Args:
        values: of each field line. More than one is an error: they would be a list, not an item.
        bare: take a key without quotes too, as many clients send it.

    Raises:
        ValueError: it is no such item; says what is expected.
    """
    if len(values) != 1:
        raise ValueError("the request has more than one Idempotency-Key")
    text = values[0].decode("latin-1").strip(" \t")
    found = _ITEM.fullmatch(text)
    if found is not None:
        key = _ESCAPED.sub(r"\1", found[1][1:-1])
    elif bare and _BARE.fullmatch(text):
        key = text
    else:
        raise ValueError(
            'the Idempotency-Key is a string in double quotes, such as "8e03978e-40d5"'
        )
    if not 0 < len(key) <= LONGEST:
        raise ValueError(f"the Idempotency-Key has 1 to {LONGEST} characters")
    return key
