"""The JSON event format and its batch: a whole message as one JSON document."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from email.message import Message as Headers
from typing import Any

import msgspec

from postroad.core.message import Message
from postroad.core.wire.attributes import attributes_of, check_names, message_of, text_of
from postroad.errors import DecodeError

STRUCTURED_TYPE = "application/cloudevents+json"
BATCH_TYPE = "application/cloudevents-batch+json"

_encode = msgspec.json.Encoder().encode
_EVENT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_BATCH = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])
_TEXT_TYPES = ("text/", "application/xml")


def to_json(message: Message) -> bytes:
    """One event, of media type `STRUCTURED_TYPE`.

    JSON payloads are embedded as they are, texts as strings, all else as base64; an empty payload
    is no data.

    Raises:
        EncodeError: an attribute is not what CloudEvents allows for it.
    """
    return _encode(_document(message))


def to_json_batch(messages: Sequence[Message]) -> bytes:
    """Several events, of media type `BATCH_TYPE`; may be none. Raises as `to_json` does."""
    return _encode([_document(message) for message in messages])


def from_json(document: bytes, *, received_us: int) -> Message:
    """Read one event; `received_us` stands in for a missing `time`.

    Raises:
        DecodeError: not JSON, not an event, or not of CloudEvents 1.0.
    """
    return _message(_decode(_EVENT, document), received_us)


def from_json_batch(document: bytes, *, received_us: int) -> list[Message]:
    """Read a batch; one bad event refuses all of it. Raises as `from_json` does."""
    return [_message(members, received_us) for members in _decode(_BATCH, document)]


def is_json(content_type: str) -> bool:
    """Whether a media type declares JSON: `*/json` or `*/*+json`, whatever its parameters."""
    subtype = content_type.partition(";")[0].strip().lower().partition("/")[2]
    return subtype == "json" or subtype.endswith("+json")


def _document(message: Message) -> dict[str, Any]:
    document: dict[str, Any] = dict(attributes_of(message))
    if message.data:
        name, value = _data_member(message)
        document[name] = value
    return document


def _data_member(message: Message) -> tuple[str, Any]:
    if is_json(message.content_type):
        if _is_valid_json(message.data):
            return "data", msgspec.Raw(message.data.strip())
    elif message.content_type.lower().startswith(_TEXT_TYPES) or "+xml" in message.content_type:
        text = _as_text(message.data, message.content_type)
        if text is not None:
            return "data", text
    return "data_base64", base64.b64encode(message.data).decode("ascii")


def _is_valid_json(data: bytes) -> bool:
    try:
        data.decode()
        msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _as_text(data: bytes, content_type: str) -> str | None:
    """The text of bytes, if it gives back the same bytes."""
    charset = _charset(content_type)
    try:
        text = data.decode(charset)
        return text if text.encode(charset) == data and text.encode() else None
    except (UnicodeError, LookupError):
        return None


def _charset(content_type: str) -> str:
    headers = Headers()
    headers["content-type"] = content_type
    return headers.get_content_charset("utf-8")


def _decode(decoder: msgspec.json.Decoder[Any], document: bytes) -> Any:
    try:
        return decoder.decode(document)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(f"not a CloudEvents JSON document: {error}") from None


def _message(members: dict[str, msgspec.Raw], received_us: int) -> Message:
    data = members.pop("data", None)
    encoded = _value(members.pop("data_base64", None))
    check_names(members)
    found = {}
    for name, raw in members.items():
        value = _value(raw)
        if value is not None:
            found[name] = text_of(name, value)
    found.setdefault("datacontenttype", "application/json")
    if encoded is not None:
        if data is not None:
            raise DecodeError("CloudEvents data and data_base64 exclude each other")
        return message_of(found, _from_base64(encoded), received_us)
    payload = b"" if data is None else _payload(data, found["datacontenttype"])
    return message_of(found, payload, received_us)


def _value(raw: msgspec.Raw | None) -> Any:
    return None if raw is None else _decode(_ANY, bytes(raw))


_ANY = msgspec.json.Decoder(Any)


def _payload(raw: msgspec.Raw, content_type: str) -> bytes:
    if is_json(content_type):
        return bytes(raw)
    text = _value(raw)
    if not isinstance(text, str):
        raise DecodeError(f"CloudEvents data of {content_type[:60]} must be a string")
    try:
        return text.encode(_charset(content_type))
    except (UnicodeError, LookupError):
        raise DecodeError("CloudEvents data does not fit its charset") from None


def _from_base64(text: object) -> bytes:
    try:
        if isinstance(text, str):
            return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        pass
    raise DecodeError("CloudEvents data_base64 is not base64")
