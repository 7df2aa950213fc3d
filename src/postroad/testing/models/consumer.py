"""What the consumers of all model transports do alike."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from asyncio import Future
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

from postroad.core.delivery import Delivery, Partition, Settled, Settlement
from postroad.core.message import Message
from postroad.core.notices import Notice, NoticeQueue
from postroad.core.subscription import Subscription
from postroad.core.transport import Plan
from postroad.errors import ClosedError, NotSupportedError
from postroad.testing.models.base import Channel, ModelTransport
from postroad.transports.memory.waiting import ring, wait_for

Offer = tuple[Message, Callable[[], Delivery]]
"""A message that could be handed out next, and what hands it out."""


class Told(NoticeQueue):
    """Counts what was put."""

    count = 0

    def put(self, notice: Notice) -> None:
        self.count += 1
        super().put(notice)


class ModelConsumer(ABC):
    """Implements `Consumer`, but for what each model says of its own.

    `receive` hands a message out only as it is about to return, so that cancelling it loses
    nothing; and never in the turn of the loop in which a notice was put, so that whoever reads
    notices knows of a loss before what was lost comes again.
    """

    def __init__(
        self, road: ModelTransport[Any], channel: Channel, subscription: Subscription, plan: Plan
    ) -> None:
        self.subscription = subscription
        self.lease = plan.lease.total_seconds()
        self.told = Told()
        self._known = 0
        self.closed = False
        self.paused: set[Partition] = set()
        self._road = road
        self._base = channel
        self._clock = channel.broker.clock
        self._bell: Future[None] | None = None

    # ------------------------------------------------------------- what a model says

    @abstractmethod
    def _alive(self) -> None:
        """Note a sign of life, and do what is due on the server."""

    @abstractmethod
    def _offers(self) -> Iterator[Offer]:
        """What could be handed out now, in order."""

    @abstractmethod
    def _owns(self, delivery: Delivery) -> bool:
        """Whether it may still be answered."""

    @abstractmethod
    def _answer(self, settlement: Settlement) -> Settled:
        """Answer one."""

    @abstractmethod
    def _leave(self) -> None:
        """Say goodbye: what is unsettled goes back."""

    def _next_event(self) -> float:
        """When to look again at the latest, on the monotonic clock."""
        return self._clock.monotonic() + self.lease / 3

    def dropped(self) -> None:  # noqa: B027 - most servers do not see a client die
        """The process was killed. By default nobody notices."""

    def _started(self, delivery: Delivery) -> None:  # noqa: B027 - not abstract
        """Work on it begins. By default nobody writes that down."""

    def _extended(self, delivery: Delivery) -> None:  # noqa: B027 - not abstract
        """Its lease is renewed. By default it has none of its own."""

    # ------------------------------------------------------------- receiving

    async def receive(self, limit: int, max_bytes: int, wait: timedelta) -> Sequence[Delivery]:
        """See `Consumer.receive`.

        Raises:
            ClosedError: after `close`. One that waits while it is closed returns empty, but for
                one that waits in a process that is stalled.
        """
        self._check_open()
        deadline = self._clock.monotonic() + wait.total_seconds()
        await asyncio.sleep(0)
        while not self.closed:
            if not self._road.reachable:
                await self._road.reach()
                if not self._base.broker.hasty:
                    # Notices that arrive now are read first.
                    await asyncio.sleep(0)
                continue
            self._alive()
            if self.told.count > self._known and not self._base.broker.hasty:
                self._known = self.told.count
                await asyncio.sleep(0)
                continue
            batch = self._take(limit, max_bytes)
            now = self._clock.monotonic()
            if batch or now >= deadline:
                return batch
            await self._wait(min(deadline, self._next_event()) - now)
        return []

    def _take(self, limit: int, max_bytes: int) -> list[Delivery]:
        batch: list[Delivery] = []
        for message, hand_out in self._offers():
            if len(batch) == limit or (batch and len(message.data) > max_bytes):
                break
            max_bytes -= len(message.data)
            batch.append(hand_out())
        return batch

    async def _wait(self, seconds: float) -> None:
        self._bell = asyncio.get_running_loop().create_future()
        try:
            await wait_for(self._bell, self._clock, seconds)
        finally:
            self._bell = None

    def wake(self) -> None:
        """End its wait, if it waits."""
        ring(self._bell)

    async def pause(self, partitions: Sequence[Partition]) -> None:
        """See `Consumer.pause`."""
        self.paused.update(partitions)

    async def resume(self, partitions: Sequence[Partition]) -> None:
        """See `Consumer.resume`."""
        self.paused.difference_update(partitions)
        self.wake()

    # ------------------------------------------------------------- answering

    async def begin(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """See `Consumer.begin`."""
        await self._reach()
        owned = [delivery for delivery in deliveries if self._owns(delivery)]
        for delivery in owned:
            self._started(delivery)
        return owned

    async def extend(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """See `Consumer.extend`."""
        await self._reach()
        owned = [delivery for delivery in deliveries if self._owns(delivery)]
        for delivery in owned:
            self._extended(delivery)
        return owned

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        """See `Consumer.settle`.

        Raises:
            NotSupportedError: a nack, where nothing can be given back; nothing is answered.
            TransportUnavailableError: see `ModelTransport.lose_replies`.
        """
        self._check_actions(settlements)
        await self._reach()
        answers = [self._answer(settlement) for settlement in settlements]
        self._base.wake()
        self._road.reply()
        return answers

    def _check_actions(self, settlements: Sequence[Settlement]) -> None:  # noqa: B027
        """Refuse what this road cannot answer. By default there is no such thing."""

    async def release(self, partitions: Sequence[Partition]) -> None:
        """See `Consumer.release`."""
        await self._reach()

    # ------------------------------------------------------------- life

    async def notices(self) -> AsyncIterator[Notice]:
        """See `Consumer.notices`. They do not reach a process that is stalled."""
        async for notice in self.told:
            if not self.closed:
                await self._road.reach()
            yield notice

    async def close(self) -> None:
        """See `Consumer.close`."""
        if self.closed:
            return
        self.closed = True
        self._road.consumers.remove(self)
        if self._road.reachable:
            self._leave()
            self._base.consumers.remove(self)
        self.told.close()
        self.wake()
        self._base.wake()

    async def _reach(self) -> None:
        self._check_open()
        await self._road.reach()
        self._check_open()
        self._alive()

    def _check_open(self) -> None:
        if self.closed:
            raise ClosedError(f"the consumer of {self.subscription} is closed")


def no_nacks(settlements: Sequence[Settlement], why: str) -> None:
    """Refuse nacks.

    Raises:
        NotSupportedError: there is one.
    """
    if any(settlement.action == "nack" for settlement in settlements):
        raise NotSupportedError(f"{why}: a message cannot be given back by itself")
