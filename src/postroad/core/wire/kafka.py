"""Kafka records, and every other broker that has headers and one value."""

from __future__ import annotations

from typing import Literal

from postroad.core.message import Message
from postroad.core.wire.binary import KAFKA, Headers, content_type_of, from_binary, to_binary
from postroad.core.wire.http import media_type_of, refuse_other_formats
from postroad.core.wire.structured import STRUCTURED_TYPE, from_json, to_json


def to_kafka(
    message: Message, mode: Literal["binary", "structured"] = "binary"
) -> tuple[list[tuple[str, bytes]], bytes]:
    """Headers and value of a record; its key is for the caller to set from `message.key`.

    Raises:
        EncodeError: an attribute is not what CloudEvents allows for it.
    """
    if mode == "structured":
        headers = {"content-type": f"{STRUCTURED_TYPE}; charset=utf-8"}
        return _as_bytes(headers), to_json(message)
    return _as_bytes(to_binary(message, KAFKA)), message.data


def from_kafka(headers: Headers, value: bytes | None, *, received_us: int) -> Message:
    """The message of a record; no value is an empty payload. `received_us`, the record's own
    timestamp, stands in for a missing `time`.

    Raises:
        DecodeError: not an event of CloudEvents 1.0, or in a format other than JSON.
    """
    pairs = list(headers.items()) if hasattr(headers, "items") else list(headers)
    media_type = media_type_of(content_type_of(pairs, KAFKA))
    if media_type == STRUCTURED_TYPE:
        return from_json(value or b"", received_us=received_us)
    refuse_other_formats(media_type)
    return from_binary(pairs, value or b"", KAFKA, received_us=received_us)


def _as_bytes(headers: dict[str, str]) -> list[tuple[str, bytes]]:
    return [(name, text.encode()) for name, text in headers.items()]
