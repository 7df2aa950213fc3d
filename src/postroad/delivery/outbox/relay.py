"""The relay: what was committed to an outbox is published, and marked."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from postroad.core.clock import SystemClock
from postroad.core.topic import Topic
from postroad.delivery.outbox import parking, reading
from postroad.delivery.outbox.cleaning import clean
from postroad.delivery.outbox.horizon import Horizon
from postroad.delivery.outbox.reading import OutboxDepth
from postroad.delivery.outbox.rows import Record, message_from
from postroad.delivery.outbox.sending import Entry, Poison, Publish, Sender, Sent
from postroad.delivery.outbox.settings import (
    USUAL,
    RelayFigures,
    RelayHooks,
    RelaySettings,
)
from postroad.delivery.outbox.sharing import Membership, Share, scope_of
from postroad.delivery.outbox.sql import NEWS, sql_of
from postroad.delivery.outbox.table import OWN, OutboxTable
from postroad.errors import PostroadError
from postroad.storage.connection import Connection
from postroad.storage.database import Database

R = TypeVar("R")

_FIRST_LOOK = 0.05
"""Seconds until the first look after there was nothing, where nothing is told."""
_NOBODY = Share((), (), 0)


class _GivenUp(Exception):
    """What is in hand is no longer this relay's, or it is to stop."""


class _Batch:
    """Rows that were read.

    Attributes:
        poisoned: aggregates with poison, when they were read.
        whole: they are the first of all that wait.
        full: there may be more.
        turn: how often this relay had to begin anew before.
        parkings: how often it had parked before.
    """

    def __init__(self, turn: int, parkings: int) -> None:
        self.records: list[Record] = []
        self.poisoned: frozenset[str] = frozenset()
        self.whole = True
        self.full = False
        self.turn = turn
        self.parkings = parkings


