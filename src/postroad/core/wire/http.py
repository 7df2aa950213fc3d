"""HTTP: one request or response body with its headers, in any of the three content modes."""

from __future__ import annotations

from typing import Literal

from postroad.core.message import Message
from postroad.core.wire.binary import HTTP, Headers, content_type_of, from_binary, to_binary
from postroad.core.wire.structured import (
    BATCH_TYPE,
    STRUCTURED_TYPE,
    from_json,
    from_json_batch,
    to_json,
)
from postroad.errors import DecodeError


def to_http(
    message: Message, mode: Literal["binary", "structured"] = "binary"
) -> tuple[dict[str, str], bytes]:
    """Headers and body.

    Raises:
        EncodeError: an attribute is not what CloudEvents allows for it.
    """
    if mode == "structured":
        return {"content-type": f"{STRUCTURED_TYPE}; charset=utf-8"}, to_json(message)
    return to_binary(message, HTTP), message.data


def from_http(headers: Headers, body: bytes, *, received_us: int) -> list[Message]:
    """The messages of a body: one, or as many as a batch holds. `received_us` stands in for a
    missing `time`.

    Raises:
        DecodeError: not an event of CloudEvents 1.0, or in a format other than JSON.
    """
    pairs = list(headers.items()) if hasattr(headers, "items") else list(headers)
    media_type = media_type_of(content_type_of(pairs, HTTP))
    if media_type == BATCH_TYPE:
        return from_json_batch(body, received_us=received_us)
    if media_type == STRUCTURED_TYPE:
        return [from_json(body, received_us=received_us)]
    refuse_other_formats(media_type)
    return [from_binary(pairs, body, HTTP, received_us=received_us)]


def media_type_of(content_type: str) -> str:
    """Without parameters, in lower case."""
    return content_type.partition(";")[0].strip().lower()


def refuse_other_formats(media_type: str) -> None:
    """Refuse the event formats that are not read here.

    Raises:
        DecodeError: a CloudEvents media type that is not JSON.
    """
    if media_type.startswith("application/cloudevents"):
        raise DecodeError(f"CloudEvents as {media_type[:60]} are not read here, only as JSON")
