"""Topics and their streams in the database."""

from __future__ import annotations

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
            found = Stream(connection.insert(_STREAM_INSERT, (self.id, partition, priority)), 0)
            self.streams[partition, priority] = found
        return found


def topic_log(connection: Connection, name: str) -> TopicLog | None:
    """The topic as the memo or the database has it; None if there is none."""
    found: TopicLog | None = connection.memo.get(name)
    if found is not None:
        return found
    row = connection.execute(_TOPIC, (name,)).fetchone()
    if row is None:
        return None
    found = TopicLog(row[0], row[1])
    for partition, priority, id_, next_offset, last_us in connection.execute(_STREAMS, (row[0],)):
        found.streams[partition, priority] = Stream(id_, next_offset)
        found.last_us = max(found.last_us, last_us)
    connection.memo[name] = found
    return found


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
