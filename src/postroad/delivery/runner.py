"""The runner: receive a batch, begin, lanes, handler, settle a batch; for one subscription.

What runs side by side: one task that receives, `concurrency` workers that take from the lanes,
one that settles, one that renews leases, one that reads notices, one that parks or pauses what is
blocked. No task is made per message.

A message's way: `intake` → `hand` (lanes) → `workers` → `execution` → `answers` → `settler`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from postroad.core.clock import Clock
from postroad.core.contract import Contract
from postroad.core.delivery import Delivery, Failure
from postroad.core.hooks import Hooks
from postroad.core.subscription import Subscription
from postroad.core.transport import Consumer, Source, SqlLog, Transport
from postroad.delivery.answers import Answers
from postroad.delivery.breaker import Circuit
from postroad.delivery.execution import Decode, Executor, Rules
from postroad.delivery.hand import Hand
from postroad.delivery.handler import Handler
from postroad.delivery.inbox import GroupInbox
from postroad.delivery.intake import Intake
from postroad.delivery.moving import Moving
from postroad.delivery.ownership import Ownership
from postroad.delivery.patience import patiently
from postroad.delivery.quarantine import Quarantine
from postroad.delivery.rate import Limiter
from postroad.delivery.resequencing import Standings, resequenced
from postroad.delivery.settler import Publish, Settler
from postroad.delivery.stored import join_store
from postroad.delivery.workers import Workers
from postroad.errors import NotSupportedError

_LAST_WORDS = 1.0
"""Seconds for answers that are given when the drain's limit is over."""
_INSIST_EVERY = 1.0


@dataclass(frozen=True)
class Work:
    """One subscription, ready to run.

    Attributes:
        contract: what `check` agreed to.
        decode_for: topic name → how to decode its payloads for this handler.
        max_payload: topic name → the largest payload taken, in bytes.
        publish: publishes handler results.
        source: CloudEvents `source` of them.
        limiter: permits to receive, if there is a rate limit.
        quarantine: shared by all runners of the process.
        moving: moves to a store what the road cannot keep.
        stored: consume what was moved to the store, which is the transport then, under this
            prefix.
        inbox: the handler's transactions, where the business database is not the road.
        standings: where it is kept how far the group is with numbered messages, if it takes them
            in their order.
    """

    subscription: Subscription
    contract: Contract
    handler: Handler
    decode_for: Callable[[str], Decode]
    max_payload: Callable[[str], int | None]
    publish: Publish
    source: str
    limiter: Limiter | None = None
    quarantine: Quarantine = field(default_factory=Quarantine)
    moving: Moving | None = None
    stored: str | None = None
    inbox: GroupInbox | None = None
    standings: Standings | None = None


class Runner:
    """Runs one subscription on one consumer until told to stop."""

    def __init__(self, work: Work, transport: Transport, hooks: Hooks, clock: Clock) -> None:
        self._work = work
        self._sub = work.subscription
        self._transport = transport
        self._hooks = hooks
        self._clock = clock

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
            await Run(self._work, self._transport, consumer, self._hooks, self._clock).run(
                stop, drain
            )
        finally:
            await consumer.close()

    async def _join(self, stop: asyncio.Event) -> Consumer | None:
        source, work = self._transport, self._work
        if not isinstance(source, Source):
            raise NotSupportedError("this road can only be published to")

        async def join() -> Consumer | None:
            if stop.is_set():
                return None
            if work.stored is not None:
                return await join_store(source, self._sub, work.contract.plan, work.stored)
            return await source.subscribe(self._sub, work.contract.plan)

        consumer = await patiently(self._clock, join)
        if consumer is None or work.standings is None or work.stored is not None:
            return consumer
        return resequenced(consumer, self._sub, work.standings, self._clock)


