"""Binary mode: the payload is the body as it is, every attribute a header of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from postroad.core.message import Message
from postroad.core.wire.attributes import attributes_of, check_names, message_of
from postroad.core.wire.percent import percent_decode, percent_encode
from postroad.errors import DecodeError

Headers: TypeAlias = Mapping[str, str | bytes] | Iterable[tuple[str, str | bytes]]
"""Headers as the many clients give them: a mapping or pairs, texts or UTF-8 bytes."""

UNKNOWN_TYPE = "application/octet-stream"
"""What a body without a content type is (RFC 9110 §8.3)."""


@dataclass(frozen=True)
class Binding:
    """How one protocol writes attributes into headers.

    Attributes:
        prefix: stands before each attribute's name.
        percent: values are percent-encoded, and names are compared without case (HTTP).
        content_type: the header that holds `datacontenttype`.
    """

    prefix: str
    percent: bool = False
    content_type: str = "content-type"


HTTP = Binding("ce-", percent=True)
KAFKA = Binding("ce_")
AMQP = Binding("cloudEvents:")


def to_binary(message: Message, binding: Binding) -> dict[str, str]:
    """The headers of a message; its body is `message.data`.

    Raises:
        EncodeError: an attribute is not what CloudEvents allows for it.
    """
    attributes = attributes_of(message)
    headers = {binding.content_type: str(attributes.pop("datacontenttype"))}
    for name, value in attributes.items():
        text = str(value)
        headers[binding.prefix + name] = percent_encode(text) if binding.percent else text
    return headers


def from_binary(headers: Headers, body: bytes, binding: Binding, *, received_us: int) -> Message:
    """Read headers and body; headers without the prefix are the protocol's own and ignored.

    Raises:
        DecodeError: not an event of CloudEvents 1.0.
    """
    found = {"datacontenttype": UNKNOWN_TYPE}
    seen: set[str] = set()
    for header, value in header_items(headers):
        name = attribute_name(header, binding)
        if name is None:
            continue
        if name in seen or (name == "datacontenttype" and not _is_content_type(header, binding)):
            raise DecodeError(f"header {header[:60]!r}: each attribute comes once")
        seen.add(name)
        encoded = binding.percent and name != "datacontenttype"
        found[name] = percent_decode(header, value) if encoded else value
    check_names(found)
    return message_of(found, body, received_us)


def content_type_of(headers: Headers, binding: Binding) -> str:
    """The media type of the body, empty where there is none."""
    for header, value in header_items(headers):
        if _is_content_type(header, binding):
            return value.strip()
    return ""


def header_items(headers: Headers) -> Iterator[tuple[str, str]]:
    """Name and text of each header.

    Raises:
        DecodeError: bytes that are not UTF-8.
    """
    for name, value in headers.items() if isinstance(headers, Mapping) else headers:
        try:
            yield name, value if isinstance(value, str) else bytes(value).decode()
        except UnicodeDecodeError:
            raise DecodeError(f"header {name[:60]!r} is not UTF-8") from None


def attribute_name(header: str, binding: Binding) -> str | None:
    """The attribute that a header holds; None for the protocol's own headers."""
    if _is_content_type(header, binding):
        return "datacontenttype"
    name = header.lower() if binding.percent else header
    return name.removeprefix(binding.prefix) if name.startswith(binding.prefix) else None


def _is_content_type(header: str, binding: Binding) -> bool:
    return header.lower() == binding.content_type
