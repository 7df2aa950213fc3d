"""Messages as rows and back. What many messages share (type, source, media type, schema) is an
origin, stored once; what few have is one small JSON array, NULL for most."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any, TypeAlias

import msgspec

from postroad.core.delivery import Failure, Position, Settlement
from postroad.core.message import NO_HEADERS, Message
from postroad.storage.connection import Connection
from postroad.storage.statements import load

_SQL = load("log")
_ORIGIN, _ORIGIN_INSERT = _SQL["origin"], _SQL["origin_insert"]

OFFSET_BITS = 40
OFFSET_MASK = (1 << OFFSET_BITS) - 1

Row: TypeAlias = tuple[Any, ...]
"""(…, id, origin, key, time_us, appended_us, expires_at_us, data, envelope)"""
Origin: TypeAlias = tuple[str, str, str, str | None]
"""(type, source, content_type, schema)"""


class _Rare(msgspec.Struct, array_like=True, omit_defaults=True):
    subject: str | None = None
    headers: dict[str, str] | None = None
    deliver_at_us: int | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    traceparent: str | None = None


_encode = msgspec.json.Encoder().encode
_decode_rare = msgspec.json.Decoder(_Rare).decode
_KEPT_FAILURES = 100
_decode_failures = msgspec.json.Decoder(tuple[Failure, ...]).decode


def envelope(message: Message) -> bytes | None:
    """What few messages have, encoded; None for the others."""
    headers = message.headers
    if (
        not headers
        and message.subject is None
        and message.deliver_at_us is None
        and message.correlation_id is None
        and message.causation_id is None
        and message.traceparent is None
    ):
        return None
    return _encode(
        _Rare(
            message.subject,
            dict(headers) or None,
            message.deliver_at_us,
            message.correlation_id,
            message.causation_id,
            message.traceparent,
        )
    )


def message_of(row: Row, origin: Origin, priority: int) -> Message:
    """The message of a row's last eight columns."""
    id_, _, key, time_us, _, expires_at_us, data, rare = row[-8:]
    if rare is None:
        return Message(
            id=id_,
            type=origin[0],
            source=origin[1],
            content_type=origin[2],
            schema=origin[3],
            data=data,
            time_us=time_us,
            key=key,
            priority=priority,
            expires_at_us=expires_at_us,
        )
    more = _decode_rare(rare)
    headers: Mapping[str, str] = NO_HEADERS if more.headers is None else more.headers
    return Message(
        id=id_,
        type=origin[0],
        source=origin[1],
        content_type=origin[2],
        schema=origin[3],
        data=data,
        time_us=time_us,
        key=key,
        priority=priority,
        expires_at_us=expires_at_us,
        subject=more.subject,
        headers=headers,
        deliver_at_us=more.deliver_at_us,
        correlation_id=more.correlation_id,
        causation_id=more.causation_id,
        traceparent=more.traceparent,
    )


def failures_of(data: bytes | None) -> tuple[Failure, ...]:
    """Recorded failures, oldest first."""
    return () if data is None else _decode_failures(data)


def attempts_in(settlement: Settlement) -> int:
    """Failed attempts to record: what the delivery says, and the failure of the settlement."""
    return settlement.delivery.attempts + (settlement.failure is not None)


def failures_in(settlement: Settlement) -> bytes | None:
    """Failures to record, oldest first: the delivery's, then that of the settlement; the last
    hundred of them."""
    failures = settlement.delivery.failures
    if settlement.failure is not None:
        failures = (*failures, settlement.failure)
    return encoded_failures(failures)


def encoded_failures(failures: Sequence[Failure]) -> bytes | None:
    """Failures as they are recorded: the last hundred of them."""
    return _encode(failures[-_KEPT_FAILURES:]) if failures else None


def exposed(offset: int, priority: int) -> int:
    """An offset as others see it: unique within the partition over its priorities."""
    return priority << OFFSET_BITS | offset


def place(position: Position) -> tuple[int, int]:
    """(priority, offset) of a position that others hold.

    Raises:
        ValueError: the offset is no number.
    """
    offset = int(position.offset)
    return offset >> OFFSET_BITS, offset & OFFSET_MASK


class Origins:
    """Every origin that this process has met. An id is a hash of its origin, so an entry stays
    right whatever is committed or rolled back."""

    def __init__(self) -> None:
        self._ids: dict[Origin, int] = {}
        self.by_id: dict[int, Origin] = {}

    def id_of(self, connection: Connection, message: Message) -> int:
        """The id of a message's origin, written in the open transaction if need be."""
        origin = (message.type, message.source, message.content_type, message.schema)
        found = self._ids.get(origin)
        if found is None:
            text = "\0".join(part or "" for part in origin).encode()
            found = int.from_bytes(blake2b(text, digest_size=6).digest())
            self._ids[origin] = found
            self.by_id[found] = origin
        if found not in connection.memo:
            connection.execute(_ORIGIN_INSERT, (found, *origin))
            connection.memo[found] = True
        return found

    def learn(self, connection: Connection, rows: Iterable[Row]) -> None:
        """Make sure that `by_id` knows the origins of these rows."""
        for missing in {row[-7] for row in rows} - self.by_id.keys():
            self.by_id[missing] = connection.execute(_ORIGIN, (missing,)).fetchone()
