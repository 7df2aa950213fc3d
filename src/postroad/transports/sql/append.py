"""Appending to the log: inside one write transaction, so commit order is offset order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count
from typing import Any, TypeAlias

from postroad.core.delivery import Position, Receipt
from postroad.core.message import Message
from postroad.core.partitioner import partition_of
from postroad.core.topic import Topic
from postroad.storage.connection import Connection
from postroad.storage.statements import load
from postroad.transports.sql.rows import OFFSET_BITS, Origins, Row, envelope
from postroad.transports.sql.topics import Stream, TopicLog, ensure_topic, topic_log

_SQL = load("log")
_APPEND, _ADVANCE, _DUE = _SQL["append"], _SQL["stream_advance"], _SQL["due"]
_NEXT_DUE, _SCHEDULE, _FORGET = _SQL["next_due"], _SQL["schedule"], _SQL["scheduled_delete"]
_NEXT = "next due"
_PROMOTE_AT_ONCE = 1000

Batch: TypeAlias = Iterable[tuple[Topic[Any], Message]]
_turn = count().__next__


def partition_for(key: str | None, partitions: int) -> int:
    """The partition of a message: its key's; messages without one take turns."""
    return _turn() % partitions if key is None else partition_of(key, partitions)


class Appender:
    """Puts messages into the log; belongs to one transport and shares its origins."""

    def __init__(self, origins: Origins) -> None:
        self._origins = origins

    def append(self, connection: Connection, batch: Batch, now_us: int) -> list[Receipt]:
        """Accept messages in order: into the log, or to the scheduled ones."""
        self.promote(connection, now_us)
        logs: dict[str, TopicLog] = {}
        rows: list[Row] = []
        receipts: list[Receipt] = []
        touched: dict[int, tuple[TopicLog, Stream]] = {}
        for topic, message in batch:
            name = topic.name
            log = logs.get(name)
            if log is None:
                log = topic_log(connection, name) or ensure_topic(connection, topic, now_us)
                logs[name] = log
                log.last_us = max(log.last_us, now_us)
            partition = partition_for(message.key, log.partitions)
            due = message.deliver_at_us
            if due is not None and due > now_us:
                receipts.append(self._schedule(connection, log, partition, message, now_us))
                continue
            priority = message.priority
            stream = log.streams.get((partition, priority)) or log.stream(
                connection, partition, priority
            )
            data = message.data
            offset = stream.next_offset
            rows.append(
                (
                    stream.id << OFFSET_BITS | offset,
                    message.id,
                    self._origins.id_of(connection, message),
                    message.key,
                    message.time_us,
                    log.last_us,
                    message.expires_at_us,
                    data,
                    envelope(message),
                )
            )
            if not stream.added:
                touched[stream.id] = (log, stream)
            stream.next_offset = offset + 1
            stream.added += 1
            stream.bytes += len(data)
            receipts.append(Receipt(Position(partition, priority << OFFSET_BITS | offset)))
        _write(connection, rows, touched)
        return receipts

    def _schedule(
        self, connection: Connection, log: TopicLog, partition: int, message: Message, now_us: int
    ) -> Receipt:
        due = message.deliver_at_us or 0
        values = (
            message.id,
            self._origins.id_of(connection, message),
            message.key,
            message.time_us,
            now_us,
            message.expires_at_us,
            message.data,
            envelope(message),
        )
        connection.execute(_SCHEDULE, (log.id, partition, message.priority, due, *values))
        known = next_due(connection)
        connection.memo[_NEXT] = due if known is None else min(known, due)
        return Receipt(recall=message.id)

    def promote(self, connection: Connection, now_us: int) -> bool:
        """Let scheduled messages that are due take their place, earliest first; False if none
        was. At most 1,000 at a time, so that the lock is not held for long."""
        due = next_due(connection)
        if due is None or due > now_us:
            return False
        found = connection.execute(_DUE, (now_us, _PROMOTE_AT_ONCE)).fetchall()
        names = {row[1]: _topic_name(connection, row[1]) for row in found}
        touched: dict[int, tuple[TopicLog, Stream]] = {}
        rows: list[Row] = []
        for number, topic_id, partition, priority, *values in found:
            log = topic_log(connection, names[topic_id])
            if log is None:
                continue
            log.last_us = max(log.last_us, now_us)
            stream = log.stream(connection, partition, priority)
            values[4] = log.last_us
            rows.append((stream.id << OFFSET_BITS | stream.next_offset, *values))
            touched[stream.id] = (log, stream)
            stream.next_offset += 1
            stream.added += 1
            stream.bytes += len(values[6])
            connection.execute(_FORGET, (number,))
        _write(connection, rows, touched)
        connection.memo.pop(_NEXT, None)
        return True


def next_due(connection: Connection) -> int | None:
    """When the next scheduled message is due; None if there is none. In a write transaction."""
    memo = connection.memo
    if _NEXT not in memo:
        memo[_NEXT] = connection.execute(_NEXT_DUE).fetchone()[0]
    due: int | None = memo[_NEXT]
    return due


def forget_next_due(connection: Connection) -> None:
    """To be called after scheduled messages were deleted."""
    connection.memo.pop(_NEXT, None)


def _topic_name(connection: Connection, topic_id: int) -> str:
    row = connection.execute(_SQL["topic_name"], (topic_id,))
    return str(row.fetchone()[0])


def _write(
    connection: Connection, rows: Sequence[Row], touched: dict[int, tuple[TopicLog, Stream]]
) -> None:
    if not rows:
        return
    connection.executemany(_APPEND, rows)
    for log, stream in touched.values():
        connection.execute(
            _ADVANCE, (stream.added, stream.added, stream.bytes, log.last_us, stream.id)
        )
        stream.added = stream.bytes = 0
