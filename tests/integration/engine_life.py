"""The engine as a model test drives it: processes that can be killed, in virtual time.

A process is an app of its own on the shared road. When it is killed, nothing more of what it does
reaches the road, and its handlers see no more messages.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

from postroad.app import Postroad
from postroad.core.clock import Clock
from postroad.core.delivery import Delivery, Partition, Settled, Settlement
from postroad.core.notices import Lost, Notice
from postroad.core.subscription import Subscription
from postroad.core.transport import Consumer, Plan
from postroad.errors import ClosedError
from postroad.storage.sqlite.watcher import Watcher
from postroad.storage.transactions import Transactions
from postroad.storage.worker import Worker
from postroad.testing.clock import VirtualClock
from postroad.transports.memory import MemoryTransport
from postroad.transports.sql import SqlTransport
from tests.integration.sqlite_life import doom, vanish

T = TypeVar("T")
DRAIN = timedelta(seconds=2)
Fuse: TypeAlias = Literal["before", "after"]
"""A process dies as it settles: before that is committed, or after, without knowing."""


class Watch(Protocol):
    """Who is told what a process did to the road, and what became of it."""

    def settling(self, settlement: Settlement) -> None: ...

    def settled(self, settlement: Settlement) -> None: ...

    def given_up(self, delivery: Delivery) -> None: ...


@dataclass(eq=False)
class Process:
    """One consumer's process: its app, and what it has in hand."""

    app: Postroad
    watch: Watch
    alive: bool = True
    poisoned: bool = False
    fuse: Fuse | None = None
    hand: dict[int, Delivery] = field(default_factory=dict)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    consumers: list[Any] = field(default_factory=list)

    async def start(self) -> None:
        """Begin to consume."""
        await self.app.open()
        self.task = asyncio.create_task(self.app.run(stop=self.stop, drain=DRAIN))

    def kill(self) -> None:
        """Die at once."""
        if self.alive:
            self.alive = False
            if isinstance(road := self.app._transport, SqlTransport):
                doom(road, 0)
            if self.task is not None:
                self.task.cancel()

    async def bury(self) -> None:
        """Clean up after one that was killed."""
        assert self.task is not None
        while not self.task.done():
            # Cancelled once, it drains, for as long as time stands still.
            self.task.cancel()
            await asyncio.wait([self.task], timeout=0.005)
        await asyncio.gather(self.task, return_exceptions=True)
        assert self.app._watching is not None
        self.app._watching.cancel()
        if isinstance(road := self.app._transport, SqlTransport):
            await vanish(road)

    async def end(self, clock: VirtualClock) -> None:
        """Stop with a drain, unless it dies of it."""
        assert self.task is not None
        self.stop.set()
        while self.alive and not self.task.done():
            await clock.advance(DRAIN / 2)
        if self.alive:
            self.task.result()
            await self.app.close()


