"""A road that pushes, as AMQP does, and counts nothing: messages come to whoever has room, and
go back when a connection is lost."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from datetime import timedelta
from functools import partial
from itertools import count
from typing import Any

from postroad.core.capabilities import Capabilities
from postroad.core.delivery import Delivery, Receipt, Settled, Settlement
from postroad.core.message import Message
from postroad.core.notices import Disconnected, Lost, Reconnected
from postroad.core.reports import Lag, PartitionLag
from postroad.core.subscription import Subscription
from postroad.core.transport import Plan
from postroad.errors import NotFoundError
from postroad.testing.models.base import Broker, Channel, ModelTransport
from postroad.testing.models.consumer import ModelConsumer, Offer

PREFETCH = 20
"""How many unsettled messages a server pushes to one consumer that it has not asked for."""
_IDLE = 0.05
"""Seconds after which a client gives back what it was pushed and has no use for."""


class PushQueue:
    """One group's queue on a topic."""

    def __init__(self, name: str | None, broker: Broker[Any]) -> None:
        self.name = name
        self.ready: deque[Message] = deque()
        self.consumers: list[PushConsumer] = []
        self._random = broker.random

    def put(self, message: Message) -> None:
        """Take a new message."""
        self.ready.append(message)
        self.push()

    def requeue(self, messages: Sequence[Message]) -> None:
        """Take messages back: to the head or the tail, as servers of either kind do."""
        if self._random.random() < 0.5:
            self.ready.extendleft(reversed(messages))
        else:
            self.ready.extend(messages)
        self.push()

    def push(self) -> None:
        """Give everybody as much as there is room for, in turns."""
        while self.ready:
            able = [consumer for consumer in self.consumers if consumer.room > 0]
            if not able:
                return
            self._random.choice(able).pushed(self.ready.popleft())

    @property
    def size(self) -> int:
        """Ready or unsettled."""
        return len(self.ready) + sum(consumer.unsettled for consumer in self.consumers)


class Exchange(Channel):
    """A topic: every queue bound to it gets a copy."""

    def __init__(self, broker: Broker[Any], name: str, partitions: int) -> None:
        super().__init__(broker, name, partitions)
        self.queues: dict[str, PushQueue] = {}
        self.exclusive: list[PushQueue] = []

    def accept(self, message: Message) -> Receipt:
        """See `Channel`."""
        for queue in (*self.queues.values(), *self.exclusive):
            queue.put(message)
        return Receipt()

    def declare(self, subscription: Subscription) -> None:
        """See `Channel`."""
        name = subscription.group
        if name is not None and name not in self.queues:
            self.queues[name] = PushQueue(name, self.broker)

    def join(
        self, road: ModelTransport[Any], subscription: Subscription, plan: Plan
    ) -> PushConsumer:
        """See `Channel`."""
        if subscription.group is None:
            queue = PushQueue(None, self.broker)
            self.exclusive.append(queue)
        else:
            queue = self.queues[subscription.group]
        return PushConsumer(road, self, queue, subscription, plan)

    @property
    def groups(self) -> Sequence[str]:
        """See `Channel`."""
        return tuple(self.queues)


class PushModel(ModelTransport[Exchange]):
    """In memory, for tests: messages are pushed into a bounded buffer of each consumer, wherever
    there is room, and settled one by one. There are no leases and no counts: neither deliveries
    nor starts are known. Whoever loses the connection, or dies, gives back what it held.
    """

    capabilities = Capabilities(
        settling="each",
        order="none",
        backlog="kept",
        durable=True,
        shared=True,
        groups=True,
        ephemeral=True,
        risk="the server is an object in this process",
    )

    def make_channel(self, name: str, partitions: int) -> Exchange:
        """See `ModelTransport`."""
        return Exchange(self.broker, name, partitions)

    async def lag(self, topic: str, group: str) -> Lag:
        """See `Source.lag`. Nobody knows the age of what is in a queue."""
        await self.reach()
        queue = self.found(topic).queues.get(group)
        if queue is None:
            raise NotFoundError(f"no group {group!r} on {topic!r}")
        age = None if queue.size else timedelta(0)
        return Lag(topic, group, [PartitionLag(0, queue.size, age)])

    def disconnect(self) -> None:
        """Lose the connection and get it back at once: everything unsettled goes back, and
        answering it is stale."""
        self._notices.put(Disconnected("the server closed the connection"))
        for consumer in tuple(self.consumers):
            assert isinstance(consumer, PushConsumer)
            consumer.reconnect()
        self._notices.put(Reconnected())


