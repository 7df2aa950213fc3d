"""Topics and their streams in the database."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from postroad.core.clock import duration_us
from postroad.core.topic import Topic
from postroad.errors import NotFoundError, TopicMismatchError
from postroad.storage.connection import Connection
from postroad.storage.statements import load
from postroad.transports.sql import groups

_SQL = load("log")
_TOPIC, _STREAMS, _STREAM_INSERT = _SQL["topic"], _SQL["streams"], _SQL["stream_insert"]
_LOCK, _PARTITIONS = _SQL["streams_lock"], load("sessions")["partitions"]


@dataclass(slots=True)
class Stream:
    """The end of one stream, and what a publish has added to it."""

    id: int
    next_offset: int
    added: int = 0
    bytes: int = 0


@dataclass(slots=True)
class TopicLog:
    """What publishing needs to know of a topic; true inside one write transaction."""

    id: int
    partitions: int
    last_us: int = 0
    streams: dict[tuple[int, int], Stream] = field(default_factory=dict)

    def stream(self, connection: Connection, partition: int, priority: int) -> Stream:
        """The stream, created if it is the first message of its priority."""
        found = self.streams.get((partition, priority))
        if found is None:
            connection.lock("topics")
            self.read(connection)  # somebody else may have been first
            found = self.streams.get((partition, priority))
        if found is None:
            found = Stream(connection.insert(_STREAM_INSERT, (self.id, partition, priority)), 0)
            self.streams[partition, priority] = found
        return found

    def read(self, connection: Connection) -> None:
        """Learn of the topic's streams; those that are known are left as they are."""
        for partition, priority, id_, next_offset, last_us in connection.execute(
            _STREAMS, (self.id,)
        ).fetchall():
            self.streams.setdefault((partition, priority), Stream(id_, next_offset))
            self.last_us = max(self.last_us, last_us)


def topic_log(connection: Connection, name: str) -> TopicLog | None:
    """The topic as the memo or the database has it; None if there is none."""
    found: TopicLog | None = connection.memo.get(name)
    if found is not None:
        return found
    row = connection.execute(_TOPIC, (name,)).fetchone()
    if row is None:
        return None
    found = TopicLog(row[0], row[1])
    found.read(connection)
    connection.memo[name] = found
    return found


def lock_streams(
    connection: Connection, logs: Iterable[TopicLog], streams: Mapping[int, Stream]
) -> bool:
    """Lock streams until the transaction ends, and read where they end; False, with an empty
    memo, if one is gone or its topic has another number of partitions than we know."""
    known = {log.id: log for log in logs}
    ids = sorted(streams)
    found = connection.execute(_LOCK.many(len(ids)), ids).fetchall() if ids else []
    fits = len(found) == len(ids)
    for topic in known.keys() - {row[3] for row in found}:
        row = connection.execute(_PARTITIONS, (topic,)).fetchone()
        fits = fits and row is not None and row[0] == known[topic].partitions
    for id_, next_offset, last_us, topic, partitions in found:
        streams[id_].next_offset = next_offset
        known[topic].last_us = max(known[topic].last_us, last_us)
        fits = fits and known[topic].partitions == partitions
    if not fits:
        connection.memo.clear()
    return fits


def ensure_topic(connection: Connection, topic: Topic[Any], now_us: int) -> TopicLog:
    """Create the topic, or check that the road's fits. More partitions than before are added.

    Raises:
        TopicMismatchError: the road holds it with more partitions.
    """
    keep = topic.retention
    settings = (
        topic.partition_count,
        None if keep.age is None else duration_us(keep.age),
        keep.size,
        int(keep.consumed),
    )
    connection.lock("topics")
    row = connection.execute(_TOPIC, (topic.name,)).fetchone()
    if row is None:
        values = (topic.name, *settings, now_us)
        topic_id, existing = connection.insert(_SQL["topic_insert"], values), 0
    else:
        topic_id, existing = row[0], row[1]
        if existing > topic.partition_count:
            raise TopicMismatchError(
                f"topic {topic.name!r} has {existing} partitions on this road and is declared with "
                f"{topic.partition_count}: partitions can be added, not removed. Declare "
                f"partitions={existing}, or use a new topic"
            )
        if row[1:] != settings:
            connection.execute(_SQL["topic_update"], (*settings, topic_id))
    for partition in range(existing, topic.partition_count):
        connection.execute(_STREAM_INSERT, (topic_id, partition, 0))
    if row is None:
        groups.join_new_topic(connection, topic_id, topic.name, now_us)
    if existing < topic.partition_count:
        connection.announce("")
    connection.memo.pop(topic.name, None)
    found = topic_log(connection, topic.name)
    if found is None:
        raise NotFoundError(f"topic {topic.name!r} is gone")
    return found


def topic_id(connection: Connection, name: str) -> int:
    """The topic's id.

    Raises:
        NotFoundError: no such topic.
    """
    row = connection.execute(_TOPIC, (name,)).fetchone()
    if row is None:
        raise NotFoundError(f"no topic {name!r} on this road")
    return int(row[0])
