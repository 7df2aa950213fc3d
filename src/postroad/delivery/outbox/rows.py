"""Messages as rows of an outbox and back."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple
from zlib import crc32

import msgspec

from postroad.core.clock import to_us
from postroad.core.message import NO_HEADERS, Message
from postroad.core.wire.attributes import attributes_of, message_of
from postroad.delivery.outbox.table import SLICES, OutboxTable
from postroad.errors import DecodeError, EncodeError

JSON = "application/json"
_COLUMNS = frozenset({"specversion", "id", "source", "type", "partitionkey"})
"""Attributes that have a column, or are the same for all."""
_STAND_IN = "postroad"
"""For attributes that have a column, where the wire's functions want a value."""
_NAME = re.compile(r"[a-z0-9]+", re.ASCII)
_encode = msgspec.json.Encoder().encode


class Record(NamedTuple):
    """A row of an outbox, read.

    Attributes:
        row: what the row is found by; the database's value.
        key: the aggregate's id, None for none.
        routed_by: what names its topic.
    """

    row: Any
    id: str
    aggregate_type: str
    key: str | None
    type: str
    payload: Any
    created_at: Any
    source: str | None
    headers: Any
    routed_by: str


def row_of(
    message: Message, table: OutboxTable, topic: str, aggregate: str, now_us: int
) -> tuple[Any, ...]:
    """The parameters of `Sql.insert`.

    Raises:
        EncodeError: an attribute is not what CloudEvents allows for it; or the table holds text,
            and the payload is none.
    """
    key = message.key or ""
    kind = topic if table.route_by == "type" else message.type
    routed = topic if table.route_by == "aggregate_type" else aggregate
    row: list[Any] = [routed, key, kind, _payload_in(message, table)]
    if not table.generated_id:
        row.insert(0, message.id)
    if table.source is not None:
        row.append(message.source)
    if table.headers is not None:
        row.append(headers_of(message, now_us, kind))
    if table.slice is not None:
        row.append(crc32((key or message.id).encode()) % SLICES)
    if table.instants == "microseconds":
        row.append(now_us)
    return tuple(row)


def headers_of(message: Message, now_us: int, kind: str) -> str | None:
    """What has no column of its own: CloudEvents attributes and headers as a JSON object of text;
    None if there is nothing."""
    if (
        message.time_us == now_us
        and message.content_type == JSON
        and message.type == kind
        and not message.headers
        and message.key != ""
        and message.schema is None
        and message.subject is None
        and not message.priority
        and message.deliver_at_us is None
        and message.expires_at_us is None
        and message.correlation_id is None
        and message.causation_id is None
        and message.traceparent is None
    ):
        return None
    known = msgspec.structs.replace(message, id=_STAND_IN, source=_STAND_IN, type=_STAND_IN)
    found = {n: str(v) for n, v in attributes_of(known).items() if n not in _COLUMNS}
    if message.time_us == now_us:
        del found["time"]
    if message.content_type == JSON:
        del found["datacontenttype"]
    return _encode(found).decode()


def _payload_in(message: Message, table: OutboxTable) -> bytes | str:
    if table.payload_as == "bytes":
        return message.data
    try:
        return message.data.decode()
    except UnicodeDecodeError:
        raise EncodeError(
            f"{message!r} is encoded as bytes, and {table.name}.{table.payload} holds "
            f"{table.payload_as}; give its topic a codec of text, or the table a column of bytes "
            'and OutboxTable(payload_as="bytes")'
        ) from None


def record_of(row: tuple[Any, ...], table: OutboxTable) -> Record:
    """A row of `Sql.read`."""
    number, id_, aggregate, key, kind, payload, created, source, headers = row
    return Record(
        number,
        str(id_),
        aggregate,
        None if key is None or key == "" else str(key),
        kind,
        payload,
        created,
        source,
        headers,
        kind if table.route_by == "type" else aggregate,
    )


def message_from(record: Record, source: str) -> Message:
    """The message of a row; `source` stands in for a missing one.

    Raises:
        DecodeError: somebody else wrote headers that are no JSON object of text, or wrong ones.
    """
    data, created = _bytes_of(record.payload), _instant_us(record.created_at)
    if record.headers is None:
        return Message(
            id=record.id,
            type=record.type,
            source=record.source or source,
            data=data,
            time_us=created,
            key=record.key,
        )
    found = _texts(record.headers)
    odd = {name: found.pop(name) for name in list(found) if not _NAME.fullmatch(name)}
    attributes = {"datacontenttype": JSON, **found}
    attributes |= {"specversion": "1.0", "id": _STAND_IN, "source": _STAND_IN, "type": _STAND_IN}
    message = message_of(attributes, data, created)
    key = record.key if record.key is not None else message.key
    headers: Mapping[str, str] = {**message.headers, **odd} if odd else message.headers
    return msgspec.structs.replace(
        message,
        id=record.id,
        source=record.source or source,
        type=record.type,
        key=key,
        headers=headers or NO_HEADERS,
    )


def _texts(headers: Any) -> dict[str, str]:
    try:
        found = json.loads(headers) if isinstance(headers, str | bytes) else headers
        return {
            str(name): value if isinstance(value, str) else json.dumps(value)
            for name, value in found.items()
        }
    except (ValueError, AttributeError, RecursionError):
        raise DecodeError("the outbox row's headers are no JSON object") from None


def _bytes_of(payload: Any) -> bytes:
    if isinstance(payload, bytes):
        return payload
    if isinstance(payload, str):
        return payload.encode()
    if payload is None:
        return b""
    if isinstance(payload, memoryview | bytearray):
        return bytes(payload)
    return _encode(payload)


def _instant_us(value: Any) -> int:
    """An instant as the database gives it; one without a zone is UTC."""
    if isinstance(value, int):
        return value
    instant = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    return to_us(instant if instant.tzinfo is not None else instant.replace(tzinfo=UTC))


def instant_us(value: Any) -> int | None:
    """As microseconds since the epoch; None stays None."""
    return None if value is None else _instant_us(value)
