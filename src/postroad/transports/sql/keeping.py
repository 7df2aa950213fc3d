"""What this road keeps for another one: its dead letters, and which keys it has parked here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from postroad.core.reports import DeadLetter
from postroad.core.topic import Topic
from postroad.storage.connection import Connection
from postroad.storage.statements import load
from postroad.transports.sql import groups
from postroad.transports.sql.append import partition_for
from postroad.transports.sql.rows import OFFSET_BITS, Origins, encoded_failures, envelope
from postroad.transports.sql.topics import ensure_topic

_SQL = load("sqlite", "reports")
_ADVANCE = load("sqlite", "log")["stream_advance"]
_PASS = load("sqlite", "groups")["cursor_advance"]


def bury(
    connection: Connection,
    origins: Origins,
    topic: Topic[Any],
    group: str,
    letters: Sequence[DeadLetter],
    parks: bool,
    now_us: int,
) -> None:
    """Take each in at the end of its stream, whose offset it uses up: what is published later of
    its key stands behind it."""
    log = ensure_topic(connection, topic, now_us)
    groups.subscribe(connection, group, topic.name, "earliest", now_us)
    group_id, *_ = groups.find(connection, topic.name, group)
    log.last_us = max(log.last_us, now_us)
    for letter in letters:
        message = letter.message
        partition = partition_for(message.key, log.partitions)
        stream = log.stream(connection, partition, message.priority)
        offset, stream.next_offset = stream.next_offset, stream.next_offset + 1
        connection.execute(_ADVANCE, (1, 1, 0, log.last_us, stream.id))
        _pass_over(connection, group_id, stream.id, offset)
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
        place = (group_id, stream.id, offset, message.key, parks)
        failures = encoded_failures(letter.failures)
        connection.execute(_SQL["dead_insert"], (*place, letter.died_us, failures, *values))
    groups.count(connection, group_id, "dead", len(letters))


def _pass_over(connection: Connection, group_id: int, stream: int, offset: int) -> None:
    """Where the group has read everything before it, it has read this one too."""
    row = connection.execute(_SQL["cursor"], (group_id, stream)).fetchone()
    if (0 if row is None else row[0]) == offset:
        connection.execute(_PASS, (group_id, stream, offset + 1))


def unsettled_keys(connection: Connection, topic: str, group: str) -> set[str]:
    """See `Keeps.unsettled_keys`."""
    group_id, topic_id, _, _ = groups.find(connection, topic, group)
    found: set[str] = set()
    for stream, first, after in connection.execute(_SQL["unread_from"], (group_id, topic_id)):
        span = (stream << OFFSET_BITS | min(first, after), stream << OFFSET_BITS | after)
        found.update(
            row[0] for row in connection.execute(_SQL["unsettled_keys"], (*span, group_id))
        )
    return found
