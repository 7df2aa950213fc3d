"""Rows as messages, and what has to be kept of them as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, TypeVar
from uuid import UUID

import msgspec

from postroad.core.clock import to_us
from postroad.core.codec import JsonCodec
from postroad.core.delivery import Failure, Settlement
from postroad.core.message import Message
from postroad.errors import NotSupportedError

T = TypeVar("T")

_KINDS: dict[str, type] = {
    "decimal": Decimal,
    "datetime": datetime,
    "date": date,
    "time": time,
    "timedelta": timedelta,
    "uuid": UUID,
    "bytes": bytes,
}
_KEPT_FAILURES = 50
_LONGEST_KEY = 255
_encode_failures = msgspec.json.Encoder().encode
_decode_failures = msgspec.json.Decoder(tuple[Failure, ...]).decode
_encode_message = msgspec.msgpack.Encoder().encode
whole_message = msgspec.msgpack.Decoder(Message).decode
"""The message of the bytes that `message_bytes` wrote."""


class RowCodec(JsonCodec[T]):
    """JSON, read with what databases make of types in mind: SQLite has no booleans, decimals come
    as text."""

    def __init__(self, payload_type: Any) -> None:
        super().__init__(payload_type)
        if not hasattr(payload_type, "model_validate_json"):
            self._decode = msgspec.json.Decoder(payload_type, strict=False).decode


def payload(row: Mapping[str, Any]) -> bytes:
    """A row as a JSON object."""
    return msgspec.json.encode(row, enc_hook=_plain)


def _plain(value: Any) -> Any:
    """What JSON has no form for, in the database's own words."""
    return str(value)


def message_of(topic: str, source: str, key: str, number: int, row: Mapping[str, Any]) -> Message:
    """A row as a message, stated at an instant that the caller fills in. Its id is the row's, and
    the number of the round in which it became ready."""
    return Message(
        id=f"{topic}/{key}/{number}",
        type=topic,
        source=source,
        data=payload(row),
        time_us=0,
        key=key,
    )


def message_bytes(message: Message) -> bytes:
    """A whole message as bytes."""
    return _encode_message(msgspec.structs.replace(message, headers=dict(message.headers)))


# ------------------------------------------------------------ keys


def kind_of(key: Any) -> str:
    """What a key is made of.

    Raises:
        NotSupportedError: of what cannot be made again from its text.
    """
    if isinstance(key, UUID):
        return "uuid"
    if isinstance(key, str) and len(key) <= _LONGEST_KEY:
        return "str"
    if isinstance(key, int) and not isinstance(key, bool):
        return "int"
    raise NotSupportedError(
        f"a key of type {type(key).__name__}: the key column of a polled table holds integers, "
        f"text of at most {_LONGEST_KEY} characters or UUIDs, and never NULL"
    )


def key_of(text: str, kind: str) -> int | str | UUID:
    """A key from its text."""
    if kind == "int":
        return int(text)
    return UUID(text) if kind == "uuid" else text


# ------------------------------------------------------------ what a claim overwrote


def kept(values: Sequence[Any]) -> str:
    """Values of columns as text, with their types.

    Raises:
        NotSupportedError: one of a type that cannot be brought back.
    """
    return msgspec.json.encode([_tagged(value) for value in values]).decode()


def _tagged(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, memoryview | bytearray):
        value = bytes(value)
    for name, kind in _KINDS.items():
        if type(value) is kind:
            return [name, value]
    raise NotSupportedError(
        f"a column that the claim sets holds a {type(value).__name__}, which cannot be put back; "
        "claim by columns of text, numbers, instants or UUIDs"
    )


def restored(text: str) -> list[Any]:
    """The values that `kept` wrote."""
    return [
        msgspec.convert(value[1], _KINDS[value[0]], strict=False)
        if isinstance(value, list)
        else value
        for value in msgspec.json.decode(text)
    ]


# ------------------------------------------------------------ failures and instants


def failures_of(data: bytes | None) -> tuple[Failure, ...]:
    """Recorded failures, oldest first."""
    return () if data is None else _decode_failures(data)


def failures_in(settlement: Settlement) -> bytes | None:
    """All failures of a delivery, with the one of this answer, as they are recorded."""
    failures = settlement.delivery.failures
    if settlement.failure is not None:
        failures = (*failures, settlement.failure)
    return _encode_failures(failures[-_KEPT_FAILURES:]) if failures else None


def attempts_in(settlement: Settlement) -> int:
    """All attempts that failed, with the one of this answer."""
    return settlement.delivery.attempts + (settlement.failure is not None)


def instant_us(value: Any) -> int | None:
    """A column's value as microseconds since the epoch: an instant (one without a zone is UTC), its
    ISO 8601 text, or seconds since the epoch; None if it is none of them."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if isinstance(value, datetime):
        return to_us(value if value.tzinfo is not None else value.replace(tzinfo=UTC))
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return int(value * 1_000_000)
    return None
