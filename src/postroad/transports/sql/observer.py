"""Reading without a group: nothing is written, and nothing outlives the consumer."""

from __future__ import annotations

import heapq
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import count

from postroad.core.clock import duration_us
from postroad.core.delivery import Delivery, Failure, Partition, Settled, Settlement
from postroad.core.notices import Gap, Notice, NoticeQueue
from postroad.core.subscription import Subscription
from postroad.errors import ClosedError
from postroad.storage.connection import Connection
from postroad.storage.statements import load
from postroad.transports.sql import places
from postroad.transports.sql.handing import deliveries
from postroad.transports.sql.log import Listener, Log
from postroad.transports.sql.rows import OFFSET_BITS, OFFSET_MASK
from postroad.transports.sql.tokens import Chunk, Held

_LOG, _GROUPS = load("log"), load("groups")
_LONGEST = 1.0


@dataclass(slots=True)
class _Found:
    chunks: list[Chunk]
    cursors: dict[int, int]
    gaps: list[Gap]
    next_due_us: int | None


class Observer:
    """A `Consumer` without a group. Its place is in memory; a nack brings the message back in
    memory too."""

    def __init__(self, log: Log, subscription: Subscription) -> None:
        self._log = log
        self._subscription = subscription
        self._cursors: dict[int, int] = {}
        self._again: list[tuple[int, int, Delivery]] = []
        self._number = count().__next__
        self._paused: frozenset[Partition] = frozenset()
        self._fresh = True
        self._notices = NoticeQueue()
        self._listener = Listener(subscription.reads)
        self._closed = False

    async def join(self) -> None:
        """Take the place where reading starts."""
        await self._log.promoted()
        self._cursors = await self._log.read(self._places)
        self._log.listeners.add(self._listener)

    def _places(self, connection: Connection) -> dict[int, int]:
        found: dict[int, int] = {}
        for topic_id, name, _ in connection.execute(_LOG["topics"]).fetchall():
            if self._subscription.reads(name):
                ends = connection.execute(_GROUPS["ends"], (topic_id,)).fetchall()
                start = self._subscription.start
                found |= places.offsets(connection, [row[:5] for row in ends], start)
        return found

    async def receive(self, limit: int, max_bytes: int, wait: timedelta) -> Sequence[Delivery]:
        """See `Consumer.receive`. Cancelled, it has moved nothing."""
        clock = self._log.clock
        deadline = clock.monotonic() + wait.total_seconds()
        while True:
            if self._closed:
                raise ClosedError(f"the consumer of {self._subscription} was closed")
            self._listener.clear()
            again = self._due(limit)
            if again:
                return again
            await self._log.promoted()
            found = await self._log.read(lambda c: self._read(c, limit, max_bytes))
            self._cursors |= found.cursors
            for gap in found.gaps:
                self._notices.put(gap)
            self._fresh = self._fresh or bool(found.chunks)
            if found.chunks:
                return deliveries(found.chunks, self._log.origins.by_id, None, None, in_order=False)
            remaining = deadline - clock.monotonic()
            if remaining <= 0:
                return ()
            due = [item for item in (found.next_due_us, *self._again_us()) if item is not None]
            patience = (min(due) - clock.now_us()) / 1e6 if due else _LONGEST
            fresh, self._fresh = self._fresh, False
            seconds = min(remaining, patience, _LONGEST)
            await self._log.pause(self._listener.event, seconds, fresh=fresh)

    def _again_us(self) -> list[int]:
        return [self._again[0][0]] if self._again else []

    def _due(self, limit: int) -> list[Delivery]:
        now = self._log.clock.now_us()
        found: list[Delivery] = []
        while self._again and self._again[0][0] <= now and len(found) < limit:
            found.append(heapq.heappop(self._again)[2])
        return found

    def _read(self, connection: Connection, limit: int, max_bytes: int) -> _Found:
        now_us = self._log.clock.now_us()
        due = connection.execute(_LOG["next_due"]).fetchone()[0]
        found = _Found([], {}, [], due)
        for topic_id, name, _ in connection.execute(_LOG["topics"]).fetchall():
            if not self._subscription.reads(name):
                continue
            ends = connection.execute(_GROUPS["ends"], (topic_id,)).fetchall()
            for stream, partition, priority, first, after, _ in sorted(ends, key=lambda r: -r[2]):
                cursor = self._cursors.get(stream, 0)
                if cursor < first:
                    found.gaps.append(Gap(name, first - cursor))
                    found.cursors[stream] = cursor = first
                if cursor >= after or limit <= 0 or max_bytes <= 0:
                    continue
                if (name, partition) in self._paused:
                    continue
                base = stream << OFFSET_BITS
                rows = []
                args = (base + cursor, base + after, limit)
                for row in connection.execute(_LOG["read"], args):
                    cursor = (row[0] & OFFSET_MASK) + 1
                    if row[6] is not None and row[6] <= now_us:
                        continue
                    rows.append(row)
                    limit -= 1
                    max_bytes -= len(row[7])
                    if limit <= 0 or max_bytes <= 0:
                        break
                found.cursors[stream] = cursor
                if rows:
                    self._log.origins.learn(connection, rows)
                    found.chunks.append(Chunk(Held(0), name, partition, priority, rows))
        return found

    async def begin(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """Everything is its own."""
        return deliveries

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        """An ack and a reject end it, a nack brings it back to this consumer."""
        now = self._log.clock.now_us()
        for settlement in settlements:
            if settlement.action == "nack":
                due = now + duration_us(settlement.delay)
                again = _with_failure(settlement.delivery, settlement.failure)
                heapq.heappush(self._again, (due, self._number(), again))
                self._listener.tell()
        return ["done"] * len(settlements)

    async def extend(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """There is no lease."""
        return deliveries

    async def pause(self, partitions: Sequence[Partition]) -> None:
        """See `Consumer.pause`."""
        self._paused |= frozenset(partitions)

    async def resume(self, partitions: Sequence[Partition]) -> None:
        """See `Consumer.resume`."""
        self._paused -= frozenset(partitions)
        self._listener.tell()

    async def release(self, partitions: Sequence[Partition]) -> None:
        """Nothing is ever revoked."""

    def notices(self) -> AsyncIterator[Notice]:
        """See `Consumer.notices`."""
        return aiter(self._notices)

    async def close(self) -> None:
        """Forget everything. Idempotent."""
        self._closed = True
        self._log.listeners.discard(self._listener)
        self._notices.close()
        self._listener.tell()


def _with_failure(delivery: Delivery, failure: Failure | None) -> Delivery:
    return Delivery(
        message=delivery.message,
        topic=delivery.topic,
        partition=delivery.partition,
        offset=delivery.offset,
        deliveries=(delivery.deliveries or 0) + 1,
        starts=0,
        attempts=delivery.attempts + (failure is not None),
        failures=delivery.failures if failure is None else (*delivery.failures, failure),
        token=delivery.token,
    )
