"""Retention: the oldest messages of a topic go, a few at a time, never one that is handed out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from postroad.storage.connection import Connection
from postroad.storage.statements import load
from postroad.transports.sql import groups, places
from postroad.transports.sql.rows import OFFSET_BITS

Topic: TypeAlias = tuple[int, int | None, int | None, int]
"""(id, age_us, size, consumed)"""
_SQL, _GROUPS = load("retention"), load("groups")
CHUNK = 1000
"""Messages removed in one transaction: about a millisecond of the write lock."""


def due(connection: Connection, now_us: int) -> list[Topic]:
    """The topics that have anything to remove. Only reads."""
    topics = connection.execute(_SQL["topics"]).fetchall()
    return [topic for topic in topics if next(_cuts(connection, topic, now_us), None) is not None]


def trim(connection: Connection, topic: Topic, now_us: int) -> bool:
    """Remove at most one chunk of each of the topic's streams; whether anything was removed. Its
    groups neither claim nor settle meanwhile."""
    names = _names(connection, topic)
    for name in names:
        connection.lock(groups.scope(name))
    connection.lock("topics")  # no group joins from here on
    if _names(connection, topic) != names:
        return True  # one has joined meanwhile: its lock has its place in the order, too
    cuts = list(_cuts(connection, topic, now_us))
    for stream, first, cut in cuts:
        _remove(connection, topic[0], stream, first, cut)
    return bool(cuts)


def _names(connection: Connection, topic: Topic) -> list[str]:
    rows = connection.execute(_SQL["group_names"], (topic[0],)).fetchall()
    return sorted(name for (name,) in rows)


def _cuts(connection: Connection, topic: Topic, now_us: int) -> Iterator[tuple[int, int, int]]:
    """(stream, first offset, first offset to keep) of every stream that has something to go."""
    topic_id, age_us, size, consumed = topic
    streams = connection.execute(_SQL["streams"], (topic_id,)).fetchall()
    excess = 0 if size is None else sum(row[3] for row in streams) - size
    if excess > 0:
        streams.sort(key=lambda row: places.appended_us(connection, *row[:3]))
    for stream, first, after, _, _, _ in streams:
        last = min(after, first + CHUNK)
        cut = first
        if age_us is not None:
            cut = places.first_since(connection, stream, first, last, now_us - age_us)
        if excess > 0:
            heavy, freed = _weigh(connection, stream, first, last, excess)
            cut, excess = max(cut, heavy), excess - freed
        if consumed:
            cut = max(cut, min(last, _consumed(connection, topic_id, stream, first)))
        claimed = connection.execute(_SQL["claimed"], (stream,)).fetchone()[0]
        if claimed is not None:
            cut = min(cut, claimed)
        if cut > first:
            yield stream, first, cut


def _weigh(
    connection: Connection, stream: int, first: int, last: int, excess: int
) -> tuple[int, int]:
    """(the first offset to keep, bytes freed) so that at least `excess` bytes go, or the chunk."""
    base, freed, cut = stream << OFFSET_BITS, 0, first
    for position, weight in connection.execute(_SQL["weigh"], (base + first, base + last)):
        if freed >= excess:
            break
        freed += weight
        cut = position - base + 1
    return cut, freed


def _consumed(connection: Connection, topic_id: int, stream: int, first: int) -> int:
    """Up to where every group has read; nothing, while there is no group."""
    cursors = [row[1] for row in connection.execute(_SQL["groups"], (stream, topic_id))]
    return min(cursors, default=first)


def _remove(connection: Connection, topic_id: int, stream: int, first: int, cut: int) -> None:
    base = stream << OFFSET_BITS
    span = (base + first, base + cut)
    weight = sum(row[1] for row in connection.execute(_SQL["weigh"], span))
    connection.execute(_SQL["delete"], span)
    connection.execute(_SQL["trim"], (cut, weight, stream))
    for group, cursor in connection.execute(_SQL["groups"], (stream, topic_id)).fetchall():
        if cursor < cut:
            groups.count(connection, group, "trimmed", cut - max(cursor, first))
            connection.execute(_GROUPS["cursor_advance"], (group, stream, cut))
