"""From a start (earliest, latest, an instant, a position) to an offset in each stream."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime

from postroad.core.clock import to_us
from postroad.core.delivery import Position, Start
from postroad.errors import NotSupportedError
from postroad.storage.connection import Connection
from postroad.storage.statements import load
from postroad.transports.sql import rows

_APPENDED = load("log")["appended"]


def offsets(
    connection: Connection, streams: Sequence[tuple[int, int, int, int, int]], start: Start
) -> dict[int, int]:
    """Stream id → the first offset to read, for streams of one topic given as
    (id, partition, priority, first_offset, next_offset).

    A position is exact in its own stream; in every other one of the topic it stands for the
    instant at which its message was accepted.

    Raises:
        NotSupportedError: the position is none of this road.
    """
    if start == "earliest":
        return {stream[0]: stream[3] for stream in streams}
    if start == "latest":
        return {stream[0]: stream[4] for stream in streams}
    if isinstance(start, datetime):
        instant: float = to_us(start)
        return {s[0]: first_since(connection, s[0], s[3], s[4], instant) for s in streams}
    if isinstance(start, Position):
        return _from_position(connection, streams, start)
    raise NotSupportedError(f"{start!r} is no start: earliest, latest, a datetime or a Position")


def _from_position(
    connection: Connection,
    streams: Sequence[tuple[int, int, int, int, int]],
    position: Position,
) -> dict[int, int]:
    try:
        priority, offset = rows.place(position)
    except ValueError:
        raise NotSupportedError(f"offset {position.offset!r} is not a number") from None
    exact: dict[int, int] = {}
    instant = math.inf
    for id_, partition, level, first, after in streams:
        if (partition, level) == (position.partition, priority):
            exact[id_] = min(max(offset, first), after)
            instant = appended_us(connection, id_, exact[id_], after)
    return {
        s[0]: exact.get(s[0], -1)
        if s[0] in exact
        else first_since(connection, s[0], s[3], s[4], instant)
        for s in streams
    }


def first_since(connection: Connection, stream: int, low: int, high: int, instant: float) -> int:
    """The first offset in [low, high) accepted at or after the instant, else `high`: a binary
    search, since a stream's times never go back."""
    while low < high:
        middle = (low + high) // 2
        if appended_us(connection, stream, middle, high) < instant:
            low = middle + 1
        else:
            high = middle
    return low


def appended_us(connection: Connection, stream: int, offset: int, end: int) -> float:
    """When the message at an offset (or the next one that is kept) was accepted; infinite if
    there is none before `end`."""
    base = stream << rows.OFFSET_BITS
    row = connection.execute(_APPENDED, (base + offset, base + end)).fetchone()
    return math.inf if row is None else float(row[1])
