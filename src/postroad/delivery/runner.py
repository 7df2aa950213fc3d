"""The runner: receive a batch, begin, lanes, handler, settle a batch; for one subscription.

What runs side by side: one task that receives, `concurrency` workers that take from the lanes,
one that settles, one that renews leases, one that reads notices, one that pauses partitions. No
task is made per message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from postroad.core.clock import Clock
from postroad.core.contract import Contract
from postroad.core.delivery import Delivery, Failure, Outcome, Partition, Settlement
from postroad.core.filters import split
from postroad.core.hooks import Hooks
from postroad.core.notices import Lost, Revoking
from postroad.core.subscription import Subscription
from postroad.core.transport import Consumer, Source, SqlLog, Transport
from postroad.delivery.breaker import Circuit
from postroad.delivery.execution import (
    Answer,
    Decode,
    Executor,
    Held,
    Rules,
    Verdict,
    describe,
)
from postroad.delivery.handler import Handler
from postroad.delivery.holding import Holding, blocked_share
from postroad.delivery.lanes import Lanes
from postroad.delivery.parking import Parking
from postroad.delivery.patience import patiently
from postroad.delivery.prefix import Prefix
from postroad.delivery.rate import make_limiter
from postroad.delivery.settler import Publish, Results, Settler
from postroad.delivery.shedding import Shedder
from postroad.delivery.window import Window
from postroad.errors import NotSupportedError, PostroadError, StorageError, TransportError

_POLL = timedelta(seconds=1)
_FILL_EVERY = 0.005
_LAST_WORDS = 1.0
"""Seconds for answers that are given when the drain's limit is over."""
_INSIST_EVERY = 1.0
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
    publish: Publish
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
        self._parking = self._make_parking()
        self._parks_dead = self._parking is not None and work.contract.plan.parks
        park = self._parking.park if self._parking and sub.order == "key" else None
        self._holding = Holding(self._lanes, sub, clock, self._wake_workers, park)
        self._in_hand: dict[int, Delivery] = {}
        self._apart: Sequence[Delivery] = ()
        self._circuit = None if sub.breaker is None else Circuit(sub.breaker, clock)
        self._limiter = make_limiter(sub, transport, clock)
        self._shedder = self._make_shedder()
        self._bytes = 0
        self._running: dict[int, Delivery] = {}
        self._lost: set[int] = set()
        self._leaving: set[Partition] = set()
        self._errands: set[asyncio.Task[None]] = set()
        self._idle_workers: list[asyncio.Future[None]] = []
        self._room = asyncio.Event()
        self._quiet = asyncio.Event()
        self._filling = 0
        self._settling_ahead = False
        self._draining = False
        self._prefix: Prefix | None = None
        at_once = sub.concurrency * (sub.batch.size if sub.batch else 1)
        self._window = Window(at_once, sub.prefetch, clock.monotonic)
        _, self._filter = split(sub.filter, transport.capabilities.filters)

    async def run(self, stop: asyncio.Event, drain: timedelta) -> None:
        """Consume until `stop` is set, then drain: what has not started goes back at once, what
        runs has `drain` to finish and is handed back after that. Nothing is lost.

        Raises:
            PostroadError: the road failed for good; what was in hand is handed back.
        """
        consumer = await self._join(stop)
        if consumer is None:
            return
        try:
            await self._run(consumer, stop, drain)
        finally:
            await consumer.close()

    async def _join(self, stop: asyncio.Event) -> Consumer | None:
        source, plan = self._transport, self._work.contract.plan
        if not isinstance(source, Source):
            raise NotSupportedError("this road can only be published to")

        async def join() -> Consumer | None:
            return None if stop.is_set() else await source.subscribe(self._sub, plan)

        return await patiently(self._clock, join)

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
        if self._shedder is not None:
            await self._shedder.look()
        settling = asyncio.create_task(self._settler.run())
        background = [
            asyncio.create_task(self._renew(consumer)),
            asyncio.create_task(self._watch(consumer)),
            asyncio.create_task(self._holding.regulate(consumer)),
        ]
        if self._shedder is not None:
            background.append(asyncio.create_task(self._shedder.run()))
        one = self._work_batches if self._sub.batch else self._work_singly
        workers = [asyncio.create_task(one()) for _ in range(self._sub.concurrency)]
        receiving = asyncio.create_task(self._receive(consumer))
        stopped = asyncio.create_task(stop.wait())
        try:
            done, _ = await asyncio.wait(
                [receiving, stopped, settling, *background, *workers],
                return_when=asyncio.FIRST_COMPLETED,
            )
            await self._drain(receiving, settling, self._clock.monotonic() + drain.total_seconds())
            for task in (done | {settling}) - {stopped}:
                if task.done():
                    task.result()
        finally:
            self._holding.drop()
            await _end([stopped, receiving, *workers, *self._errands, *background])
            await self._last_words(settling)
            self._count_losses()
            self._executor.close()

    def _make_parking(self) -> Parking | None:
        parks = self._transport.capabilities.parking and self._sub.order != "none"
        if not parks or self._settle_first:
            return None
        return Parking(self._lanes, self._clock, lambda answer: self._settler.add(answer))

    def _make_shedder(self) -> Shedder | None:
        sub, source = self._sub, self._transport
        if sub.shed is None or sub.group is None or not isinstance(source, Source):
            return None
        return Shedder(sub.shed, source, sub.source_name, sub.group, self._clock)

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
            circuit=self._circuit,
        )

    # --- receiving ---------------------------------------------------------------------------

    async def _receive(self, consumer: Consumer) -> None:
        while not self._draining:
            room = await self._wait_for_room()
            if self._limiter is not None:
                room = await self._limiter.take(room)
            spare = max(1, self._spare_bytes())
            if self._parking is not None:
                self._parking.receiving()
            batch = await patiently(
                self._clock,
                lambda: consumer.receive(room, spare, _POLL),  # noqa: B023
            )
            if self._limiter is not None:
                self._limiter.give_back(room - len(batch))
            if batch:
                self._hooks.received(self._sub, len(batch))
                if any(delivery.starts for delivery in batch) and not self._settle_first:
                    await self._take_apart(consumer, batch)
                else:
                    await self._begin(consumer, batch)

    async def _begin(self, consumer: Consumer, batch: Sequence[Delivery]) -> None:
        await self._take_in(await patiently(self._clock, lambda: consumer.begin(batch)))

    async def _take_apart(self, consumer: Consumer, batch: Sequence[Delivery]) -> None:
        """Suspects of a crash run with nothing else in flight, so that another one tells more."""
        self._apart = batch
        try:
            await self._empty_hand()
            await self._begin(consumer, batch)
        finally:
            self._apart = ()
        await self._empty_hand()

    async def _empty_hand(self) -> None:
        while self._in_hand:
            self._quiet.clear()
            await self._quiet.wait()

    def _spare_bytes(self) -> int:
        """What may be received, in bytes. What is blocked takes its share of the room at the
        most, so that the other keys always go on."""
        blocked = self._holding.bytes_behind()
        most = self._sub.prefetch_bytes
        return most - min(blocked, blocked_share(most)) - (self._bytes - blocked)

    async def _wait_for_room(self) -> int:
        while True:
            # Neither what is blocked nor what waits for the prefix keeps a worker busy.
            prefix = len(self._prefix) if self._prefix else 0
            aside = self._holding.behind() + prefix
            taken = min(aside, max(prefix, blocked_share(self._sub.prefetch)))
            most = min(self._window.size(), self._sub.prefetch - taken)
            room = most - (len(self._in_hand) - aside)
            # Ask for half a window at least, so that batches stay batches; but no worker idles.
            starving = self._idle_workers and not len(self._lanes)
            enough = room * 2 >= most or self._filling or starving
            if room > 0 and enough and self._spare_bytes() > 0:
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
        self._holding.more()
        self._wake_workers()

    async def _settle_ahead(self, batch: Sequence[Delivery]) -> Sequence[Delivery]:
        now = self._clock.now_us()
        ends = [self._end_of(delivery, now) for delivery in batch]
        answers = [
            Settlement(delivery, "ack", end or "handled")
            for delivery, end in zip(batch, ends, strict=True)
        ]
        self._settling_ahead = True
        try:
            settled = await self._settler.settle(answers)
        finally:
            self._settling_ahead = False
            self._quiet.set()
        return [
            delivery
            for delivery, end, answer in zip(batch, ends, settled, strict=True)
            if answer == "done" and end is None
        ]

    def _sift(self, batch: Sequence[Delivery]) -> Iterable[Delivery]:
        """What is to be handled; the rest is answered here."""
        now = self._clock.now_us()
        shed = self._shedder.dropped(batch) if self._shedder is not None else ()
        parking = self._parking
        for delivery in batch:
            if parking is not None and parking.turns_away(delivery):
                continue
            end = self._end_of(delivery, now)
            if id(delivery) in shed and end is None:
                end = "shed"
            if delivery.alone >= self._sub.retry.crashes:
                self._bury(Settlement(delivery, "reject", failure=_crashing(delivery, now)))
            elif end is None:
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
        run, finish, running = self._executor.run, self._finish, self._running
        circuit = self._circuit
        turn = 0
        while True:
            if circuit is not None:
                await circuit.permit()
            delivery = self._next()
            if delivery is None:
                if circuit is not None:
                    circuit.unanswered()
                await self._wait_for_work()
                continue
            identity = id(delivery)
            running[identity] = delivery
            verdict = await run(delivery)
            del running[identity]
            if circuit is not None and _is_handled(verdict):
                circuit.succeeded()
            finish(delivery, verdict)
            turn += 1
            if turn % _TURN == 0:
                await asyncio.sleep(0)

    async def _work_batches(self) -> None:
        batch_of = self._sub.batch
        assert batch_of is not None
        circuit = self._circuit
        while True:
            if circuit is not None:
                await circuit.permit()
            deliveries = self._next_up_to(batch_of.size)
            if not deliveries:
                if circuit is not None:
                    circuit.unanswered()
                await self._wait_for_work()
                continue
            await self._fill(deliveries, batch_of.size, batch_of.wait)
            for delivery in deliveries:
                self._running[id(delivery)] = delivery
            verdicts = await self._executor.run_batch(deliveries)
            if circuit is not None and any(_is_handled(verdict) for verdict in verdicts):
                circuit.succeeded()
            for verdict in verdicts:
                delivery = _delivery_of(verdict)
                del self._running[id(delivery)]
                self._finish(delivery, verdict)

    def _next(self) -> Delivery | None:
        """The next message to handle: still ours, and not expired while it was in line."""
        while (delivery := self._lanes.pop()) is not None:
            if self._lost and id(delivery) in self._lost:
                self._forget(delivery)
                continue
            expires = delivery.message.expires_at_us
            if expires is not None and expires <= self._clock.now_us():
                self._finish(delivery, Settlement(delivery, "ack", "expired"))
                continue
            return delivery
        return None

    def _next_up_to(self, size: int) -> list[Delivery]:
        taken: list[Delivery] = []
        while len(taken) < size and (delivery := self._next()) is not None:
            taken.append(delivery)
        return taken

    async def _fill(self, deliveries: list[Delivery], size: int, wait: timedelta) -> None:
        deadline = self._clock.monotonic() + wait.total_seconds()
        self._filling += 1
        self._room.set()
        try:
            while len(deliveries) < size and not self._draining:
                rest = deadline - self._clock.monotonic()
                if rest <= 0:
                    return
                await self._clock.sleep(min(rest, _FILL_EVERY))
                deliveries.extend(self._next_up_to(size - len(deliveries)))
        finally:
            self._filling -= 1

    async def _wait_for_work(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._idle_workers.append(waiter)
        self._room.set()
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
        if self._holding.blocked:
            self._holding.finished(delivery)
        if self._parks_dead and isinstance(verdict, Settlement) and verdict.action == "reject":
            self._bury(verdict)
        else:
            self._lanes.done(delivery)
            self._answer(delivery, verdict)
        if self._idle_workers:
            self._wake_workers()
        if self._draining:
            self._quiet.set()

    def _answer(self, delivery: Delivery, verdict: Settlement | Answer) -> None:
        if self._settle_first:
            self._finish_settled(delivery, verdict)
        elif isinstance(verdict, Settlement):
            self._settler.add(verdict)
        elif verdict.settled:
            self._settler.count(verdict.settlement)
        else:
            self._settler.add(verdict.settlement, verdict.results)

    def _bury(self, reject: Settlement) -> None:
        if self._parking is not None and self._parks_dead:
            self._parking.bury(reject)
        else:
            self._settler.add(reject)

    def _finish_settled(self, delivery: Delivery, verdict: Settlement | Answer) -> None:
        if isinstance(verdict, Answer) and verdict.results:
            self._run_errand(self._publish_results(delivery, verdict.results))
            return
        settlement = verdict.settlement if isinstance(verdict, Answer) else verdict
        if settlement.failure is not None:
            self._hooks.lost(self._sub, delivery.message, settlement.failure)
        elif settlement.outcome == "expired":
            self._lose_settled(delivery, "expired", "it expired while it waited for its handler")
        self._settled([settlement])

    async def _publish_results(self, delivery: Delivery, results: Results) -> None:
        try:
            await self._settler.publish(results)
        except PostroadError as error:
            failure = describe(error, self._clock.now_us())
            self._hooks.lost(self._sub, delivery.message, failure)
        self._settled([Settlement(delivery)])

    def _lose_settled(self, delivery: Delivery, reason: str, detail: str) -> None:
        """Count the loss of what was settled and will not be handled."""
        failure = Failure(reason=reason, detail=detail, at_us=self._clock.now_us())
        last = delivery.failures[-1] if delivery.failures else failure
        self._hooks.lost(self._sub, delivery.message, last)

    def _hold(self, held: Held) -> None:
        delivery = held.delivery
        place = (delivery.topic, delivery.partition)
        if self._draining or (place in self._leaving and not self._settle_first):
            self._holding.finished(delivery)
            # Nor may what stands behind it run before it.
            behind = [] if self._settle_first else self._lanes.take_back([place])
            self._lanes.done(delivery)
            self._hand_back_held([held])
            self._hand_back(behind)
        else:
            self._holding.hold(held)
        self._room.set()
        self._quiet.set()

    # --- books -------------------------------------------------------------------------------

    def _settled(self, settlements: Sequence[Settlement]) -> None:
        in_hand = self._in_hand
        worked = 0
        for settlement in settlements:
            delivery = in_hand.pop(id(settlement.delivery), None)
            if delivery is not None:
                self._bytes -= len(delivery.message.data)
                worked += 1
        if self._parking is not None:
            self._parking.settled(settlements)
        self._window.worked(worked)
        if self._lost:
            self._lost.intersection_update(in_hand)
        self._room.set()
        self._quiet.set()

    def _forget(self, delivery: Delivery) -> None:
        self._holding.finished(delivery)
        self._lanes.done(delivery)
        self._settled([Settlement(delivery)])

    def _hand_back(self, deliveries: Sequence[Delivery]) -> None:
        """Return what will not be handled here: without an attempt, and with those it had."""
        for delivery in deliveries:
            if self._settle_first:
                self._lose_settled(delivery, "interrupted", "its consumer was stopped")
                self._settled([Settlement(delivery)])
            else:
                self._settler.add(Settlement(delivery, "nack"))

    def _hand_back_held(self, held: Sequence[Held]) -> None:
        """As `_hand_back`. What is left of a wait goes along where the road keeps the order of
        the key behind it; elsewhere the wait is over, as its key would overtake it."""
        if self._parking is None:
            self._hand_back([one.delivery for one in held])
            return
        for one in held:
            self._settler.add(Settlement(one.delivery, "nack", delay=one.delay))

    def _failed(self, delivery: Delivery, failure: Failure) -> None:
        self._hooks.failed(self._sub, delivery, failure)

    # --- ownership ---------------------------------------------------------------------------

    async def _renew(self, consumer: Consumer) -> None:
        pause = self._sub.lease.total_seconds() / 3
        while True:
            await self._clock.sleep(pause)
            # What is settled already has no lease; the membership has one in any case.
            held = [] if self._settle_first else [*self._in_hand.values(), *self._apart]
            with suppress(TransportError, StorageError):
                owned = await consumer.extend(held)
                if len(owned) < len(held):
                    kept = {id(delivery) for delivery in owned}
                    gone = {id(delivery) for delivery in held} - kept
                    self._lost.update(gone & self._in_hand.keys())

    async def _watch(self, consumer: Consumer) -> None:
        async for notice in consumer.notices():
            self._hooks.noticed(self._sub, notice)
            if isinstance(notice, Revoking):
                self._run_errand(self._give_up(consumer, notice))
            elif isinstance(notice, Lost) and not self._settle_first:
                self._lose(notice.partitions)
        await asyncio.Event().wait()

    def _lose(self, partitions: Sequence[Partition]) -> None:
        """Forget what has not started; what runs will find that it is stale."""
        gone = self._lanes.take_back(partitions)
        gone += [held.delivery for held in self._holding.drop(partitions)]
        self._settled([Settlement(delivery) for delivery in gone])
        if self._parking is not None:
            self._parking.forget(partitions)
        if self._prefix is not None:
            self._settler.forget(partitions)

    async def _give_up(self, consumer: Consumer, notice: Revoking) -> None:
        """Hand back what has not started, wait for what has, until the deadline."""
        places = set(notice.partitions)
        self._leaving |= places
        try:
            if not self._settle_first:
                queued = self._lanes.take_back(places)
                self._hand_back_held(self._holding.drop(places))
                self._hand_back(queued)
            await self._until(
                lambda: all((d.topic, d.partition) not in places for d in self._in_hand.values()),
                notice.deadline,
            )
            await patiently(self._clock, lambda: consumer.release(notice.partitions))
            if self._prefix is not None:
                self._settler.forget(notice.partitions)
            if self._parking is not None:
                self._parking.forget(places)
        finally:
            self._leaving -= places

    def _run_errand(self, errand: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(errand)
        self._errands.add(task)
        task.add_done_callback(self._errand_done)

    def _errand_done(self, task: asyncio.Task[None]) -> None:
        self._errands.discard(task)
        if not task.cancelled():
            # The road says the same to its next caller.
            task.exception()

    # --- the end -----------------------------------------------------------------------------

    async def _drain(
        self, receiving: asyncio.Task[None], settling: asyncio.Task[None], deadline: float
    ) -> None:
        self._draining = True
        # A batch that is being settled ahead would be lost; it may come in.
        await self._until(lambda: not self._settling_ahead, deadline)
        await _end([receiving])
        # What is settled already cannot go back: it is handled within the limit, or lost.
        queued = [] if self._settle_first else self._lanes.take_back()
        self._hand_back_held(self._holding.drop())
        self._hand_back(queued)
        self._wake_workers()
        settling.add_done_callback(lambda _: self._quiet.set())
        await self._until(
            lambda: not (self._running if settling.done() else self._in_hand), deadline
        )

    async def _last_words(self, settling: asyncio.Task[None]) -> None:
        """Let the road hear the answers that are given, if it listens."""
        idle = asyncio.create_task(self._settler.idle())
        await asyncio.wait(
            [idle, settling], timeout=_LAST_WORDS, return_when=asyncio.FIRST_COMPLETED
        )
        await _end([idle, settling])

    def _count_losses(self) -> None:
        if self._settle_first:
            for delivery in self._in_hand.values():
                self._lose_settled(delivery, "interrupted", "its consumer was stopped")

    async def _until(self, condition: Callable[[], bool], deadline: float) -> None:
        """Return when it is true, asked whenever something was settled; or at the deadline."""
        rest = max(0.0, deadline - self._clock.monotonic())
        alarm = asyncio.create_task(self._clock.sleep(rest))
        alarm.add_done_callback(lambda _: self._quiet.set())
        try:
            while not condition() and not alarm.done():
                self._quiet.clear()
                await self._quiet.wait()
        finally:
            await _end([alarm])


def _delivery_of(verdict: Verdict) -> Delivery:
    if isinstance(verdict, Answer):
        return verdict.settlement.delivery
    return verdict.delivery


async def _end(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel them and see them end; one that swallows its cancellation is cancelled again."""
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_INSIST_EVERY)
    for task in tasks:
        if not task.cancelled():
            task.exception()


def _is_handled(verdict: Verdict) -> bool:
    settlement = verdict.settlement if isinstance(verdict, Answer) else verdict
    return isinstance(settlement, Settlement) and settlement.action == "ack"


def _crashing(delivery: Delivery, now_us: int) -> Failure:
    detail = f"its process died {delivery.alone} times while nothing else was in flight"
    return Failure(reason="crash", detail=detail, at_us=now_us)