class Run:
    """One run on one consumer: puts the parts together, and takes them down again."""

    def __init__(
        self, work: Work, transport: Transport, consumer: Consumer, hooks: Hooks, clock: Clock
    ) -> None:
        self._work = work
        self._clock = clock
        sub = self._sub = work.subscription
        self._errands: set[asyncio.Task[None]] = set()
        hand = self._hand = Hand(
            sub,
            transport.capabilities,
            clock,
            lambda answer: self._settler.add(answer),
            work.moving,
        )
        self._settler = Settler(
            consumer,
            sub,
            hooks,
            clock,
            publish=work.publish,
            on_settled=hand.settled,
            prefix=hand.prefix,
            moving=work.moving,
        )
        self._answers = Answers(
            sub,
            hand,
            self._settler,
            hooks,
            clock,
            parks_dead=work.contract.plan.parks,
            run_errand=self._run_errand,
        )
        circuit = None if sub.breaker is None else Circuit(sub.breaker, clock)

        def failed(delivery: Delivery, failure: Failure) -> None:
            hooks.failed(sub, delivery, failure)

        self._executor = Executor(
            work.handler,
            self._rules(transport),
            clock,
            decode_for=work.decode_for,
            sql_log=self._sql_log(consumer),
            threads=sub.concurrency,
            on_failure=failed,
            on_duplicate=lambda delivery: hooks.duplicate(sub, delivery),
            circuit=circuit,
            is_lost=hand.is_lost,
        )
        self._intake = Intake(
            sub,
            transport,
            consumer,
            hooks,
            clock,
            hand=hand,
            answers=self._answers,
            settler=self._settler,
            limiter=work.limiter,
            quarantine=work.quarantine,
        )
        self._workers = Workers(
            sub,
            clock,
            hand=hand,
            executor=self._executor,
            answers=self._answers,
            intake=self._intake,
            circuit=circuit,
            quarantine=work.quarantine,
        )
        ownership = Ownership(
            sub,
            consumer,
            hooks,
            clock,
            hand=hand,
            answers=self._answers,
            settler=self._settler,
            intake=self._intake,
            run_errand=self._run_errand,
        )
        self._background: list[Callable[[], Coroutine[Any, Any, None]]] = [
            ownership.renew,
            ownership.watch,
            lambda: hand.holding.regulate(consumer),
        ]
        if work.inbox is not None:
            self._background.append(work.inbox.tidy)

    def _sql_log(self, consumer: Consumer) -> SqlLog | None:
        if self._work.inbox is not None:
            return self._work.inbox
        return consumer if isinstance(consumer, SqlLog) else None

    def _rules(self, transport: Transport) -> Rules:
        road, moving = transport.capabilities, self._work.moving
        kept = (road.redelivery_delay and road.attempts) or (moving is not None and moving.retries)
        return Rules(
            retry=self._sub.retry,
            gives_back=kept and self._sub.order == "none" and not self._hand.settles_first,
            timeout=self._sub.timeout,
            source=self._work.source,
            max_payload=self._work.max_payload,
        )

    async def run(self, stop: asyncio.Event, drain: timedelta) -> None:
        """See `Runner.run`."""
        shedder = self._intake.shedder
        if shedder is not None:
            await shedder.look()
            self._background.append(shedder.run)
        self._work.quarantine.join(self._hand)
        settling = asyncio.create_task(self._settler.run())
        background = [asyncio.create_task(forever()) for forever in self._background]
        workers = [asyncio.create_task(self._workers.work()) for _ in range(self._sub.concurrency)]
        receiving = asyncio.create_task(self._intake.run())
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
            self._hand.holding.drop()
            await _end([stopped, receiving, *workers, *self._errands, *background])
            await self._last_words(settling)
            self._answers.count_losses()
            self._executor.close()
            self._hand.running.clear()
            self._hand.quiet.set()
            self._work.quarantine.leave(self._hand)

    async def _drain(
        self, receiving: asyncio.Task[None], settling: asyncio.Task[None], deadline: float
    ) -> None:
        hand = self._hand
        hand.draining = True
        # A batch that is being settled ahead would be lost; it may come in.
        await hand.until(lambda: not self._intake.settling_ahead, deadline)
        await _end([receiving])
        # What is settled already cannot go back: it is handled within the limit, or lost.
        held, queued = (hand.holding.drop(), []) if hand.settles_first else hand.take_out()
        self._answers.hand_back(held, queued)
        hand.wake()
        settling.add_done_callback(lambda _: hand.quiet.set())
        await hand.until(lambda: not (hand.running if settling.done() else len(hand)), deadline)

    async def _last_words(self, settling: asyncio.Task[None]) -> None:
        """Let the road hear the answers that are given, if it listens."""
        idle = asyncio.create_task(self._settler.idle())
        await asyncio.wait(
            [idle, settling], timeout=_LAST_WORDS, return_when=asyncio.FIRST_COMPLETED
        )
        await _end([idle, settling])

    def _run_errand(self, errand: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(errand)
        self._errands.add(task)
        task.add_done_callback(self._errand_done)

    def _errand_done(self, task: asyncio.Task[None]) -> None:
        self._errands.discard(task)
        if not task.cancelled():
            # The road says the same to its next caller.
            task.exception()


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
