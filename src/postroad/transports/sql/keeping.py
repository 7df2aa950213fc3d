"""What this road keeps for another one: messages that wait, dead letters, and the keys of both."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from postroad.core.message import Message
from postroad.core.topic import Topic
from postroad.core.transport import Kept
from postroad.errors import NotFoundError
from postroad.storage.connection import Connection
from postroad.storage.statements import load
from postroad.transports.sql import groups
from postroad.transports.sql.append import partition_for
from postroad.transports.sql.lines import due_behind
from postroad.transports.sql.rows import Origins, encoded_failures, envelope
from postroad.transports.sql.topics import Stream, TopicLog, ensure_topic, lock_streams, topic_log

_SQL = load("reports")
_ADVANCE = load("log")["stream_advance"]
_PASS = load("groups")["cursor_advance"]


@dataclass(frozen=True)
class Keeping:
    """What is kept under one topic for one group; see `Keeps.keep`."""

    topic: Topic[Any]
    group: str
    kept: Sequence[Kept]
    ordered: bool
    parks: bool


def keep(connection: Connection, origins: Origins, keeping: Keeping, now_us: int) -> None:
    """Take each in at the end of its stream, whose offset it uses up without a place in the log:
    what comes later of its key stands behind it."""
    topic = keeping.topic
    log = ensure_topic(connection, topic, now_us)
    groups.subscribe(connection, keeping.group, topic.name, "earliest", now_us)
    group_id, *_ = groups.find(connection, topic.name, keeping.group)
    log.last_us = max(log.last_us, now_us)
    dead = 0
    placed = [(one, _stream_of(connection, log, one.message)) for one in keeping.kept]
    if not lock_streams(connection, [log], {stream.id: stream for _, stream in placed}):
        keep(connection, origins, keeping, now_us)  # the topic has other partitions by now
        return
    for one, stream in placed:
        message = one.message
        offset, stream.next_offset = stream.next_offset, stream.next_offset + 1
        connection.execute(_ADVANCE, (1, 1, 0, log.last_us, stream.id))
        _pass_over(connection, group_id, stream.id, offset)
        place = (group_id, stream.id, offset, message.key if keeping.ordered else None)
        failures = encoded_failures(one.failures)
        values = (
            message.id,
            origins.id_of(connection, message),
            message.key,
            message.time_us,
            log.last_us,
            message.expires_at_us,
            message.data,
            envelope(message),
        )
        if one.dead:
            dead += 1
            died = (*place, int(keeping.parks), now_us, failures, *values)
            connection.execute(_SQL["dead_insert"], died)
        else:
            due = due_behind(connection, group_id, stream.id, place[3], offset, one.due_us)
            waits = (*place, due, one.attempts, failures, *values)
            connection.execute(_SQL["adopt"], waits)
    if dead:
        groups.count(connection, group_id, "dead", dead)


def _stream_of(connection: Connection, log: TopicLog, message: Message) -> Stream:
    partition = partition_for(message.key, log.partitions)
    return log.stream(connection, partition, message.priority)


def _pass_over(connection: Connection, group_id: int, stream: int, offset: int) -> None:
    """Where the group has read everything before it, it has read this one too."""
    row = connection.execute(_SQL["cursor"], (group_id, stream)).fetchone()
    if (0 if row is None else row[0]) == offset:
        connection.execute(_PASS, (group_id, stream, offset + 1))


def unsettled_keys(
    connection: Connection, topic: str, group: str, keys: Collection[str] | None
) -> set[str]:
    """See `Keeps.unsettled_keys`."""
    try:
        group_id, topic_id, _, _ = groups.find(connection, topic, group)
    except NotFoundError:
        return set()
    if keys is None:
        return {row[0] for row in connection.execute(_SQL["unsettled_keys"], (group_id,))}
    log = topic_log(connection, topic)
    partitions = 1 if log is None else log.partitions
    found = set()
    for key in keys:
        place = (topic_id, partition_for(key, partitions), group_id, key)
        if connection.execute(_SQL["unsettled_key"], place).fetchone()[0]:
            found.add(key)
    return found