class PushConsumer(ModelConsumer):
    """Takes what was pushed."""

    def __init__(
        self,
        road: ModelTransport[Any],
        exchange: Exchange,
        queue: PushQueue,
        subscription: Subscription,
        plan: Plan,
    ) -> None:
        super().__init__(road, exchange, subscription, plan)
        self._exchange = exchange
        self._queue = queue
        self._buffer: deque[Message] = deque()
        self._tags = count(1)
        self._unsettled: dict[int, Message] = {}
        self._idle_since = self._clock.monotonic()
        queue.consumers.append(self)
        queue.push()

    # ------------------------------------------------------------- as the server sees it

    @property
    def room(self) -> int:
        """How many more may be pushed: none to a client that shows no use for them."""
        room = PREFETCH - len(self._buffer)
        return 0 if self._is_idle() else room

    @property
    def unsettled(self) -> int:
        """How many it holds, read or not."""
        return len(self._buffer) + len(self._unsettled)

    def pushed(self, message: Message) -> None:
        """Take one into the buffer, whether anybody receives or not."""
        self._buffer.append(message)
        self.wake()

    def _is_idle(self) -> bool:
        waits = self._bell is not None and self._road.reachable
        return not waits and self._clock.monotonic() - self._idle_since >= _IDLE

    def give_back_idle(self) -> None:
        """As a client whose buffer nobody reads: let others have it."""
        if self._buffer and self._road.reachable and self._is_idle():
            self._give_back([])

    def _give_back(self, more: Sequence[Message]) -> None:
        messages = [*more, *self._buffer]
        self._buffer.clear()
        self._queue.requeue(messages)

    # ------------------------------------------------------------- as a consumer

    def _alive(self) -> None:
        for consumer in self._queue.consumers:
            consumer.give_back_idle()
        self._idle_since = self._clock.monotonic()
        self._queue.push()

    def _next_event(self) -> float:
        return self._clock.monotonic() + _IDLE

    def _offers(self) -> Iterator[Offer]:
        while self._buffer and (self._exchange.name, 0) not in self.paused:
            yield self._buffer[0], partial(self._hand_out)

    def _hand_out(self) -> Delivery:
        message = self._buffer.popleft()
        tag = next(self._tags)
        self._unsettled[tag] = message
        return Delivery(
            message=message,
            topic=self._exchange.name,
            group=self._queue.name,
            token=(self, tag),
        )

    def _owns(self, delivery: Delivery) -> bool:
        consumer, tag = delivery.token
        return consumer is self and tag in self._unsettled

    def _answer(self, settlement: Settlement) -> Settled:
        if not self._owns(settlement.delivery):
            return "stale"
        message = self._unsettled.pop(settlement.delivery.token[1])
        if settlement.action == "nack":
            self._queue.requeue([message])
        return "done"

    # ------------------------------------------------------------- coming and going

    def reconnect(self) -> None:
        """Lose everything that is unsettled, and go on."""
        self.told.put(Lost([(self._exchange.name, 0)]))
        self._requeue_all()
        self._base.wake()

    def dropped(self) -> None:
        """The server sees the connection end, and waits for nobody."""
        self._leave()

    def _leave(self) -> None:
        if self in self._queue.consumers:
            self._queue.consumers.remove(self)
            self._requeue_all()
        if self._queue in self._exchange.exclusive:
            self._exchange.exclusive.remove(self._queue)
        self._base.wake()

    def _requeue_all(self) -> None:
        held = list(self._unsettled.values())
        self._unsettled.clear()
        self._give_back(held)
