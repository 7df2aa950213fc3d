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
                self._lose(notice.partitions)
        await asyncio.Event().wait()

    def _lose(self, partitions: Sequence[Partition]) -> None:
        """Forget what has not started; what runs will find that it is stale."""
        held, queued = self._hand.take_out(partitions)
        gone = queued + [one.delivery for one in held]
        self._hand.settled([Settlement(delivery) for delivery in gone])
        self._forget(partitions)

    async def _give_up(self, notice: Revoking) -> None:
        """Hand back what has not started, wait for what has, until the deadline."""
        places = set(notice.partitions)
        hand, consumer = self._hand, self._consumer
        hand.leaving |= places
        try:
            if not hand.settles_first:
                self._answers.hand_back(*hand.take_out(places))
            await hand.until(
                lambda: all((d.topic, d.partition) not in places for d in hand), notice.deadline
            )
            await patiently(self._clock, lambda: consumer.release(notice.partitions))
            self._forget(notice.partitions)
        finally:
            hand.leaving -= places

    def _forget(self, partitions: Sequence[Partition]) -> None:
        if self._hand.prefix is not None:
            self._settler.forget(partitions)
        if self._hand.parking is not None:
            self._hand.parking.forget(partitions)
