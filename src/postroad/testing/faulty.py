"""A memory road that writes down what it accepts, and repeats, reorders and crashes on demand."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from postroad.core.capabilities import Capabilities
from postroad.core.clock import Clock
from postroad.core.delivery import Delivery, Partition, Receipt, Settled, Settlement
from postroad.core.message import Message
from postroad.core.notices import Lost, Notice, NoticeQueue
from postroad.core.subscription import Subscription
from postroad.core.topic import Topic
from postroad.core.transport import Plan
from postroad.errors import ClosedError, LeaseLostError
from postroad.storage.sqlite.errors import mapped
from postroad.transports.memory import MemoryTransport
from postroad.transports.memory.consumer import MemoryConsumer

R = TypeVar("R")
_DATABASE = Path("the test's database")
Entries = Sequence[tuple[Topic[Any], Message]]


@dataclass
class Faults:
    """What is to go wrong.

    Attributes:
        repeats: (topic, group) → how often its next message comes again.
        repeating: (group, message id) → how often it still comes again.
        shuffles: topic → the generator that reorders what arrives on it.
        crashes: groups whose consumer dies before it settles again.
    """

    repeats: dict[tuple[str, str], int] = field(default_factory=dict)
    repeating: dict[tuple[str, str], int] = field(default_factory=dict)
    shuffles: dict[str, random.Random] = field(default_factory=dict)
    crashes: set[str] = field(default_factory=set)


class FaultyTransport(MemoryTransport):
    """`memory://` with a memory of what was published, with faults, and with a database for
    `tx`. It is new and empty, so that every start of a group is the same place: history and
    retention by age or size are granted, and nothing depends on them."""

    capabilities: Capabilities = replace(
        MemoryTransport.capabilities,
        history=True,
        transactions=True,
        retention=frozenset({"age", "size", "consumed"}),
    )

    def __init__(self, clock: Clock) -> None:
        super().__init__("memory://?capacity=1000000", clock=clock)
        self.clock = clock
        self.accepted: list[tuple[str, Message]] = []
        self.faults = Faults()
        self.database = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self.turn = asyncio.Lock()

    async def publish(self, messages: Entries) -> Sequence[Receipt]:
        receipts = await super().publish(messages)
        self.record(messages)
        return receipts

    async def publish_once(self, token: str, messages: Entries) -> bool:
        fresh = await super().publish_once(token, messages)
        if fresh:
            self.record(messages)
        return fresh

    def record(self, messages: Entries) -> None:
        """Write down what was accepted."""
        self.accepted.extend((topic.name, message) for topic, message in messages)

    async def subscribe(  # type: ignore[override]  # wraps the memory road's own consumer
        self, subscription: Subscription, plan: Plan
    ) -> FaultyConsumer:
        async def join() -> MemoryConsumer:
            return await MemoryTransport.subscribe(self, subscription, plan)

        return FaultyConsumer(self, subscription, await join(), join)


class FaultyConsumer:
    """A consumer that suffers its road's faults. After a crash it is a new process: what the old
    one held is silent until its lease is over."""

    settles = True

    def __init__(
        self,
        road: FaultyTransport,
        subscription: Subscription,
        inner: MemoryConsumer,
        join: Callable[[], Any],
    ) -> None:
        self._road = road
        self._faults = road.faults
        self._subscription = subscription
        self._join = join
        self._dead: list[MemoryConsumer] = []
        self._homes: dict[tuple[str, int | None], tuple[MemoryConsumer, Partition]] = {}
        self._receiving: asyncio.Future[Sequence[Delivery]] | None = None
        self._notices = NoticeQueue()
        self._enter(inner)

    def _enter(self, inner: MemoryConsumer) -> None:
        self._inner = inner
        self._pump = asyncio.ensure_future(self._pass_on(inner))

    async def _pass_on(self, inner: MemoryConsumer) -> None:
        async for notice in inner.notices():
            self._notices.put(notice)

    # --- receiving -----------------------------------------------------------------------------

    async def receive(self, limit: int, max_bytes: int, wait: timedelta) -> Sequence[Delivery]:
        """See `Consumer.receive`."""
        while True:
            inner = self._inner
            receiving = asyncio.ensure_future(inner.receive(limit, max_bytes, wait))
            self._receiving = receiving
            try:
                await asyncio.wait({receiving})
            except asyncio.CancelledError:
                receiving.cancel()
                await asyncio.gather(receiving, return_exceptions=True)
                raise
            if receiving.cancelled():  # by a crash
                continue
            batch = self._shuffled(receiving.result())
            for delivery in batch:
                self._homes[_place(delivery)] = inner, (delivery.topic, delivery.partition)
            return batch

    def _shuffled(self, batch: Sequence[Delivery]) -> Sequence[Delivery]:
        rng = next(
            (self._faults.shuffles[d.topic] for d in batch if d.topic in self._faults.shuffles),
            None,
        )
        if rng is None or self._subscription.order == "total":
            return batch
        mixed = list(batch)
        rng.shuffle(mixed)
        if self._subscription.order == "none":
            return mixed
        # Each key keeps its order: its messages go, one after another, where any of them fell.
        queues: dict[str | None, list[Delivery]] = {}
        for delivery in batch:
            queues.setdefault(delivery.message.key, []).append(delivery)
        return [queues[delivery.message.key].pop(0) for delivery in mixed]

    async def begin(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """See `Consumer.begin`."""
        return await self._inner.begin([d for d in deliveries if self._ours(d)])

    async def extend(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """See `Consumer.extend`."""
        return await self._inner.extend([d for d in deliveries if self._ours(d)])

    def _ours(self, delivery: Delivery) -> bool:
        home = self._homes.get(_place(delivery))
        return home is not None and home[0] is self._inner

    # --- settling ------------------------------------------------------------------------------

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        """See `Consumer.settle`."""
        if self._subscription.group in self._faults.crashes:
            await self._crash()
        answers: list[Settled] = []
        for settlement in settlements:
            if not self._ours(settlement.delivery):
                answers.append("stale")
            elif self._is_to_repeat(settlement):
                await self._inner.settle([Settlement(settlement.delivery, "nack")])
                answers.append("stale")
            else:
                answers.extend(await self._inner.settle([settlement]))
        return answers

    async def settle_and_publish(
        self, settlements: Sequence[Settlement], messages: Entries
    ) -> Sequence[Settled]:
        """See `AtomicSettle`."""
        if self._subscription.group in self._faults.crashes:
            await self._crash()
        repeated = [s for s in settlements if self._ours(s.delivery) and self._is_to_repeat(s)]
        await self._inner.settle([Settlement(s.delivery, "nack") for s in repeated])
        if repeated or not all(self._ours(s.delivery) for s in settlements):
            return [
                "unknown" if self._ours(s.delivery) and s not in repeated else "stale"
                for s in settlements
            ]
        answers = await self._inner.settle_and_publish(settlements, messages)
        if "stale" not in answers:
            self._road.record(messages)
        return answers

    def _is_to_repeat(self, settlement: Settlement) -> bool:
        """Whether the answer is to get lost, so that the message comes again."""
        delivery, faults = settlement.delivery, self._faults
        if delivery.group is None or settlement.action != "ack":
            return False
        mine = (delivery.group, delivery.message.id)
        times = faults.repeats.pop((delivery.topic, delivery.group), 0)
        left = faults.repeating.pop(mine, 0) + times
        if left > 1:
            faults.repeating[mine] = left - 1
        return left > 0

    async def _crash(self) -> None:
        """Fall silent, and come back as another consumer of the same group."""
        self._faults.crashes.discard(self._subscription.group or "")
        before = self._inner
        self._dead.append(before)
        self._pump.cancel()
        held = {partition for home, partition in self._homes.values() if home is before}
        self._enter(await self._join())
        if self._receiving is not None:
            self._receiving.cancel()
        # The engine forgets what the dead process had in hand.
        self._notices.put(Lost(sorted(held)))

    # --- a handler's transaction ---------------------------------------------------------------

    @asynccontextmanager
    async def transaction(self, delivery: Delivery, source: str) -> AsyncIterator[_Transaction]:
        """See `SqlLog.transaction`."""
        async with self._road.turn:
            connection = self._road.database
            connection.execute("BEGIN")
            try:
                tx = _Transaction(self._road, source)
                yield tx
                tx.over = True
                answer = await self.settle_and_publish([Settlement(delivery)], tx.outbox)
                if answer[0] != "done":
                    raise LeaseLostError(f"{delivery.message!r} is not this consumer's any more")
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    # --- partitions, notices, end --------------------------------------------------------------

    async def pause(self, partitions: Sequence[Partition]) -> None:
        """See `Consumer.pause`."""
        await self._inner.pause(partitions)

    async def resume(self, partitions: Sequence[Partition]) -> None:
        """See `Consumer.resume`."""
        await self._inner.resume(partitions)

    async def release(self, partitions: Sequence[Partition]) -> None:
        """See `Consumer.release`."""
        await self._inner.release(partitions)

    def notices(self) -> AsyncIterator[Notice]:
        """See `Consumer.notices`."""
        return aiter(self._notices)

    async def close(self) -> None:
        """See `Consumer.close`."""
        self._pump.cancel()
        self._notices.close()
        for consumer in (*self._dead, self._inner):
            await consumer.close()


class _Transaction:
    """Implements `Transaction` on the test's database."""

    def __init__(self, road: FaultyTransport, source: str) -> None:
        self.outbox: list[tuple[Topic[Any], Message]] = []
        self.over = False
        self._road = road
        self._source = source

    async def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        return self._run(lambda database: database.execute(sql, parameters).rowcount)

    async def execute_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> int:
        return self._run(lambda database: database.executemany(sql, rows).rowcount)

    async def fetch(self, sql: str, parameters: Sequence[Any] = ()) -> Sequence[tuple[Any, ...]]:
        return self._run(lambda database: database.execute(sql, parameters).fetchall())

    async def publish(self, topic: Topic[Any], payload: Any) -> None:
        self._check()
        message = (
            payload
            if isinstance(payload, Message)
            else topic.envelope(payload, self._road.clock.now_us(), self._source)
        )
        self.outbox.append((topic, message))

    def _run(self, function: Callable[[sqlite3.Connection], R]) -> R:
        self._check()
        try:
            return function(self._road.database)
        except sqlite3.Error as error:
            raise mapped(error, _DATABASE) from error

    def _check(self) -> None:
        if self.over:
            raise ClosedError("the handler's transaction is over; its `tx` cannot be kept")


def _place(delivery: Delivery) -> tuple[str, int | None]:
    return delivery.topic, delivery.fence