class Mortal:
    """A `Consumer` that belongs to a process, and dies with it."""

    def __init__(self, inner: Consumer, process: Process) -> None:
        self._inner = inner
        self._process = process

    def _living(self) -> Process:
        if not self._process.alive:
            raise ClosedError("killed")
        return self._process

    async def _do(self, call: Awaitable[T]) -> T:
        result = await call
        self._living()
        return result

    async def receive(self, limit: int, max_bytes: int, wait: timedelta) -> Sequence[Delivery]:
        hand = self._living().hand
        batch = await self._do(self._inner.receive(limit, max_bytes, wait))
        hand.update((id(delivery), delivery) for delivery in batch)
        return batch

    async def begin(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        self._living()
        return await self._do(self._inner.begin(deliveries))

    async def extend(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        self._living()
        return await self._do(self._inner.extend(deliveries))

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        process = self._living()
        for settlement in settlements:
            process.watch.settling(settlement)
        if process.fuse == "before":
            process.kill()
        self._living()
        # What is committed is noted, also if the process dies before it hears of that.
        settling = asyncio.ensure_future(self._settled(settlements))
        settling.add_done_callback(lambda done: done.cancelled() or done.exception())
        answers = await asyncio.shield(settling)
        if process.fuse == "after":
            process.kill()
        self._living()
        return answers

    async def _settled(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        process, answers = self._process, await self._inner.settle(settlements)
        for settlement, answer in zip(settlements, answers, strict=True):
            process.hand.pop(id(settlement.delivery), None)
            if answer == "done":
                process.watch.settled(settlement)
        return answers

    async def pause(self, partitions: Sequence[Partition]) -> None:
        await self._inner.pause(partitions)

    async def resume(self, partitions: Sequence[Partition]) -> None:
        await self._inner.resume(partitions)

    async def release(self, partitions: Sequence[Partition]) -> None:
        self._give_up(partitions)
        await self._do(self._inner.release(partitions))

    async def notices(self) -> AsyncIterator[Notice]:
        async for notice in self._inner.notices():
            if isinstance(notice, Lost):
                self._give_up(notice.partitions)
            yield notice

    def _give_up(self, partitions: Sequence[Partition]) -> None:
        process = self._living()
        for delivery in process.hand.values():
            if (delivery.topic, delivery.partition) in partitions:
                process.watch.given_up(delivery)

    async def close(self) -> None:
        if self._process.alive:
            await self._inner.close()


class IdleClock(VirtualClock):
    """Time moves only when the databases' threads have nothing to do either, and what one
    process commits is noticed by the others in the same instant."""

    def __init__(self) -> None:
        super().__init__()
        self._roads: list[SqlTransport] = []
        self._pending = 0

    def watch(self, road: SqlTransport) -> None:
        """Count what its database is asked to do."""
        database = road._log.database
        watcher = database.watcher
        assert isinstance(watcher, Watcher)
        watcher._changed = lambda topics: None
        self._roads.append(road)
        for worker in (database._reader, database._scanner, database.writer):
            self._count(worker, "submit")
        self._count_posts(database.writer)
        self._count_made(database.transactions)

    def _count_made(self, transactions: Transactions) -> None:
        original = transactions._made

        def made() -> Worker:
            worker = original()
            self._count(worker, "submit")
            return worker

        transactions._made = made  # type: ignore[method-assign]

    def _count(self, worker: Any, name: str) -> None:
        original = getattr(worker, name)

        def counted(*args: Any, **named: Any) -> Any:
            future = original(*args, **named)
            self._pending += 1
            future.add_done_callback(self._done)
            return future

        setattr(worker, name, counted)

    def _count_posts(self, writer: Any) -> None:
        original = writer.post

        def counted(operation: Any, completion: Any) -> None:
            self._pending += 1
            original(operation, _Counted(completion, self))

        writer.post = counted

    def _done(self, *_: Any) -> None:
        self._pending -= 1

    async def settle(self) -> None:
        """See `VirtualClock.settle`."""
        before = -1
        for _ in range(4):
            await super().settle()
            while self._pending:
                await asyncio.sleep(0.0001)
                await super().settle()
            self._roads = [road for road in self._roads if road._log._database is not None]
            commits = sum(road.commits for road in self._roads)
            if len(self._roads) < 2 or commits == before:
                return
            before = commits
            for road in self._roads:
                road._log.wake()


class _Counted:
    """A writer's completion, counted."""

    def __init__(self, inner: Any, clock: IdleClock) -> None:
        self._inner = inner
        self._clock = clock

    def done(self) -> bool:
        return bool(self._inner.done())

    def set_result(self, result: Any, /) -> None:
        self._clock._done()
        self._inner.set_result(result)

    def set_exception(self, exception: Exception, /) -> None:
        self._clock._done()
        self._inner.set_exception(exception)


def on_sqlite(url: str, clock: IdleClock, process: list[Process]) -> SqlTransport:
    """An instance for one process, which is named later."""

    class Road(SqlTransport):
        async def open(self, *args: Any) -> None:
            first = self._keeper is None
            await super().open(*args)
            if first:
                clock.watch(self)

        async def subscribe(self, subscription: Subscription, plan: Plan) -> Consumer:
            return Mortal(await super().subscribe(subscription, plan), process[0])

    return Road(url, clock=clock)


def on_memory(shared: MemoryTransport, process: list[Process]) -> MemoryTransport:
    """The shared road as one process sees it; closing it closes nothing."""

    class Road(MemoryTransport):
        async def subscribe(  # type: ignore[override]
            self, subscription: Subscription, plan: Plan
        ) -> Mortal:
            inner = await MemoryTransport.subscribe(self, subscription, plan)
            return Mortal(inner, process[0])

        async def close(self) -> None:
            pass

    road = Road.__new__(Road)
    road.__dict__ = shared.__dict__
    return road


def app_on(road: Any, clock: Clock) -> Postroad:
    """An app without declarations on a ready transport."""
    app = Postroad("memory://", clock=clock, name="model")
    app._transport = road
    return app
