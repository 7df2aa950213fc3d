"""A road that settles by position and publishes in the same commit, as Kafka's transactions do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from postroad.core.delivery import Settled, Settlement
from postroad.core.message import Message
from postroad.core.subscription import Subscription
from postroad.core.topic import Topic
from postroad.core.transport import Plan
from postroad.testing.models.base import ModelTransport
from postroad.testing.models.cumulative import (
    CumulativeConsumer,
    CumulativeModel,
    PositionGroup,
    PositionLog,
)
from postroad.testing.models.log import Log


class AtomicLog(PositionLog):
    """A topic whose consumers publish as they settle."""

    def join(
        self, road: ModelTransport[Any], subscription: Subscription, plan: Plan
    ) -> AtomicConsumer:
        """See `Channel`."""
        return AtomicConsumer(road, self, self.group_of(subscription), subscription, plan)


class AtomicModel(CumulativeModel):
    """In memory, for tests: `CumulativeModel` whose consumers implement `AtomicSettle`.

    A position carries all before it into the commit: whoever settles past a message whose
    results are not in the call loses them.
    """

    capabilities = replace(CumulativeModel.capabilities, atomic_settle=True)

    def make_channel(self, name: str, partitions: int) -> Log[PositionGroup]:
        """See `ModelTransport`."""
        return AtomicLog(self.broker, name, partitions)


class AtomicConsumer(CumulativeConsumer):
    """Implements `AtomicSettle`."""

    async def settle_and_publish(
        self, settlements: Sequence[Settlement], messages: Sequence[tuple[Topic[Any], Message]]
    ) -> Sequence[Settled]:
        """See `AtomicSettle`. What was settled before is stale, too: it has published already,
        or it never will.

        Raises:
            NotSupportedError: a nack; nothing is committed.
            TransportUnavailableError: see `ModelTransport.lose_replies`.
        """
        self._check_actions(settlements)
        await self._reach()
        current = [self._is_current(settlement) for settlement in settlements]
        if not all(current):
            return ["unknown" if one else "stale" for one in current]
        # No await between the two: either both happen or neither does.
        for settlement in settlements:
            self._answer(settlement)
        self._road.accept(messages)
        self._road.reply()
        return ["done"] * len(settlements)

    def _is_current(self, settlement: Settlement) -> bool:
        delivery = settlement.delivery
        assert isinstance(delivery.offset, int)
        committed = self._group.committed[delivery.partition]
        return self._holds_partition(delivery) and delivery.offset >= committed
