"""Header values of the HTTP binding: percent-encoding (HTTP binding 1.0.2, §3.1.3.2)."""

from __future__ import annotations

import re

from postroad.errors import DecodeError, EncodeError

_TO_ENCODE = re.compile(r"[^\x21\x23\x24\x26-\x7e]+")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_ESCAPED = re.compile(r"\\(.)")
_PERCENT = re.compile(rb"%([0-9A-Fa-f]{2})")


def percent_encode(value: str) -> str:
    """Everything outside U+0021 … U+007E, the double quote and the percent sign, as UTF-8.

    Raises:
        EncodeError: the text holds half a surrogate pair and has no UTF-8.
    """
    try:
        return _TO_ENCODE.sub(lambda match: _hex(match[0]), value)
    except UnicodeEncodeError:
        raise EncodeError("an attribute is not Unicode text") from None


def percent_decode(name: str, value: str) -> str:
    """Unescape double-quoted parts, then decode percent signs, once.

    Raises:
        DecodeError: not printable ASCII, an open quote, a stray percent sign, or bytes that are
            not UTF-8 (overlong forms among them).
    """
    unquoted = _QUOTED.sub(lambda match: _ESCAPED.sub(r"\1", match[1]), value)
    if '"' in _QUOTED.sub("", value):
        raise DecodeError(f"header {name}: a double quote that is not closed")
    try:
        raw = unquoted.encode("ascii")
        if b"%" in _PERCENT.sub(b"", raw):
            raise DecodeError(f"header {name}: a percent sign without two hexadecimal digits")
        return _PERCENT.sub(lambda match: bytes.fromhex(match[1].decode()), raw).decode()
    except UnicodeError:
        raise DecodeError(f"header {name}: not percent-encoded UTF-8") from None


def _hex(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode())
