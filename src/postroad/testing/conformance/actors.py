"""Well-behaved members of a group: they receive, settle in order, and release when asked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import timedelta

from postroad.core.delivery import Delivery, Partition, Settlement
from postroad.core.notices import Assigned, Lost, Revoking
from postroad.core.transport import Consumer
from postroad.testing.conformance.waiting import PATIENCE

_BYTES = 64 << 20
_WAIT = timedelta(milliseconds=50)


class Actor:
    """Runs one consumer from construction until `leave` or `vanish`.

    Attributes:
        done: deliveries whose acknowledgement the road confirmed, in that order.
        stale: how many acknowledgements came too late.
        assigned: partitions that the road's notices have given and not taken back.
    """

    def __init__(
        self,
        consumer: Consumer,
        *,
        limit: int = 500,
        handle: Callable[[Delivery], None] = lambda delivery: None,
        settled: Callable[[Delivery], None] = lambda delivery: None,
    ) -> None:
        self.done: list[Delivery] = []
        self.stale = 0
        self.assigned: set[Partition] = set()
        self._consumer = consumer
        self._limit = limit
        self._handle = handle
        self._on_settled = settled
        self._to_release: list[Partition] = []
        self._leaving = False
        self._vanishing = False
        self._listening = asyncio.create_task(self._listen())
        self._running = asyncio.create_task(self._run())

    @property
    def failed(self) -> bool:
        """Whether a check of it, or the road, ended it."""
        return self._running.done() and not self._running.cancelled()

    def check(self) -> None:
        """Raise what ended it, if anything did."""
        if self.failed:
            self._running.result()

    async def settled(self, count: int, patience: float = PATIENCE) -> None:
        """Return once it has acknowledged at least so many.

        Raises:
            AssertionError: for so many seconds no more came, or a check of it failed.
        """
        had, since = 0, time.monotonic()
        while len(self.done) < count and not self.failed:
            if len(self.done) > had:
                had, since = len(self.done), time.monotonic()
            elif time.monotonic() - since > patience:
                break
            await asyncio.sleep(0.01)
        self.check()
        lost = count - len(self.done)
        assert lost <= 0, f"{lost} of {count} messages lost: none came for {patience} s"

    async def leave(self) -> None:
        """Finish the batch in hand and leave the group. Raises what its checks found."""
        self._leaving = True
        await self._running
        await self._consumer.close()
        await self._listening

    async def vanish(self) -> None:
        """Leave with the batch in hand unsettled: closing hands it back."""
        self._vanishing = True
        await self.leave()

    async def _run(self) -> None:
        while not self._leaving:
            batch = await self._consumer.receive(self._limit, _BYTES, _WAIT)
            await self._work(batch)
            await self._consumer.extend([])
            await self._release()

    async def _work(self, batch: Sequence[Delivery]) -> None:
        for delivery in batch:
            self._handle(delivery)
        await asyncio.sleep(0)
        if self._vanishing:
            return
        results = await self._consumer.settle([Settlement(delivery) for delivery in batch])
        for delivery, result in zip(batch, results, strict=True):
            if result == "done":
                self.done.append(delivery)
                self._on_settled(delivery)
            else:
                self.stale += 1

    async def _release(self) -> None:
        partitions, self._to_release = self._to_release, []
        if partitions:
            await self._consumer.release(partitions)
            self.assigned.difference_update(partitions)

    async def _listen(self) -> None:
        async for notice in self._consumer.notices():
            if isinstance(notice, Assigned):
                self.assigned.update(notice.partitions)
            elif isinstance(notice, Lost):
                self.assigned.difference_update(notice.partitions)
            elif isinstance(notice, Revoking):
                self._to_release.extend(notice.partitions)
