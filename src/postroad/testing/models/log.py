"""A partitioned log, as models of roads with history keep one, and what can be asked of it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from postroad.core.clock import to_us
from postroad.core.delivery import Delivery, Partition, Position, Receipt, Start
from postroad.core.message import Message
from postroad.core.partitioner import partition_of
from postroad.core.reports import Lag, PartitionLag
from postroad.core.subscription import Subscription
from postroad.core.transport import Plan
from postroad.errors import GroupActiveError, NotFoundError, NotSupportedError
from postroad.testing.models.base import Broker, Channel, ModelTransport
from postroad.testing.models.consumer import ModelConsumer
from postroad.testing.models.ownership import Member, Ownership

_ANSWER = 0.01
"""Seconds that the answer of a hasty server is on its way."""


class Record(NamedTuple):
    """A message in its partition, and when it was accepted."""

    message: Message
    at_us: int


class Group(Protocol):
    """One group's state on one log."""

    ownership: Ownership

    @property
    def active(self) -> bool:
        """Whether it has members that live."""
        ...

    def seek(self, to: Start) -> None:
        """Move it, forgetting what is unsettled."""
        ...

    def unsettled(self, partition: int) -> Iterable[Record]:
        """What it still has to settle of a partition, oldest first."""
        ...


G = TypeVar("G", bound=Group)


class Log(Channel, Generic[G]):
    """A topic that is kept whole, and the groups that read it."""

    def __init__(self, broker: Broker[Any], name: str, partitions: int) -> None:
        super().__init__(broker, name, partitions)
        self.lines: list[list[Record]] = [[] for _ in range(partitions)]
        self.accepted = 0
        self._groups: dict[str, G] = {}

    @abstractmethod
    def make_group(self, name: str | None, start: Start) -> G:
        """A group that begins there."""

    def accept(self, message: Message) -> Receipt:
        """See `Channel`. Without a key the partitions take turns."""
        key, count = message.key, self.partitions
        number = self.accepted % count if key is None else partition_of(key, count)
        self.accepted += 1
        line = self.lines[number]
        line.append(Record(message, self.broker.clock.now_us()))
        self.wake()
        return Receipt(Position(number, len(line) - 1))

    def declare(self, subscription: Subscription) -> None:
        """See `Channel`."""
        name = subscription.group
        if name is not None and name not in self._groups:
            self._groups[name] = self.make_group(name, subscription.start)

    def group_of(self, subscription: Subscription) -> G:
        """The declared group; for `group=None` one of its own that nobody else knows."""
        if subscription.group is None:
            return self.make_group(None, subscription.start)
        return self._groups[subscription.group]

    @property
    def groups(self) -> Sequence[str]:
        """See `Channel`."""
        return tuple(self._groups)

    def group(self, name: str) -> G:
        """The group of that name.

        Raises:
            NotFoundError: there is none.
        """
        if name not in self._groups:
            raise NotFoundError(f"no group {name!r} on {self.name!r}")
        return self._groups[name]

    def offset_of(self, partition: int, start: Start) -> int:
        """Where reading a partition from `start` begins; a `Position` in another partition is
        no reason to read this one."""
        line = self.lines[partition]
        if start == "earliest":
            return 0
        if isinstance(start, datetime):
            since = to_us(start)
            return next((n for n, one in enumerate(line) if one.at_us >= since), len(line))
        if isinstance(start, Position) and start.partition == partition:
            return min(_number(start), len(line))
        return len(line)

    def browse(self, start: Start, limit: int) -> list[Delivery]:
        """See `Source.browse`."""
        return [
            Delivery(message=record.message, topic=self.name, partition=number, offset=offset)
            for number, line in enumerate(self.lines)
            for offset, record in enumerate(line)
            if offset >= self.offset_of(number, start)
        ][:limit]


def _number(position: Position) -> int:
    if not isinstance(position.offset, int):
        raise NotSupportedError(f"offsets of this road are numbers, not {position.offset!r}")
    return position.offset


class LogModel(ModelTransport[Log[G]], Generic[G]):
    """What a road with logs can tell."""

    async def browse(self, topic: str, start: Start, limit: int) -> Sequence[Delivery]:
        """See `Source.browse`."""
        await self.reach()
        return self.found(topic).browse(start, limit)

    async def seek(self, topic: str, group: str, to: Start) -> None:
        """See `Source.seek`."""
        await self.reach()
        found = self._group(topic, group)
        if found.active:
            raise GroupActiveError(f"the group {group!r} on {topic!r} has live consumers")
        found.seek(to)

    async def lag(self, topic: str, group: str) -> Lag:
        """See `Source.lag`. Exact."""
        await self.reach()
        found, now = self._group(topic, group), self.broker.clock.now_us()
        parts = []
        for number in range(self.found(topic).partitions):
            behind = list(found.unsettled(number))
            age = now - behind[0].at_us if behind else 0
            parts.append(PartitionLag(number, len(behind), timedelta(microseconds=max(0, age))))
        return Lag(topic, group, parts)

    def revoke(self, topic: str, group: str, partitions: Iterable[int]) -> None:
        """As the server: want these back from their owners, whoever that is, for no reason."""
        log = self.found(topic)
        log.group(group).ownership.revoke(partitions, self.broker.clock.monotonic())
        log.wake()

    def _group(self, topic: str, group: str) -> G:
        found = self.found(topic).group(group)
        found.ownership.advance(self.broker.clock.monotonic())
        return found


class LogConsumer(ModelConsumer, Generic[G]):
    """A member of a group that shares the partitions of a log."""

    def __init__(
        self,
        road: ModelTransport[Any],
        log: Log[G],
        group: G,
        subscription: Subscription,
        plan: Plan,
    ) -> None:
        super().__init__(road, log, subscription, plan)
        self._log = log
        self._group = group
        self._random = log.broker.random
        self._member = Member(self.lease, self._clock.monotonic(), self.told)
        group.ownership.alive(self._member, self._clock.monotonic())

    def _alive(self) -> None:
        self._group.ownership.alive(self._member, self._clock.monotonic())

    def _next_event(self) -> float:
        return min(super()._next_event(), self._group.ownership.next_event())

    def _ready(self) -> list[int]:
        """The partitions to read, as a server would: those that have most to give come no
        sooner than others."""
        ready = [
            number
            for number in self._group.ownership.readable(self._member)
            if (self._log.name, number) not in self.paused
        ]
        self._random.shuffle(ready)
        return ready

    def _holds_partition(self, delivery: Delivery) -> bool:
        return self._group.ownership.owns(self._member, delivery.partition, delivery.fence)

    async def release(self, partitions: Sequence[Partition]) -> None:
        """See `Consumer.release`. Partitions that are not being revoked are left alone."""
        await self._reach()
        numbers = [number for topic, number in partitions if topic == self._log.name]
        self._group.ownership.release(self._member, numbers, self._clock.monotonic())
        self._log.wake()
        if self._log.broker.hasty:
            await self._clock.sleep(_ANSWER)

    def _leave(self) -> None:
        self._group.ownership.leave(self._member, self._clock.monotonic())

    def _lease_until_us(self) -> int:
        return self._clock.now_us() + int(self.lease * 1e6)
