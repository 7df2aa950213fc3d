"""What is ours: leases that are renewed, partitions that are lost or given up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

from postroad.core.clock import Clock
from postroad.core.delivery import Partition, Settlement
from postroad.core.hooks import Hooks
from postroad.core.notices import Lost, Revoking
from postroad.core.subscription import Subscription
from postroad.core.transport import Consumer
from postroad.delivery.answers import Answers
from postroad.delivery.hand import Hand
from postroad.delivery.intake import Intake
from postroad.delivery.patience import patiently
from postroad.delivery.settler import Settler
from postroad.errors import StorageError, TransportError


class Ownership:
    """Keeps for one runner what it owns, and lets go of what it must.

    Args:
        run_errand: runs a coroutine beside everything else until the runner ends.
    """

    def __init__(
        self,
        subscription: Subscription,
        consumer: Consumer,
        hooks: Hooks,
        clock: Clock,
        *,
        hand: Hand,
        answers: Answers,
        settler: Settler,
        intake: Intake,
        run_errand: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._sub = subscription
        self._consumer = consumer
        self._hooks = hooks
        self._clock = clock
        self._hand = hand
        self._answers = answers
        self._settler = settler
        self._intake = intake
        self._run_errand = run_errand

    async def renew(self) -> None:
        """Renew leases until cancelled."""
        pause = self._sub.lease.total_seconds() / 3
        while True:
            await self._clock.sleep(pause)
            # What is settled already has no lease; the membership has one in any case.
            held = [] if self._hand.settles_first else [*self._hand, *self._intake.apart]
            with suppress(TransportError, StorageError):
                owned = await self._consumer.extend(held)
                if len(owned) < len(held):
                    kept = {id(delivery) for delivery in owned}
                    self._hand.lose(delivery for delivery in held if id(delivery) not in kept)

    async def watch(self) -> None:
        """Read the consumer's notices until cancelled."""
        async for notice in self._consumer.notices():
            self._hooks.noticed(self._sub, notice)
            if isinstance(notice, Revoking):
                self._run_errand(self._give_up(notice))
            elif isinstance(notice, Lost) and not self._hand.settles_first:
                self._run_errand(self._lose(notice.partitions))
        await asyncio.Event().wait()

    async def _lose(self, partitions: Sequence[Partition]) -> None:
        """Forget what has not started; what runs will find that it is stale. A lost partition
        may have come back before its loss was told: what came with it stays."""
        hand, consumer = self._hand, self._consumer
        held = hand.of(partitions)
        owned = await patiently(self._clock, lambda: consumer.extend(held))
        gone = {id(delivery) for delivery in held} - {id(delivery) for delivery in owned}
        hand.lose(delivery for delivery in held if id(delivery) in gone)
        waiting, queued = hand.take_out(lambda delivery: id(delivery) in gone)
        lost = queued + [one.delivery for one in waiting]
        hand.settled([Settlement(delivery) for delivery in lost])
        if hand.prefix is not None:
            kept = [one for one in hand.of(partitions) if id(one) not in gone]
            self._settler.forget(partitions, kept)
        if hand.parking is not None:
            hand.parking.forget(partitions)
        hand.wake()

    async def _give_up(self, notice: Revoking) -> None:
        """Hand back what has not started, wait for what has, until the deadline."""
        places = set(notice.partitions)
        hand, consumer = self._hand, self._consumer
        hand.leaving |= places
        try:
            if not hand.settles_first:
                leaving = hand.take_out(lambda one: (one.topic, one.partition) in places)
                self._answers.hand_back(*leaving)
            await hand.until(lambda: not hand.of(places), notice.deadline)
            await patiently(self._clock, lambda: consumer.release(notice.partitions))
            if not hand.settles_first:
                await self._lose(notice.partitions)
        finally:
            hand.leaving -= places
