"""What all model transports share: a server that lives in the test, and instances that reach it.

Each instance of a transport stands for one process of ours, the `Broker` for the server. An
instance can be stopped and set going again (`stall`, `resume`) and killed (`kill`), as SIGSTOP,
SIGCONT and SIGKILL would, or a cable that is pulled.
"""

from __future__ import annotations

import asyncio
import secrets
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from random import Random
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from postroad.core.capabilities import Capabilities
from postroad.core.clock import Clock, SystemClock
from postroad.core.delivery import Delivery, Receipt, Start
from postroad.core.message import Message
from postroad.core.notices import Notice, NoticeQueue
from postroad.core.pattern import matches
from postroad.core.reports import Lag, TopicInfo
from postroad.core.subscription import Subscription
from postroad.core.topic import Topic
from postroad.core.transport import Plan
from postroad.errors import (
    ClosedError,
    NotFoundError,
    NotSupportedError,
    TopicMismatchError,
    TransportUnavailableError,
)

if TYPE_CHECKING:
    from postroad.testing.models.consumer import ModelConsumer


class Channel(ABC):
    """One topic on a broker. Every method is synchronous: between two awaits it is consistent."""

    def __init__(self, broker: Broker[Any], name: str, partitions: int) -> None:
        self.broker = broker
        self.name = name
        self.partitions = partitions
        self.consumers: list[ModelConsumer] = []

    def wake(self) -> None:
        """Let every waiting consumer look again."""
        for consumer in tuple(self.consumers):
            consumer.wake()

    @abstractmethod
    def accept(self, message: Message) -> Receipt:
        """Take a message."""

    @abstractmethod
    def declare(self, subscription: Subscription) -> None:
        """Make the group, if there is one and it is new."""

    @abstractmethod
    def join(
        self, road: ModelTransport[Any], subscription: Subscription, plan: Plan
    ) -> ModelConsumer:
        """A consumer of this topic."""

    @property
    @abstractmethod
    def groups(self) -> Sequence[str]:
        """The names of its groups."""


C = TypeVar("C", bound=Channel)


class Broker(Generic[C]):
    """The server: what is on it outlives every instance that reaches it.

    Args:
        seed: of every choice that a server is free to make; drawn and kept in `seed` if not given.
        hasty: a partition that was lost or released and came back at once may be read before the
            notice of its loss is, or before the answer to `release` arrives.
    """

    def __init__(
        self, *, seed: int | None = None, clock: Clock | None = None, hasty: bool = False
    ) -> None:
        self.hasty = hasty
        self.seed = secrets.randbelow(2**32) if seed is None else seed
        self.random = Random(self.seed)
        self.clock: Clock = clock or SystemClock()
        self.channels: dict[str, C] = {}


