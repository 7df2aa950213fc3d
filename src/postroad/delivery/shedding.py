"""Load shedding: what to drop while a group is overloaded."""

from __future__ import annotations

from collections.abc import Sequence
from zlib import crc32

from postroad.core.clock import Clock
from postroad.core.delivery import Delivery
from postroad.core.flow import Shed
from postroad.core.transport import Source
from postroad.delivery.patience import patiently

_EVERY = 0.25


class Shedder:
    """Watches a group's backlog and says which deliveries to drop."""

    def __init__(self, shed: Shed, source: Source, pattern: str, group: str, clock: Clock) -> None:
        self._shed = shed
        self._source = source
        self._pattern = pattern
        self._group = group
        self._clock = clock
        self._excess = 0

    async def run(self) -> None:
        """Keep an eye on the backlog until cancelled."""
        while True:
            await self._clock.sleep(_EVERY)
            await self.look()

    async def look(self) -> None:
        """Measure the backlog once. A backlog that is unknown counts as no overload."""
        topics = await patiently(self._clock, lambda: self._source.topics(self._pattern))
        waiting = 0
        for topic in topics:
            if self._group in topic.groups:
                lag = await self._source.lag(topic.name, self._group)
                waiting += lag.messages or 0
        self._excess = waiting - self._shed.above

    def dropped(self, batch: Sequence[Delivery]) -> set[int]:
        """The ids (as by `id`) of the deliveries of a batch to drop."""
        excess = self._excess
        if excess <= 0:
            return set()
        # Dropped or handled, the batch leaves the backlog: what was measured before holds no more.
        self._excess -= len(batch)
        # And no more than the excess is up for it, however large the batch.
        batch = batch[:excess]
        if self._shed.policy == "drop-oldest":
            chosen = batch
        elif self._shed.policy == "drop-low-priority":
            chosen = [one for one in batch if one.message.priority < self._shed.below]
        else:
            chosen = [one for one in batch if not self._sampled(one)]
        return {id(delivery) for delivery in chosen}

    def _sampled(self, delivery: Delivery) -> bool:
        # By key, so that what is kept of a key is all of it; the same on every consumer.
        message = delivery.message
        share = crc32((message.key or message.id).encode()) / 0xFFFFFFFF
        return share < self._shed.keep
