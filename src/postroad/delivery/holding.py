"""Messages that failed and run again in this process, and how far their keys may pile up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta

from postroad.core.clock import Clock
from postroad.core.delivery import Delivery, Partition
from postroad.core.subscription import Subscription
from postroad.core.transport import Consumer
from postroad.delivery.execution import Held
from postroad.delivery.lanes import Lanes
from postroad.delivery.patience import patiently

_WORTH_PARKING = 0.1
_MANY_FAILURES = 3
"""A wait of fewer seconds is over before the road has heard that a key is parked; but many short
ones are a long one."""


def blocked_share(most: int) -> int:
    """How much of what may be held at all may be blocked; the rest is for the other keys."""
    return most * 3 // 4


class Holding:
    """Blocked lanes: a failed message keeps its lane from its first failure to its end. While it
    waits it occupies no worker, and what it blocks takes no room from the other keys.

    Args:
        lanes: where a message goes when its wait is over.
        subscription: says how many may wait behind one before its key is parked, or its
            partition not read any more (`Retry.hold`); all blocked keys together get a share of
            what may be held at all.
        ready: called when a message was put back into the lanes.
        park: gives a message that waits for so long back, with what stands behind it; None where
            nothing can keep them in order.
    """

    def __init__(
        self,
        lanes: Lanes,
        subscription: Subscription,
        clock: Clock,
        ready: Callable[[], None],
        park: Callable[[Delivery, timedelta], None] | None = None,
    ) -> None:
        self.blocked: dict[int, Delivery] = {}
        self._lanes = lanes
        self._sub = subscription
        self._clock = clock
        self._ready = ready
        self._park = park
        self._waits: dict[int, asyncio.Task[None]] = {}
        self._due: dict[int, float] = {}
        self._changed = asyncio.Event()

    def behind(self) -> int:
        """How many messages are blocked: those that failed, and those in line behind them."""
        lanes = self._lanes
        return sum(1 + lanes.waiting_behind(delivery) for delivery in self.blocked.values())

    def bytes_behind(self) -> int:
        """How many payload bytes are blocked."""
        return sum(
            len(delivery.message.data) + self._lanes.bytes_behind(delivery)
            for delivery in self.blocked.values()
        )

    def hold(self, held: Held) -> None:
        """Let a failed message wait, then run again."""
        identity = id(held.delivery)
        self.blocked[identity] = held.delivery
        self._due[identity] = self._clock.monotonic() + held.delay.total_seconds()
        self._waits[identity] = asyncio.create_task(self._again_after(held))
        self._changed.set()

    def finished(self, delivery: Delivery) -> None:
        """Its fate is decided: it blocks nothing any more."""
        if self.blocked.pop(id(delivery), None) is not None:
            self._due.pop(id(delivery), None)
            self._changed.set()

    def more(self) -> None:
        """Messages were added to the lanes."""
        if self.blocked:
            self._changed.set()

    def drop(self, wanted: Callable[[Delivery], bool] = lambda _: True) -> list[Held]:
        """Stop waiting with those that are wanted; returns them with what is left of their
        waits, lanes free."""
        dropped = []
        for identity in list(self._waits):
            delivery = self.blocked[identity]
            if wanted(delivery):
                dropped.append(self._stop_waiting(delivery))
                self._lanes.done(delivery)
        return dropped

    def _stop_waiting(self, delivery: Delivery) -> Held:
        rest = timedelta(seconds=self._rest(delivery))
        self._waits.pop(id(delivery)).cancel()
        self.finished(delivery)
        return Held(delivery, rest)

    def _rest(self, delivery: Delivery) -> float:
        """Seconds that it still has to wait."""
        return max(0.0, self._due[id(delivery)] - self._clock.monotonic())

    async def regulate(self, consumer: Consumer) -> None:
        """Park the keys that have as many behind them as may be held. Where that cannot be, or
        is not worth it, stop reading their partitions until they have fewer; until cancelled."""
        paused: set[Partition] = set()
        while True:
            await self._changed.wait()
            self._changed.clear()
            full = self._partitions(self._parked_away(self._full()))
            for change, places in (
                (consumer.pause, sorted(full - paused)),
                (consumer.resume, sorted(paused - full)),
            ):
                if places:
                    await patiently(self._clock, lambda: change(places))  # noqa: B023
            paused = full

    def _parked_away(self, full: list[Delivery]) -> list[Delivery]:
        """Park what can be; returns the others."""
        if self._park is None:
            return full
        others = []
        for delivery in full:
            if id(delivery) in self._waits and self._is_worth_parking(delivery):
                held = self._stop_waiting(delivery)
                self._park(delivery, held.delay)
            else:
                others.append(delivery)
        return others

    def _is_worth_parking(self, delivery: Delivery) -> bool:
        return self._rest(delivery) >= _WORTH_PARKING or delivery.attempts >= _MANY_FAILURES

    def _partitions(self, deliveries: list[Delivery]) -> set[Partition]:
        return {(delivery.topic, delivery.partition) for delivery in deliveries}

    def _full(self) -> list[Delivery]:
        sub, lanes = self._sub, self._lanes
        count = max(1, len(self.blocked))
        limit = min(sub.retry.hold, max(1, blocked_share(sub.prefetch) // count))
        most_bytes = blocked_share(sub.prefetch_bytes) // count
        return [
            delivery
            for delivery in self.blocked.values()
            if lanes.waiting_behind(delivery) >= limit or lanes.bytes_behind(delivery) >= most_bytes
        ]

    async def _again_after(self, held: Held) -> None:
        await self._clock.sleep(held.delay.total_seconds())
        del self._waits[id(held.delivery)]
        self._lanes.again(held.delivery)
        self._ready()
