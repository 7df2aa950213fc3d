"""Reading the log without a group and without effect, in the order in which it was accepted."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from postroad.core.delivery import Position, Start
from postroad.errors import NotSupportedError
from postroad.storage.connection import Connection
from postroad.storage.statements import load
from postroad.transports.sql import places
from postroad.transports.sql.rows import OFFSET_BITS, OFFSET_MASK, Origins, place
from postroad.transports.sql.tokens import Chunk, Held
from postroad.transports.sql.topics import topic_id

_ENDS, _READ = load("groups")["ends"], load("log")["read"]
_AT_ONCE = 200


def chunks(
    connection: Connection, origins: Origins, topic: str, start: Start, limit: int
) -> list[Chunk]:
    """Up to `limit` messages from the start, one row a chunk. A `Position` reads its partition
    only: everything from it on, over all priorities, in the order of acceptance.

    Raises:
        NotFoundError: no such topic.
    """
    ends = connection.execute(_ENDS, (topic_id(connection, topic),)).fetchall()
    streams = [row[:5] for row in ends]
    if isinstance(start, Position):
        streams = [row for row in streams if row[1] == start.partition]
        offsets = _from_position(connection, streams, start)
    else:
        offsets = places.offsets(connection, streams, start)
    readers = [
        _rows(connection, topic, row, offsets[row[0]], limit)
        for row in streams
        if offsets[row[0]] < row[4]
    ]
    found = []
    for _, _, _, chunk in heapq.merge(*readers):
        found.append(chunk)
        if len(found) == limit:
            break
    origins.learn(connection, [chunk.rows[0] for chunk in found])
    return found


def _from_position(
    connection: Connection, streams: list[tuple[int, int, int, int, int]], position: Position
) -> dict[int, int]:
    """Where each priority of the partition goes on, so that giving the position after the last
    message goes on exactly there: messages are ordered by (accepted, priority, offset)."""
    try:
        priority, offset = place(position)
    except ValueError:
        raise NotSupportedError(f"offset {position.offset!r} is not a number") from None
    mine = next((row for row in streams if row[2] == priority), None)
    if mine is None or offset <= mine[3]:
        instant = float("-inf")
    else:
        # What came before the position was read: everything after its predecessor is left.
        instant = places.appended_us(connection, mine[0], min(offset, mine[4]) - 1, mine[4])
    found = {}
    for stream, _, level, first, after in streams:
        if level == priority:
            found[stream] = min(max(offset, first), after)
        else:
            bound = instant if level > priority else instant + 1
            found[stream] = places.first_since(connection, stream, first, after, bound)
    return found


def _rows(
    connection: Connection,
    topic: str,
    stream: tuple[int, int, int, int, int],
    start: int,
    limit: int,
) -> Iterator[tuple[int, int, int, Chunk]]:
    """A stream's rows with their place in the order, read a few at a time."""
    id_, partition, priority, _, after = stream
    base = id_ << OFFSET_BITS
    while limit > 0 and start < after:
        args = (base + start, base + after, min(limit, _AT_ONCE))
        rows = connection.execute(_READ, args).fetchall()
        if not rows:
            return
        for row in rows:
            yield row[5], priority, row[0], Chunk(Held(0), topic, partition, priority, (row,))
        limit -= len(rows)
        start = (rows[-1][0] & OFFSET_MASK) + 1