class ModelTransport(ABC, Generic[C]):
    """One process's instance of a model: implements `Transport` and `Source`.

    What it does, it does at once; only `stall` makes its calls wait. While it is not open,
    everything but `open` and `close` raises `ClosedError`.
    """

    capabilities: Capabilities

    def __init__(self, broker: Broker[C] | None = None) -> None:
        self.broker: Broker[C] = broker or Broker()
        self.killed = False
        self.consumers: list[ModelConsumer] = []
        self._open = False
        self._lost_replies = 0
        self._running = asyncio.Event()
        self._running.set()
        self._notices = NoticeQueue()

    @abstractmethod
    def make_channel(self, name: str, partitions: int) -> C:
        """A new topic on the broker."""

    # ------------------------------------------------------------- life and death

    async def open(
        self, topics: Sequence[Topic[Any]], subscriptions: Sequence[Subscription]
    ) -> None:
        """See `Transport.open`."""
        for topic in topics:
            self._check_partitions(topic)
        if not self._open:
            self._open = True
            self._notices = NoticeQueue()
        for topic in topics:
            self._channel(topic)
        for subscription in subscriptions:
            if subscription.group is not None:
                self._refuse_unreadable(subscription)
                self._source(subscription).declare(subscription)

    def _check_partitions(self, topic: Topic[Any]) -> None:
        known = self.broker.channels.get(topic.name)
        if known is not None and known.partitions != topic.partition_count:
            raise TopicMismatchError(
                f"{topic.name!r} has {known.partitions} partitions on this road, not "
                f"{topic.partition_count}"
            )

    async def close(self) -> None:
        """See `Transport.close`."""
        self._open = False
        for consumer in tuple(self.consumers):
            await consumer.close()
        self._notices.close()
        self._running.set()

    def stall(self) -> None:
        """Stop this process, or cut it off: whatever it asks waits, notices do not arrive, and
        the server does not know."""
        self._running.clear()

    def resume(self) -> None:
        """End a `stall`: what waited goes on, as late as it is. Never after `kill`."""
        if not self.killed:
            self._running.set()

    def kill(self) -> None:
        """End this process without a goodbye: it is stalled for good. What the server makes of
        it is the server's business. Closing it afterwards frees what the test still holds."""
        self.killed = True
        self.stall()
        for consumer in tuple(self.consumers):
            consumer.dropped()

    def lose_replies(self, count: int) -> None:
        """So many of the next settlements are done, but their answers are lost on the way."""
        self._lost_replies = count

    def reply(self) -> None:
        """A settlement is done, and its answer is on the way.

        Raises:
            TransportUnavailableError: it is lost.
        """
        if self._lost_replies:
            self._lost_replies -= 1
            raise TransportUnavailableError("the connection broke before the answer came")

    @property
    def reachable(self) -> bool:
        """Whether the server hears this instance."""
        return self._running.is_set()

    async def reach(self) -> None:
        """Return once the server hears this instance.

        Raises:
            ClosedError: it is closed.
        """
        if self._open:
            await self._running.wait()
        if not self._open:
            raise ClosedError("this road is not open; use `async with` or call open()")

    def notices(self) -> AsyncIterator[Notice]:
        """See `Transport.notices`."""
        return aiter(self._notices)

    # ------------------------------------------------------------- topics

    def _channel(self, topic: Topic[Any]) -> C:
        channel = self.broker.channels.get(topic.name)
        if channel is None:
            channel = self.make_channel(topic.name, topic.partition_count)
            self.broker.channels[topic.name] = channel
        return channel

    def found(self, topic: str) -> C:
        """The topic of that name.

        Raises:
            NotFoundError: there is none.
        """
        channel = self.broker.channels.get(topic)
        if channel is None:
            raise NotFoundError(f"no topic {topic!r} on this road")
        return channel

    async def topics(self, pattern: str) -> Sequence[TopicInfo]:
        """See `Source.topics`."""
        await self.reach()
        return [
            TopicInfo(channel.name, channel.partitions, None, tuple(channel.groups))
            for channel in self.broker.channels.values()
            if matches(pattern, channel.name)
        ]

    async def publish(self, messages: Sequence[tuple[Topic[Any], Message]]) -> Sequence[Receipt]:
        """See `Transport.publish`: all of a batch at once."""
        await self.reach()
        return self.accept(messages)

    def accept(self, messages: Sequence[tuple[Topic[Any], Message]]) -> Sequence[Receipt]:
        """Put a batch on the broker, now."""
        return [self._channel(topic).accept(message) for topic, message in messages]

    # ------------------------------------------------------------- reading

    async def subscribe(self, subscription: Subscription, plan: Plan) -> ModelConsumer:
        """See `Source.subscribe`.

        Raises:
            NotSupportedError: a filter, a pattern, or what the capabilities say of groups.
        """
        await self.reach()
        if plan.filter is not None:
            raise NotSupportedError("this road evaluates no filters; leave them to the engine")
        self._refuse_unreadable(subscription)
        channel = self._source(subscription)
        if subscription.group is not None:
            channel.declare(subscription)
        consumer = channel.join(self, subscription, plan)
        self.consumers.append(consumer)
        channel.consumers.append(consumer)
        return consumer

    def _refuse_unreadable(self, subscription: Subscription) -> None:
        if subscription.is_pattern:
            raise NotSupportedError("this road reads no patterns; name the topics one by one")
        if subscription.group is not None and not self.capabilities.groups:
            raise NotSupportedError("this road has no groups; group=None works here")
        if subscription.group is None and not self.capabilities.ephemeral:
            raise NotSupportedError("this road has named groups only; give one")

    def _source(self, subscription: Subscription) -> C:
        source = subscription.source
        return self._channel(source) if isinstance(source, Topic) else self.found(source)

    async def browse(self, topic: str, start: Start, limit: int) -> Sequence[Delivery]:
        """Refused unless a model says otherwise."""
        await self.reach()
        self.found(topic)
        raise NotSupportedError("this road keeps nothing to browse")

    async def seek(self, topic: str, group: str, to: Start) -> None:
        """Refused unless a model says otherwise."""
        await self.reach()
        if group not in self.found(topic).groups:
            raise NotFoundError(f"no group {group!r} on {topic!r}")
        raise NotSupportedError("this road keeps no history to seek in")

    async def lag(self, topic: str, group: str) -> Lag:
        """Refused unless a model says otherwise."""
        await self.reach()
        raise NotSupportedError("this road has no groups that could be behind")