class Relay:
    """Publishes what waits in an outbox, in the order in which it was added for each aggregate.

    Several relays, in any processes on any hosts, share the work by slices of aggregates; one that
    is gone is replaced when its lease is over. Nothing is lost: a row is marked only after the
    road accepted its message. A relay that dies in between repeats what it had not marked, two
    batches at the most.

    Belongs to the event loop of its database, whose `changed` is to be wired to `wake`, and runs
    once.

    Args:
        publish: the road, see `Publish`.
        topics: by name; a row whose topic is not among them is poison.
        source: CloudEvents `source` of rows that have none.
    """

    def __init__(
        self,
        database: Database,
        publish: Publish,
        topics: Mapping[str, Topic[Any]],
        *,
        table: OutboxTable = OWN,
        settings: RelaySettings = USUAL,
        hooks: RelayHooks | None = None,
        source: str = "outbox",
    ) -> None:
        self.figures = RelayFigures()
        self._database = database
        self._topics = topics
        self._table = table
        self._sql = sql_of(table)
        self._settings = settings
        self._hooks = hooks or RelayHooks()
        self._source = source
        self._clock = database.place.clock or SystemClock()
        self._sender = Sender(publish, settings, self._hooks, self._pause)
        lease_us = settings.lease // timedelta(microseconds=1)
        self._member = Membership(table.name, table.slices, lease_us, self._clock)
        self._share = _NOBODY
        self._lease_until = 0.0
        self._turn = 0
        self._parkings = 0
        self._fresh: set[str] = set()
        self._poisoned: frozenset[str] = frozenset()
        self._horizon = Horizon()
        self._size = settings.batch
        self._in_flight: set[Any] = set()
        self._to_mark: set[Any] = set()
        self._marking: asyncio.Task[None] | None = None
        self._ahead: asyncio.Task[_Batch] | None = None
        self._woken = asyncio.Event()
        self._stopping = asyncio.Event()
        self._running: asyncio.Task[Any] | None = None

    def wake(self, topics: frozenset[str] | None = None) -> None:
        """Look now: somebody has committed something, on these topics or anywhere."""
        if topics is None or NEWS in topics:
            self._woken.set()

    async def run(self) -> None:
        """Publish until `close`. The road and the database may be down for any time meanwhile.

        Raises:
            StorageError: one that waiting does not cure, such as a missing table.
            ClosedError: the road or the database was closed.
        """
        await self._at_work(once=False)

    async def drain(self) -> None:
        """Publish what waits in this relay's part, and return when there is nothing left. Raises as
        `run` does."""
        await self._at_work(once=True)

    async def close(self) -> None:
        """Finish the batch in hand, mark it, leave the rest to others. A batch that waits for a
        road that is down is left. Idempotent."""
        self._stopping.set()
        self._woken.set()
        if self._running is not None:
            await asyncio.wait({self._running})

    async def depth(self) -> OutboxDepth:
        """How much waits in the whole outbox, and since when."""
        return await self._database.scan(lambda c: reading.depth(c, self._sql, self._clock))

    # ------------------------------------------------ being at work

    async def _at_work(self, *, once: bool) -> None:
        self._running = asyncio.current_task()
        beside: list[asyncio.Task[None]] = []
        try:
            await self._patiently(self._renew)
            beside += [asyncio.create_task(self._beat()), asyncio.create_task(self._clean())]
            await self._beside(beside, asyncio.create_task(self._work(once)))
        except _GivenUp:
            pass
        finally:
            try:
                await self._end(beside)
            finally:
                self._running = None

    async def _beside(self, beside: list[asyncio.Task[None]], working: asyncio.Task[None]) -> None:
        """Until the work is done, or something beside it has failed."""
        tasks = {working, *beside}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            working.cancel()
            await asyncio.wait({working})
        for task in tasks:
            if task.done() and not task.cancelled():
                task.result()

    async def _end(self, beside: list[asyncio.Task[None]]) -> None:
        ahead, self._ahead = self._ahead, None
        marking, self._marking = self._marking, None
        for task in (*beside, *([] if ahead is None else [ahead])):
            task.cancel()
        left = [task for task in (ahead, marking) if task is not None]
        await asyncio.gather(*beside, *left, return_exceptions=True)
        self._in_flight.clear()
        self._share = _NOBODY
        try:
            await self._write(self._member.leave)
        except PostroadError:
            pass  # the lease ends by itself

    async def _work(self, once: bool) -> None:
        look = _FIRST_LOOK
        while not self._stopping.is_set():
            if self._share.surplus:
                await self._hand_over()
            batch = await self._next()
            if batch.records:
                look = _FIRST_LOOK
                if batch.full:
                    self._ahead = asyncio.create_task(self._read())
                await self._deliver(batch)
                continue
            await self._marked()
            if once and batch.whole:
                return
            if once:
                self._horizon.reset()
                continue
            look = await self._idle(look)
        await self._marked()

    async def _idle(self, look: float) -> float:
        """Wait for news, or until it is time to look; returns how long to wait the next time."""
        self._database.watcher.enter()
        try:
            async with asyncio.timeout(random.uniform(look / 2, look)):
                await self._woken.wait()
        except TimeoutError:
            return min(look * 2, self._settings.idle.total_seconds())
        finally:
            self._woken.clear()
            self._database.watcher.leave()
        return _FIRST_LOOK

    async def _pause(self, seconds: float) -> None:
        """Between two tries."""
        await self._wait(seconds)
        if not self._is_owner():
            raise _GivenUp

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return
        raise _GivenUp

    async def _patiently(self, call: Callable[[], Awaitable[R]]) -> R:
        """What the database is asked for, as soon as it can be reached."""
        wait = self._settings.first_wait.total_seconds()
        while True:
            try:
                return await call()
            except PostroadError as error:
                if not error.transient:
                    raise
                self._hooks.waiting(error, wait)
            await self._wait(random.uniform(wait / 2, wait))
            wait = min(wait * 2, self._settings.longest_wait.total_seconds())

    def _write(self, operation: Callable[[Connection], R]) -> Awaitable[R]:
        """With the lock under which relays agree. A power cut may undo it; a lease that comes back
        to life so is over soon."""
        return self._database.write(operation, scope=scope_of(self._table.name), durable=False)

    # ------------------------------------------------ sharing

    def _is_owner(self) -> bool:
        return time.monotonic() < self._lease_until

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._settings.lease.total_seconds() / 3)
            await self._patiently(self._renew)

    async def _renew(self) -> None:
        began = time.monotonic()
        share = await self._write(self._member.renew)
        before = set(self._share.slices)
        if set(share.slices) - before:
            self._woken.set()
        if set(share.slices) != before or began >= self._lease_until:
            self._begin_anew()  # others may have had some meanwhile
        self._share = share
        self._lease_until = began + self._settings.lease.total_seconds()

    def _begin_anew(self) -> None:
        """What was read before is not to be published."""
        self._turn += 1
        self._horizon.reset()

    async def _hand_over(self) -> None:
        """Others wait for a part of this one's."""
        surplus = self._share.surplus
        if self._ahead is not None:
            await self._deliver(await self._next())
        await self._marked()
        await self._patiently(lambda: self._write(lambda c: self._member.hand_over(c, surplus)))
        await self._patiently(self._renew)

    # ------------------------------------------------ reading

    async def _next(self) -> _Batch:
        ahead, self._ahead = self._ahead, None
        return await (ahead if ahead is not None else self._read())

    async def _read(self) -> _Batch:
        slices = self._share.slices
        batch = _Batch(self._turn, self._parkings)
        if not slices:
            return batch
        some = None if len(slices) == self._table.slices else slices
        # Taken before the read begins: what is marked while it goes on was in here.
        excluded = set(self._in_flight)
        numbered = self._table.number is not None
        began = time.monotonic()
        start = self._horizon.start(began)
        limit = self._size + (
            sum(1 for row in excluded if row > start) if numbered else len(excluded)
        )
        rows = await self._patiently(
            lambda: self._database.read(lambda c: reading.read(c, self._sql, start, some, limit))
        )
        records = [record for record in rows.records if record.row not in excluded]
        batch.whole = start == 0 or not numbered
        batch.full = len(rows.records) >= limit
        batch.records = records[: self._settings.largest]
        batch.poisoned = rows.poisoned
        self._size = (
            min(self._size * 2, self._settings.largest) if batch.full else self._settings.batch
        )
        if numbered and batch.turn == self._turn:
            kept = batch.records if len(records) > len(batch.records) else rows.records
            self._horizon.read(
                start, began, time.monotonic(), kept[-1].row if kept else None, batch.full
            )
        if self._let_go(batch):
            return await self._read()
        self._in_flight.update(record.row for record in batch.records)
        return batch

    def _let_go(self, batch: _Batch) -> bool:
        """Whether poison was let go since the last read: its rows, and those that waited behind it,
        have lower numbers than what was just read."""
        gone = self._poisoned - batch.poisoned
        self._poisoned = batch.poisoned
        if gone and self._settings.on_poison == "park-key":
            self._horizon.reset()
            return True
        return False

    # ------------------------------------------------ publishing

    async def _deliver(self, batch: _Batch) -> None:
        try:
            for wave in self._waves(await self._unblocked(batch)):
                if not self._is_owner() or batch.turn != self._turn:
                    return
                await self._publish(wave)
        except _GivenUp:
            if self._stopping.is_set():
                raise
        finally:
            self._let_be(batch)

    async def _publish(self, wave: list[Record]) -> None:
        sent = Sent()
        try:
            entries = self._entries(wave, sent)
            if entries:
                await self._sender.send(entries, sent)
        finally:
            # Also when the rest is given up: what the road has accepted is marked.
            await self._account(sent)

    def _let_be(self, batch: _Batch) -> None:
        """What is neither published nor parked is to be read again, in its place."""
        left = {record.row for record in batch.records} & self._in_flight - self._to_mark
        if left:
            self._in_flight -= left
            self._begin_anew()

    async def _account(self, sent: Sent) -> None:
        if sent.published:
            self.figures.published += len(sent.published)
            self._hooks.published(len(sent.published))
            await self._mark_behind([record.row for record in sent.published])
        if sent.poison:
            await self._park(sent.poison)

    def _entries(self, records: Iterable[Record], sent: Sent) -> list[Entry]:
        entries = []
        topics, source = self._topics, self._source
        for record in records:
            topic = topics.get(record.routed_by)
            if topic is None:
                detail = f"no topic {str(record.routed_by)[:200]!r} is declared"
                sent.poison.append(Poison(record, "undeclared", detail))
                continue
            try:
                entries.append(Entry(record, topic, message_from(record, source)))
            except Exception as error:  # noqa: BLE001 - others may write to the table, anything
                reason = parking.reason_of(error) or "unreadable"
                sent.poison.append(Poison(record, reason, parking.detail_of(error)))
        return entries

    def _waves(self, records: Sequence[Record]) -> Iterable[list[Record]]:
        """What goes out together. Where poison parks its aggregate, no two of one do: a road may
        refuse one message of a call and take the next one."""
        if self._settings.on_poison == "continue":
            if records:
                yield list(records)
            return
        left = list(records)
        while left:
            wave: list[Record] = []
            later: list[Record] = []
            seen: set[str] = set()
            for record in left:
                if record.key in seen:
                    later.append(record)
                else:
                    wave.append(record)
                    if record.key is not None:
                        seen.add(record.key)
            yield wave
            left = [record for record in later if record.key not in self._fresh]

    # ------------------------------------------------ parking

    async def _unblocked(self, batch: _Batch) -> Sequence[Record]:
        """Without the rows of aggregates that wait behind poison, which are parked now."""
        if self._settings.on_poison == "continue":
            return batch.records
        if batch.parkings == self._parkings:
            self._fresh.clear()  # what was read knows it
        blocked = batch.poisoned | self._fresh
        behind = [record for record in batch.records if record.key in blocked]
        if not behind:
            return batch.records
        now_us, outbox = self._clock.now_us(), self._table.name
        parked = await self._patiently(
            lambda: self._write(lambda c: parking.park_behind(c, outbox, behind, now_us))
        )
        self._in_flight.difference_update(parked)
        return [record for record in batch.records if record.key not in blocked]

    async def _park(self, poison: list[Poison]) -> None:
        now_us, outbox = self._clock.now_us(), self._table.name
        rows = [parking.parked(one.record, True, one.reason, one.detail, now_us) for one in poison]
        await self._patiently(lambda: self._write(lambda c: parking.park(c, outbox, rows)))
        self._in_flight.difference_update(one.record.row for one in poison)
        self._parkings += 1
        keys = {row.key for row in rows if row.key}
        self._fresh |= keys
        self._poisoned |= keys
        self.figures.parked += len(rows)
        for row in rows:
            self._hooks.parked(row)

    # ------------------------------------------------ marking

    async def _mark_behind(self, rows: list[Any]) -> None:
        """Mark while the next batch is published; never more than one batch behind."""
        await self._marked()
        self._to_mark.update(rows)
        self._marking = asyncio.create_task(self._mark(rows))

    async def _marked(self) -> None:
        marking, self._marking = self._marking, None
        if marking is not None:
            await marking

    async def _mark(self, rows: list[Any]) -> None:
        now_us, at_once = self._clock.now_us(), not self._settings.retention

        def mark(connection: Connection) -> int:
            if at_once:
                return reading.delete(connection, self._sql, rows)
            return reading.mark(connection, self._sql, rows, now_us)

        def call() -> Awaitable[int]:
            return self._database.write(mark, durable=False)

        try:
            marked = await self._patiently(call)
        except _GivenUp:
            marked = await call()  # even when it is to stop: every mark spares a duplicate
        self.figures.duplicates += len(rows) - marked
        self._to_mark.difference_update(rows)
        self._in_flight.difference_update(rows)

    # ------------------------------------------------ retention

    async def _clean(self) -> None:
        """Delete what was published long ago; one relay of all does it."""
        keep, every = self._settings.retention, self._settings.cleanup.total_seconds()
        while True:
            if 0 in self._share.slices and keep:
                self.figures.deleted += await self._patiently(
                    lambda: clean(self._database, self._sql, keep, self._clock)
                )
            await asyncio.sleep(random.uniform(every / 2, every))
