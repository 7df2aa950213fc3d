"""A message's attributes under their CloudEvents names, and what those may be.

Everything a message has goes through: what CloudEvents has no place for (a header whose name is
no extension name, the empty key) travels as JSON in the one extension `postroadextra`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, TypeAlias

import msgspec

from postroad.core.message import NO_HEADERS, PRIORITIES, Message
from postroad.core.wire.timestamps import instant_us, timestamp
from postroad.errors import DecodeError, EncodeError, PayloadError

Value: TypeAlias = str | int | bool
"""What an attribute may be in JSON; on other wires it is the text of that."""

SPECVERSION = "1.0"
EXTRA = "postroadextra"
_EXTENSIONS = {
    "partitionkey": "key",
    "correlationid": "correlation_id",
    "causationid": "causation_id",
    "traceparent": "traceparent",
}
_INSTANTS = {"deliverytime": "deliver_at_us", "expirytime": "expires_at_us"}
_RESERVED = frozenset(
    {"specversion", "id", "type", "source", "time", "datacontenttype", "dataschema", "subject"}
    | {"data", "priority", EXTRA, *_EXTENSIONS, *_INSTANTS}
)
_NAME = re.compile(r"[a-z0-9]+", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_NOT_IN_URI = re.compile(r"[\x00-\x20<>\"{}|\\^`\x7f-\x9f\ud800-\udfff]")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:", re.ASCII)
_MEDIA_TYPE = re.compile(r"[!#$%&'*+.^_`|~\w-]+/[!#$%&'*+.^_`|~\w-]+\s*(;[\x20-\x7e]*)?", re.ASCII)
_LEVELS = {str(level) for level in PRIORITIES}
_INT32 = range(-(2**31), 2**31)


def attributes_of(message: Message) -> dict[str, Value]:
    """The CloudEvents attributes of a message, the required ones first, unset ones left out.

    Raises:
        EncodeError: an attribute is not what CloudEvents allows for it.
    """
    found: dict[str, Value] = {
        "specversion": SPECVERSION,
        "id": message.id,
        "source": message.source,
        "type": message.type,
        "time": timestamp(message.time_us),
        "datacontenttype": message.content_type,
    }
    _set(found, "dataschema", message.schema)
    _set(found, "subject", message.subject)
    check_core(found, EncodeError)
    for name, field in _INSTANTS.items():
        instant = getattr(message, field)
        _set(found, name, None if instant is None else timestamp(instant))
    if message.priority:
        found["priority"] = message.priority
    extra = _add_strings(message, found)
    if extra:
        found[EXTRA] = json.dumps(extra, separators=(",", ":"), sort_keys=True)
    return found


def message_of(found: Mapping[str, str], data: bytes, received_us: int) -> Message:
    """The message of attributes as text; `received_us` stands in for a missing `time`.

    Extensions that a message has no field for become its headers.

    Raises:
        DecodeError: a required attribute is missing, or one is not what CloudEvents allows.
    """
    check_names(found)
    if found.get("specversion") != SPECVERSION:
        raise DecodeError(f"CloudEvents specversion must be {SPECVERSION}")
    check_core(found, DecodeError)
    rest = {name: value for name, value in found.items() if name not in _RESERVED}
    fields: dict[str, Any] = {"key": None}
    for name, field in _EXTENSIONS.items():
        fields[field] = _non_empty(name, found.get(name))
    for name, field in _INSTANTS.items():
        fields[field] = instant_us(name, found[name]) if name in found else None
    fields["priority"] = _priority(found, rest)
    _read_extra(found.get(EXTRA), fields, rest)
    return Message(
        id=found["id"],
        type=found["type"],
        source=found["source"],
        data=data,
        time_us=instant_us("time", found["time"]) if "time" in found else received_us,
        content_type=found["datacontenttype"],
        schema=found.get("dataschema"),
        subject=found.get("subject"),
        headers=rest or NO_HEADERS,
        **fields,
    )


def text_of(name: str, value: object) -> str:
    """The canonical text of an attribute's JSON value.

    Raises:
        DecodeError: it is a fraction, an array, an object, or an integer beyond 32 bits.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and value in _INT32:
        return str(value)
    raise DecodeError(f"CloudEvents {name}: not a string, boolean or 32-bit integer")


def check_names(found: Mapping[str, object]) -> None:
    """Refuse names that no attribute can have.

    Raises:
        DecodeError: not lower-case ASCII letters and digits, or the word `data`.
    """
    for name in found:
        if name == "data" or not _NAME.fullmatch(name):
            raise DecodeError(f"{name[:40]!r} is not a CloudEvents attribute name")


def check_core(found: Mapping[str, Value], error: type[PayloadError]) -> None:
    """Refuse what the specification refuses of its own attributes.

    Control characters are refused here only: in extensions the project's own conformance events
    carry line feeds, so those pass.

    Raises:
        error: an attribute is missing, empty, or not of its type.
    """
    for name in ("id", "source", "type"):
        if not found.get(name):
            raise error(f"CloudEvents {name} is required and must not be empty")
    for name in ("id", "type", "subject"):
        value = found.get(name)
        if value is not None and (not value or _CONTROL.search(str(value))):
            raise error(f"CloudEvents {name}: empty, or with control characters")
    if _NOT_IN_URI.search(str(found["source"])):
        raise error("CloudEvents source is not a URI reference")
    schema = str(found.get("dataschema", "a:"))
    if not _SCHEME.match(schema) or _NOT_IN_URI.search(schema):
        raise error("CloudEvents dataschema is not an absolute URI")
    if not _MEDIA_TYPE.fullmatch(str(found.get("datacontenttype", "a/b"))):
        raise error("CloudEvents datacontenttype is not a media type")


def _set(found: dict[str, Value], name: str, value: str | None) -> None:
    if value is not None:
        found[name] = value


def _add_strings(message: Message, found: dict[str, Value]) -> dict[str, Any]:
    """Add what fits as extensions; return what does not."""
    extra: dict[str, Any] = {}
    for name, field in _EXTENSIONS.items():
        value = getattr(message, field)
        if value and not _SURROGATE.search(value):
            found[name] = value
        elif value is not None:
            extra[field] = value
    odd = {}
    for name, value in message.headers.items():
        if _NAME.fullmatch(name) and name not in _RESERVED and not _SURROGATE.search(value):
            found[name] = value
        else:
            odd[name] = value
    if odd:
        extra["headers"] = odd
    return extra


def _non_empty(name: str, value: str | None) -> str | None:
    if value == "":
        raise DecodeError(f"CloudEvents {name} must not be empty")
    return value


def _priority(found: Mapping[str, str], rest: dict[str, str]) -> int:
    """Ours if it is a level; another system's word of that name stays a header."""
    text = found.get("priority")
    if text is None:
        return 0
    if text in _LEVELS:
        return int(text)
    rest["priority"] = text
    return 0


def _read_extra(text: str | None, fields: dict[str, Any], rest: dict[str, str]) -> None:
    if text is None:
        return
    try:
        extra = msgspec.convert(json.loads(text), dict[str, Any])
        headers = msgspec.convert(extra.pop("headers", {}), dict[str, str])
        strings = msgspec.convert(extra, dict[str, str])
    except (ValueError, RecursionError, msgspec.ValidationError):
        raise DecodeError(f"CloudEvents {EXTRA}: not what Postroad writes there") from None
    rest.update(headers)
    fields.update({field: strings[field] for field in _EXTENSIONS.values() if field in strings})
