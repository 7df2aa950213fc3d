"""A road that keeps nothing, as Redis pub/sub does: a slow reader loses, and is told."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from postroad.core.capabilities import Capabilities
from postroad.core.delivery import Delivery, Receipt, Settled, Settlement
from postroad.core.message import Message
from postroad.core.notices import Gap
from postroad.core.partitioner import partition_of
from postroad.core.subscription import Subscription
from postroad.core.transport import Plan
from postroad.testing.models.base import Broker, Channel, ModelTransport
from postroad.testing.models.consumer import ModelConsumer, Offer, no_nacks

CAPACITY = 1000
"""How many messages the server has waiting for one reader."""


class Fan(Channel):
    """A topic: whoever reads it now gets a copy."""

    def accept(self, message: Message) -> Receipt:
        """See `Channel`."""
        for consumer in self.consumers:
            assert isinstance(consumer, LossyConsumer)
            consumer.pushed(message)
        return Receipt()

    def declare(self, subscription: Subscription) -> None:
        """See `Channel`; there are no groups to make."""

    def join(
        self, road: ModelTransport[Any], subscription: Subscription, plan: Plan
    ) -> LossyConsumer:
        """See `Channel`."""
        return LossyConsumer(road, self, subscription, plan)

    @property
    def groups(self) -> Sequence[str]:
        """See `Channel`."""
        return ()


class LossyModel(ModelTransport[Fan]):
    """In memory, for tests: readers without a group, each with a bounded buffer on the server.
    When it is full the server closes the connection, and the buffer with it is gone: a gap.

    Args:
        counts: whether the reader can tell how many it missed.
        capacity: of the buffer of each reader, in messages.
    """

    capabilities = Capabilities(
        settling="none",
        order="key-consumer",
        backlog="dropped",
        shared=True,
        ephemeral=True,
        risk="what a reader does not read in time is lost, with a notice of the gap",
    )

    def __init__(
        self, broker: Broker[Fan] | None = None, *, counts: bool = True, capacity: int = CAPACITY
    ) -> None:
        super().__init__(broker)
        self.counts = counts
        self.capacity = capacity

    def make_channel(self, name: str, partitions: int) -> Fan:
        """See `ModelTransport`."""
        return Fan(self.broker, name, partitions)


class LossyConsumer(ModelConsumer):
    """One reader."""

    def __init__(
        self, road: ModelTransport[Any], fan: Fan, subscription: Subscription, plan: Plan
    ) -> None:
        super().__init__(road, fan, subscription, plan)
        assert isinstance(road, LossyModel)
        self._counts, self._capacity = road.counts, road.capacity
        self._buffer: deque[Message] = deque()

    def pushed(self, message: Message) -> None:
        """Take one into the buffer; if it is full, lose all of it and that one."""
        if len(self._buffer) < self._capacity:
            self._buffer.append(message)
        else:
            missed = len(self._buffer) + 1
            self._buffer.clear()
            self.told.put(Gap(self._base.name, missed if self._counts else None))
        self.wake()

    def _alive(self) -> None:
        """Nobody keeps watch over readers."""

    def _offers(self) -> Iterator[Offer]:
        while self._buffer:
            number = self._partition_of(self._buffer[0])
            if (self._base.name, number) in self.paused:
                return
            yield self._buffer[0], partial(self._hand_out, number)

    def _partition_of(self, message: Message) -> int:
        return 0 if message.key is None else partition_of(message.key, self._base.partitions)

    def _hand_out(self, number: int) -> Delivery:
        message = self._buffer.popleft()
        return Delivery(message=message, topic=self._base.name, partition=number)

    def _owns(self, delivery: Delivery) -> bool:
        return True

    def _check_actions(self, settlements: Sequence[Settlement]) -> None:
        no_nacks(settlements, "what this road hands out is gone")

    def _answer(self, settlement: Settlement) -> Settled:
        return "done"

    def _leave(self) -> None:
        self._buffer.clear()
