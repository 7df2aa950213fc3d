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
from postroad.transports.sql.topics import Stream, TopicLog, ensure_topic, lock_streams, topic_log

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
    """Puts messages into the log; belongs to one transport and shares its origins.

    Where others may write at the same time, the streams that a batch goes to are locked before
    their ends are read, and stay so until its commit: what is committed later stands later.
    """

    def __init__(self, origins: Origins, *, one_writer: bool) -> None:
        self._origins = origins
        self._one_writer = one_writer

    def append(self, connection: Connection, batch: Batch, now_us: int) -> list[Receipt]:
        """Accept messages in order: into the log, or to the scheduled ones."""
        if self._one_writer:
            # Elsewhere whoever reads the log lets them take their place.
            self.promote(connection, now_us)
        logs: dict[str, TopicLog] = {}
        placed: list[tuple[Message, TopicLog, int, Stream | None]] = []
        for topic, message in batch:
            name = topic.name
            log = logs.get(name)
            if log is None:
                log = topic_log(connection, name) or ensure_topic(connection, topic, now_us)
                logs[name] = log
                log.last_us = max(log.last_us, now_us)
                connection.announce(name)
            partition = partition_for(message.key, log.partitions)
            due = message.deliver_at_us
            stream = None
            if due is None or due <= now_us:
                stream = log.streams.get((partition, message.priority)) or log.stream(
                    connection, partition, message.priority
                )
            placed.append((message, log, partition, stream))
        if not self._one_writer and not self._lock(connection, logs.values(), placed):
            return self.append(connection, batch, now_us)
        return self._write_all(connection, placed, now_us)

    def _lock(
        self,
        connection: Connection,
        logs: Iterable[TopicLog],
        placed: Iterable[tuple[Message, TopicLog, int, Stream | None]],
    ) -> bool:
        """Lock the streams, in the order of their numbers; False, with nothing remembered any
        more, if a topic has other partitions than we thought."""
        streams = {entry[3].id: entry[3] for entry in placed if entry[3] is not None}
        return lock_streams(connection, logs, streams)

    def _write_all(
        self,
        connection: Connection,
        placed: Iterable[tuple[Message, TopicLog, int, Stream | None]],
        now_us: int,
    ) -> list[Receipt]:
        rows: list[Row] = []
        receipts: list[Receipt] = []
        touched: dict[int, tuple[TopicLog, Stream]] = {}
        for message, log, partition, stream in placed:
            if stream is None:
                receipts.append(self._schedule(connection, log, partition, message, now_us))
                continue
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
            priority = message.priority
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
        connection.defer(_SCHEDULE, (log.id, partition, message.priority, due, *values))
        if _NEXT in connection.memo:
            known = connection.memo[_NEXT]
            connection.memo[_NEXT] = due if known is None else min(known, due)
        return Receipt(recall=message.id)

    def promote(self, connection: Connection, now_us: int) -> bool:
        """Let scheduled messages that are due take their place, earliest first; False if none
        was. At most 1,000 at a time, so that the lock is not held for long."""
        due = self._next_due(connection)
        if due is None or due > now_us:
            return False
        connection.lock("schedule")
        found = connection.execute(_DUE, (now_us, _PROMOTE_AT_ONCE)).fetchall()
        logs: dict[int, TopicLog] = {}
        placed: list[tuple[Row, TopicLog, Stream]] = []
        for row in found:
            log = logs.get(row[1]) or topic_log(connection, _topic_name(connection, row[1]))
            if log is None:
                continue
            logs[row[1]] = log
            log.last_us = max(log.last_us, now_us)
            placed.append((row, log, log.stream(connection, row[2], row[3])))
        if not self._one_writer:
            streams = {stream.id: stream for _, _, stream in placed}
            if not lock_streams(connection, logs.values(), streams):
                return self.promote(connection, now_us)
        self._take_places(connection, placed)
        return True

    def _take_places(
        self, connection: Connection, placed: Iterable[tuple[Row, TopicLog, Stream]]
    ) -> None:
        touched: dict[int, tuple[TopicLog, Stream]] = {}
        rows: list[Row] = []
        for (number, _, _, _, *values), log, stream in placed:
            values[4] = log.last_us
            rows.append((stream.id << OFFSET_BITS | stream.next_offset, *values))
            touched[stream.id] = (log, stream)
            stream.next_offset += 1
            stream.added += 1
            stream.bytes += len(values[6])
            connection.defer(_FORGET, (number,))
        _write(connection, rows, touched)
        connection.memo.pop(_NEXT, None)

    def _next_due(self, connection: Connection) -> int | None:
        return next_due(connection) if self._one_writer else first_due(connection)


def next_due(connection: Connection) -> int | None:
    """When the next scheduled message is due; None if there is none. In a write transaction."""
    memo = connection.memo
    if _NEXT not in memo:
        memo[_NEXT] = first_due(connection)
    due: int | None = memo[_NEXT]
    return due


def first_due(connection: Connection) -> int | None:
    """As `next_due`, where others may schedule something at any time."""
    due: int | None = connection.execute(_NEXT_DUE).fetchone()[0]
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
    connection.insert_many(_APPEND, rows)
    for log, stream in touched.values():
        end = (stream.added, stream.added, stream.bytes, log.last_us, stream.id)
        connection.defer(_ADVANCE, end)
        stream.added = stream.bytes = 0
