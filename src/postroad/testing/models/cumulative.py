"""A road that settles by position, as Kafka does: a partitioned log, and one committed offset for
each partition and group."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from postroad.core.capabilities import Capabilities
from postroad.core.delivery import Delivery, Settled, Settlement, Start
from postroad.core.subscription import Subscription
from postroad.core.transport import Plan
from postroad.testing.models.base import ModelTransport
from postroad.testing.models.consumer import Offer, no_nacks
from postroad.testing.models.log import Log, LogConsumer, LogModel, Record
from postroad.testing.models.ownership import Member, Ownership


class PositionGroup:
    """A group and its positions: everything before one is settled, nothing after it.

    Attributes:
        committed: for each partition, the first offset that is not settled.
        reading: for each partition, the next offset to hand to its present owner.
    """

    def __init__(self, log: Log[PositionGroup], name: str | None, start: Start) -> None:
        self.name = name
        self.committed: list[int] = []
        self.reading: list[int] = []
        self.ownership = Ownership(log.name, log.partitions, log.broker.random, self._vacated)
        self._log = log
        self.seek(start)

    def _vacated(self, member: Member, partition: int, lost: bool) -> None:
        # Whoever comes next goes on from the position; what was only read is read again.
        self.reading[partition] = self.committed[partition]

    @property
    def active(self) -> bool:
        """See `Group`."""
        return bool(self.ownership.members)

    def seek(self, to: Start) -> None:
        """See `Group`."""
        self.committed = [self._log.offset_of(n, to) for n in range(self._log.partitions)]
        self.reading = list(self.committed)

    def unsettled(self, partition: int) -> Iterable[Record]:
        """See `Group`."""
        return self._log.lines[partition][self.committed[partition] :]

    def commit(self, partition: int, offset: int) -> None:
        """Settle everything up to that offset."""
        self.committed[partition] = max(self.committed[partition], offset + 1)


class PositionLog(Log[PositionGroup]):
    """A topic whose groups settle by position."""

    def make_group(self, name: str | None, start: Start) -> PositionGroup:
        """See `Log`."""
        return PositionGroup(self, name, start)

    def join(
        self, road: ModelTransport[Any], subscription: Subscription, plan: Plan
    ) -> CumulativeConsumer:
        """See `Channel`."""
        return CumulativeConsumer(road, self, self.group_of(subscription), subscription, plan)


class CumulativeModel(LogModel[PositionGroup]):
    """In memory, for tests: settling offset n of a partition settles everything before it.

    The subscription's lease is the session's timeout: any call of a consumer renews it, and who
    is silent for longer loses its partitions. Partitions are rebalanced as members come and go,
    by revocations that do not wait for anybody to receive. A nack is refused.
    """

    capabilities = Capabilities(
        settling="cumulative",
        order="key-group",
        backlog="kept",
        durable=True,
        shared=True,
        groups=True,
        ephemeral=True,
        history=True,
        seek=True,
        browse=True,
        lag=True,
        lease=True,
        risk="the server is an object in this process",
    )

    def make_channel(self, name: str, partitions: int) -> Log[PositionGroup]:
        """See `ModelTransport`."""
        return PositionLog(self.broker, name, partitions)

    def committed(self, topic: str, group: str) -> Sequence[int]:
        """The position of each partition."""
        return tuple(self.found(topic).group(group).committed)


class CumulativeConsumer(LogConsumer[PositionGroup]):
    """Reads ahead of its group's positions, and moves them."""

    def _offers(self) -> Iterator[Offer]:
        for number in self._ready():
            line = self._log.lines[number]
            while self._group.reading[number] < len(line):
                record = line[self._group.reading[number]]
                yield record.message, partial(self._hand_out, number, record)

    def _hand_out(self, number: int, record: Record) -> Delivery:
        offset = self._group.reading[number]
        self._group.reading[number] += 1
        return Delivery(
            message=record.message,
            topic=self._log.name,
            group=self._group.name,
            partition=number,
            offset=offset,
            lease_until_us=self._lease_until_us(),
            fence=self._member.fences[number],
        )

    def _owns(self, delivery: Delivery) -> bool:
        return self._holds_partition(delivery)

    def _check_actions(self, settlements: Sequence[Settlement]) -> None:
        no_nacks(settlements, "this road settles by position")

    def _answer(self, settlement: Settlement) -> Settled:
        delivery = settlement.delivery
        if not self._holds_partition(delivery):
            return "stale"
        assert isinstance(delivery.offset, int)
        self._group.commit(delivery.partition, delivery.offset)
        return "done"
