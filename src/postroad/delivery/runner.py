"""The runner: receive a batch, begin, lanes, handler, settle a batch; for one subscription.

What runs side by side: one task that receives, `concurrency` workers that take from the lanes,
one that settles, one that renews leases, one that reads notices. No task is made per message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from postroad.core.clock import Clock
from postroad.core.contract import Contract
from postroad.core.delivery import Delivery, Failure, Outcome, Partition, Settlement
from postroad.core.filters import split
from postroad.core.hooks import Hooks
from postroad.core.message import Message
from postroad.core.notices import Lost, Notice, Revoking
from postroad.core.subscription import Subscription
from postroad.core.topic import Topic
from postroad.core.transport import Consumer, Source, SqlLog, Transport
from postroad.delivery.execution import Answer, Decode, Executor, Held, Rules, Verdict
from postroad.delivery.handler import Handler
from postroad.delivery.lanes import Lanes
from postroad.delivery.patience import patiently
from postroad.delivery.prefix import Prefix
from postroad.delivery.settler import Settler
from postroad.delivery.window import Window
from postroad.errors import StorageError, TransportError

_POLL = timedelta(seconds=1)
_TURN = 64
"""Messages that a worker handles before it lets the event loop breathe."""


@dataclass(frozen=True)
class Work:
    """One subscription, ready to run.

    Attributes:
        contract: what `check` agreed to.
        decode_for: topic name → how to decode its payloads for this handler.
        max_payload: topic name → the largest payload taken, in bytes.
        publish: publishes handler results.
        source: CloudEvents `source` of them.
    """

    subscription: Subscription
    contract: Contract
    handler: Handler
    decode_for: Callable[[str], Decode]
    max_payload: Callable[[str], int | None]
    publish: Callable[[list[tuple[Topic[Any], Message]]], Any]
    source: str


class Runner:
    """Runs one subscription on one consumer until told to stop."""

    def __init__(self, work: Work, transport: Transport, hooks: Hooks, clock: Clock) -> None:
        sub = work.subscription
        self._work = work
        self._sub = sub
        self._transport = transport
        self._hooks = hooks
        self._clock = clock
        # Settled before the handler: at most once, and whatever nobody could redeliver.
        self._settle_first = sub.delivery == "at-most-once" or sub.group is None
        self._lanes = Lanes(sub.order)
        self._in_hand: dict[int, Delivery] = {}
        self._bytes = 0
        self._running: dict[int, Delivery] = {}
        self._held: dict[int, tuple[Delivery, asyncio.Task[None]]] = {}
        self._paused: set[Partition] = set()
        self._lost: set[int] = set()
        self._idle_workers: list[asyncio.Future[None]] = []
        self._room = asyncio.Event()
        self._quiet = asyncio.Event()
        self._draining = False
        self._prefix: Prefix | None = None
        self._window = Window(sub.concurrency, sub.prefetch, clock.monotonic)
        _, self._filter = split(sub.filter, transport.capabilities.filters)

    async def run(self, stop: asyncio.Event, drain: timedelta) -> None:
        """Consume until `stop` is set, then drain: what has not started goes back at once, what
        runs has `drain` to finish and is handed back after that. Nothing is lost.

        Raises:
            PostroadError: the road failed for good; what was in hand is handed back.
        """
        assert isinstance(self._transport, Source)
        self._consumer = await self._transport.subscribe(self._sub, self._work.contract.plan)
        try:
            await self._run(self._consumer, stop, drain)
        finally:
            await self._consumer.close()

    async def _run(self, consumer: Consumer, stop: asyncio.Event, drain: timedelta) -> None:
        capabilities = self._transport.capabilities
        if capabilities.settling == "cumulative" and not self._settle_first:
            self._prefix = Prefix()
        self._settler = Settler(
            consumer,
            self._sub,
            self._hooks,
            self._clock,
            publish=self._work.publish,
            on_settled=self._settled,
            prefix=self._prefix,
        )
        self._executor = self._make_executor(consumer)
        background = [
            asyncio.create_task(self._settler.run()),
            asyncio.create_task(self._renew(consumer)),
            asyncio.create_task(self._watch(consumer)),
        ]
        one = self._work_batches if self._sub.batch else self._work_singly
        workers = [asyncio.create_task(one()) for _ in range(self._sub.concurrency)]
        receiving = asyncio.create_task(self._receive(consumer))
        stopped = asyncio.create_task(stop.wait())
        try:
            done, _ = await asyncio.wait(
                [receiving, stopped, *background, *workers], return_when=asyncio.FIRST_COMPLETED
            )
            await _end([receiving])
            await self._drain(drain)
            for task in done - {stopped}:
                task.result()
        finally:
            held = [task for _, task in self._held.values()]
            await _end([stopped, receiving, *workers, *held, *background])
            self._executor.close()

    def _make_executor(self, consumer: Consumer) -> Executor:
        capabilities = self._transport.capabilities
        rules = Rules(
            retry=self._sub.retry,
            gives_back=self._sub.order == "none"
            and not self._settle_first
            and capabilities.redelivery_delay
            and capabilities.attempts,
            timeout=self._sub.timeout,
            source=self._work.source,
            max_payload=self._work.max_payload,
        )
        return Executor(
            self._work.handler,
            rules,
            self._clock,
            decode_for=self._work.decode_for,
            sql_log=consumer if isinstance(consumer, SqlLog) else None,
            threads=self._sub.concurrency,
            on_failure=self._failed,
        )

    # --- receiving ---------------------------------------------------------------------------

    async def _receive(self, consumer: Consumer) -> None:
        while True:
            room = await self._wait_for_room()
            spare = max(1, self._sub.prefetch_bytes - self._bytes)
            batch = await patiently(
                self._clock,
                lambda: consumer.receive(room, spare, _POLL),  # noqa: B023
            )
            if batch:
                self._hooks.received(self._sub, len(batch))
                await self._take_in(await consumer.begin(batch))

    async def _wait_for_room(self) -> int:
        while True:
            size = self._window.size()
            behind = sum(
                1 + self._lanes.waiting_behind(delivery) for delivery, _ in self._held.values()
            )
            hard = min(self._sub.prefetch - len(self._in_hand), size)
            room = min(hard, size - (len(self._in_hand) - behind))
            # Ask for half a window at least, so that batches stay batches.
            if room > 0 and room * 2 >= size and self._bytes < self._sub.prefetch_bytes:
                return room
            self._room.clear()
            await self._room.wait()

    async def _take_in(self, batch: Sequence[Delivery]) -> None:
        if self._settle_first:
            batch = await self._settle_ahead(batch)
        in_hand = self._in_hand
        for delivery in batch:
            in_hand[id(delivery)] = delivery
            self._bytes += len(delivery.message.data)
        if self._prefix is not None:
            self._prefix.received(batch)
        self._lanes.add(batch if self._settle_first else self._sift(batch))
        self._check_holds()
        self._wake_workers()

    async def _settle_ahead(self, batch: Sequence[Delivery]) -> Sequence[Delivery]:
        now = self._clock.now_us()
        ends = [self._end_of(delivery, now) for delivery in batch]
        answers = [
            Settlement(delivery, "ack", end or "handled")
            for delivery, end in zip(batch, ends, strict=True)
        ]
        settled = await self._settler.settle(answers)
        return [
            delivery
            for delivery, end, answer in zip(batch, ends, settled, strict=True)
            if answer == "done" and end is None
        ]

    def _sift(self, batch: Sequence[Delivery]) -> Iterable[Delivery]:
        """What is to be handled; the rest is answered here."""
        now = self._clock.now_us()
        for delivery in batch:
            end = self._end_of(delivery, now)
            if end is None:
                yield delivery
            else:
                self._settler.add(Settlement(delivery, "ack", end))

    def _end_of(self, delivery: Delivery, now_us: int) -> Outcome | None:
        """The outcome of a message that never reaches its handler; None if it does."""
        expires = delivery.message.expires_at_us
        if expires is not None and expires <= now_us:
            return "expired"
        if self._filter is not None and not self._filter.matches(delivery.message):
            return "filtered"
        return None

    # --- working -----------------------------------------------------------------------------

    async def _work_singly(self) -> None:
        lanes, run, finish, lost = self._lanes, self._executor.run, self._finish, self._lost
        running = self._running
        turn = 0
        while True:
            delivery = lanes.pop()
            if delivery is None:
                await self._wait_for_work()
                continue
            identity = id(delivery)
            if lost and identity in lost:
                self._forget(delivery)
                continue
            running[identity] = delivery
            verdict = await run(delivery)
            del running[identity]
            finish(delivery, verdict)
            turn += 1
            if turn % _TURN == 0:
                await asyncio.sleep(0)

    async def _work_batches(self) -> None:
        batch_of = self._sub.batch
        assert batch_of is not None
        while True:
            deliveries = self._pop_up_to(batch_of.size)
            if not deliveries:
                await self._wait_for_work()
                continue
            await self._fill(deliveries, batch_of.size, batch_of.wait)
            for delivery in deliveries:
                self._running[id(delivery)] = delivery
            verdicts = await self._executor.run_batch(deliveries)
            for verdict in verdicts:
                delivery = _delivery_of(verdict)
                self._running.pop(id(delivery), None)
                self._finish(delivery, verdict)

    def _pop_up_to(self, size: int) -> list[Delivery]:
        taken: list[Delivery] = []
        while len(taken) < size and (delivery := self._lanes.pop()) is not None:
            if id(delivery) in self._lost:
                self._forget(delivery)
            else:
                taken.append(delivery)
        return taken

    async def _fill(self, deliveries: list[Delivery], size: int, wait: timedelta) -> None:
        deadline = self._clock.monotonic() + wait.total_seconds()
        while len(deliveries) < size and not self._draining:
            rest = deadline - self._clock.monotonic()
            if rest <= 0:
                return
            await self._clock.sleep(min(rest, 0.005))
            deliveries.extend(self._pop_up_to(size - len(deliveries)))

    async def _wait_for_work(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._idle_workers.append(waiter)
        await waiter

    def _wake_workers(self) -> None:
        for _ in range(min(len(self._lanes), len(self._idle_workers))):
            waiter = self._idle_workers.pop()
            if not waiter.done():
                waiter.set_result(None)

    def _finish(self, delivery: Delivery, verdict: Verdict) -> None:
        if isinstance(verdict, Held):
            self._hold(verdict)
            return
        self._lanes.done(delivery)
        if self._settle_first:
            self._finish_settled(delivery, verdict)
        elif isinstance(verdict, Settlement):
            self._settler.add(verdict)
        elif verdict.settled:
            self._settler.count(verdict.settlement)
        else:
            self._settler.add(verdict.settlement, verdict.results)
        if self._idle_workers:
            self._wake_workers()

    def _finish_settled(self, delivery: Delivery, verdict: Settlement | Answer) -> None:
        settlement = verdict.settlement if isinstance(verdict, Answer) else verdict
        if isinstance(verdict, Answer) and verdict.results:
            task = asyncio.ensure_future(self._work.publish(verdict.results))
            task.add_done_callback(_retrieve)
        if settlement.action != "ack" and settlement.failure is not None:
            self._hooks.lost(self._sub, delivery.message, settlement.failure)
        self._settled([settlement])

    # --- holding a blocked key ---------------------------------------------------------------

    def _hold(self, held: Held) -> None:
        identity = id(held.delivery)
        task = asyncio.create_task(self._again_after(held))
        self._held[identity] = (held.delivery, task)
        self._check_holds()
        self._room.set()

    async def _again_after(self, held: Held) -> None:
        await self._clock.sleep(held.delay.total_seconds())
        self._held.pop(id(held.delivery), None)
        self._lanes.again(held.delivery)
        self._wake_workers()

    def _check_holds(self) -> None:
        """Stop reading the partitions whose blocked keys have as many behind them as may be
        held; go on reading those that have not any more."""
        if not self._held and not self._paused:
            return
        full = {
            (delivery.topic, delivery.partition)
            for delivery, _ in self._held.values()
            if self._lanes.waiting_behind(delivery) >= self._sub.retry.hold
        }
        for change, places in (
            (self._consumer.pause, full - self._paused),
            (self._consumer.resume, self._paused - full),
        ):
            if places:
                asyncio.ensure_future(change(sorted(places))).add_done_callback(_retrieve)
        self._paused = full

    # --- books -------------------------------------------------------------------------------

    def _settled(self, settlements: Sequence[Settlement]) -> None:
        in_hand = self._in_hand
        for settlement in settlements:
            delivery = in_hand.pop(id(settlement.delivery), None)
            if delivery is not None:
                self._bytes -= len(delivery.message.data)
        self._window.worked(len(settlements))
        if self._lost:
            self._lost.intersection_update(in_hand)
        self._check_holds()
        self._room.set()
        self._quiet.set()

    def _forget(self, delivery: Delivery) -> None:
        self._lanes.done(delivery)
        self._settled([Settlement(delivery)])

    def _failed(self, delivery: Delivery, failure: Failure) -> None:
        self._hooks.failed(self._sub, delivery, failure)

    # --- ownership ---------------------------------------------------------------------------

    async def _renew(self, consumer: Consumer) -> None:
        pause = self._sub.lease.total_seconds() / 3
        while True:
            await self._clock.sleep(pause)
            held = list(self._in_hand.values())
            with suppress(TransportError, StorageError):
                owned = await consumer.extend(held)
                if len(owned) < len(held):
                    kept = {id(delivery) for delivery in owned}
                    gone = {id(delivery) for delivery in held} - kept
                    self._lost.update(gone & self._in_hand.keys())

    async def _watch(self, consumer: Consumer) -> None:
        async for notice in consumer.notices():
            self._hooks.noticed(self._sub, notice)
            await self._heed(consumer, notice)
        await asyncio.Event().wait()

    async def _heed(self, consumer: Consumer, notice: Notice) -> None:
        if isinstance(notice, Revoking):
            await self._give_up(notice.partitions, notice.deadline)
            await consumer.release(notice.partitions)
        elif isinstance(notice, Lost):
            gone = self._lanes.take_back(notice.partitions)
            self._settled([Settlement(delivery) for delivery in gone])
            self._drop_held(notice.partitions)
            if self._prefix is not None:
                self._prefix.forget(notice.partitions)

    async def _give_up(self, partitions: Sequence[Partition], deadline: float) -> None:
        """Hand back what has not started, wait for what has, until the deadline."""
        for delivery in self._lanes.take_back(partitions):
            self._settler.add(Settlement(delivery, "nack"))
        self._drop_held(partitions, hand_back=True)
        places = set(partitions)
        while any((d.topic, d.partition) in places for d in self._in_hand.values()):
            self._quiet.clear()
            rest = deadline - self._clock.monotonic()
            if rest <= 0:
                break
            with suppress(TimeoutError):
                await asyncio.wait_for(self._quiet.wait(), rest)

    def _drop_held(
        self, partitions: Sequence[Partition] | None = None, *, hand_back: bool = False
    ) -> None:
        for delivery, task in list(self._held.values()):
            if partitions is None or (delivery.topic, delivery.partition) in partitions:
                task.cancel()
                del self._held[id(delivery)]
                self._lanes.done(delivery)
                if hand_back and not self._settle_first:
                    self._settler.add(Settlement(delivery, "nack"))
                else:
                    self._settled([Settlement(delivery)])

    async def _drain(self, limit: timedelta) -> None:
        self._draining = True
        for delivery in self._lanes.take_back():
            if self._settle_first:
                # Settled already: handing it back is impossible, so it is handled below.
                self._lanes.add([delivery])
            else:
                self._settler.add(Settlement(delivery, "nack"))
        self._drop_held(hand_back=True)
        self._wake_workers()
        deadline = self._clock.monotonic() + limit.total_seconds()
        while self._in_hand and self._clock.monotonic() < deadline:
            self._quiet.clear()
            rest = deadline - self._clock.monotonic()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._quiet.wait(), max(rest, 0))


def _delivery_of(verdict: Verdict) -> Delivery:
    if isinstance(verdict, Answer):
        return verdict.settlement.delivery
    return verdict.delivery


async def _end(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _retrieve(task: asyncio.Future[Any]) -> None:
    """Take note of a background failure: the road says the same to its next caller."""
    if not task.cancelled():
        task.exception()
