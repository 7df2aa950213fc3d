"""Delays that a road cannot keep: the message waits in the store and is published when due.

Each topic has one of its own in the store (`delayed_prefix`), so that its account there says how
many of its messages are on their way; one group, the forwarder, works all of them off.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from postroad.core.clock import Clock, duration_us
from postroad.core.contract import Contract
from postroad.core.delivery import Delivery, Receipt
from postroad.core.hooks import Hooks
from postroad.core.message import Message
from postroad.core.subscription import Subscription
from postroad.core.topic import Retention, Topic
from postroad.core.transport import Transport
from postroad.delivery.handler import inspect_handler
from postroad.delivery.moving import (
    FORWARDER,
    Note,
    delayed_prefix,
    moved_name,
    unwrapped,
    wrapped,
)
from postroad.delivery.patience import patiently
from postroad.delivery.runner import Runner, Work
from postroad.errors import PostroadError, PublishError

_Entry = tuple[Topic[Any], Message]

_AT_ONCE = 64


class Delaying:
    """Publishes on a road; what is due later than the road can wait is kept in a store until
    then, and published by whichever process consumes. A crash in between repeats it. What the
    road refuses for good becomes a dead letter of the forwarder.

    Args:
        transport, store: open.
        road: whose messages they are; roads that share a store without saying so publish each
            other's.

    Attributes:
        prefix: what the names of its topics in the store begin with.
    """

    def __init__(
        self, transport: Transport, store: Transport, clock: Clock, *, road: str = ""
    ) -> None:
        self.prefix = delayed_prefix(road)
        self._transport = transport
        self._store = store
        self._clock = clock
        self._longest_us = duration_us(transport.capabilities.delay)
        self._topics: dict[str, Topic[Any]] = {}
        self._kept: dict[str, Topic[bytes]] = {}

    async def publish(self, messages: Sequence[_Entry]) -> Sequence[Receipt]:
        """See `Transport.publish`. A delayed message has no position yet."""
        latest = self._clock.now_us() + self._longest_us
        late = {
            index
            for index, (_, message) in enumerate(messages)
            if message.deliver_at_us is not None and message.deliver_at_us > latest
        }
        if not late:
            return await self._transport.publish(messages)
        receipts: list[Receipt] = [Receipt()] * len(messages)
        failed: dict[int, Exception] = {}
        unknown: dict[int, Exception] = {}
        at_once = [index for index in range(len(messages)) if index not in late]
        for indices, send in ((at_once, self._transport.publish), (sorted(late), self._keep)):
            try:
                answers = await send([messages[index] for index in indices]) if indices else ()
            except PublishError as error:
                failed.update({indices[n]: cause for n, cause in error.failed.items()})
                unknown.update({indices[n]: cause for n, cause in error.unknown.items()})
            except PostroadError as error:
                failed.update(dict.fromkeys(indices, error))
            else:
                for index, answer in zip(indices, answers, strict=True):
                    receipts[index] = answer
        if failed or unknown:
            raise PublishError(failed, unknown)
        return receipts

    async def _keep(self, messages: Sequence[_Entry]) -> Sequence[Receipt]:
        kept = [(await self._topic(topic), _delayed(topic, message)) for topic, message in messages]
        # A place in the store is none on the road.
        return [Receipt(recall=one.recall) for one in await self._store.publish(kept)]

    async def open(self) -> None:
        """Create what the store needs for it."""
        await self._store.open([], [self._subscription()])

    async def _topic(self, topic: Topic[Any]) -> Topic[bytes]:
        """Where the store keeps this topic's messages; created if it is new."""
        kept = self._kept.get(topic.name)
        if kept is None:
            name = moved_name(self.prefix, topic.name)
            kept = Topic(name, bytes, partitions=1, retention=Retention(consumed=True))
            await self._store.open([kept], [])
            self._kept[topic.name] = kept
        return kept

    def _subscription(self) -> Subscription:
        return Subscription(
            source=self.prefix + "#", group=FORWARDER, start="earliest", concurrency=_AT_ONCE
        )

    def runner(self, hooks: Hooks) -> Runner:
        """What publishes the messages that are due."""
        subscription = self._subscription()

        async def forward(delivery: Delivery) -> None:
            message, note = unwrapped(delivery.message, delivery.topic, FORWARDER)
            topic = self._topics.get(note.topic)
            if topic is None:
                topic = Topic(note.topic, bytes, partitions=note.partitions)
                await self._transport.open([topic], [])
                self._topics[note.topic] = topic
            await patiently(self._clock, lambda: self._transport.publish([(topic, message)]))

        work = Work(
            subscription=subscription,
            contract=Contract(str(subscription), ()),
            handler=inspect_handler(forward, subscription),
            decode_for=lambda _: bytes,
            max_payload=lambda _: None,
            publish=_no_results,
            source=FORWARDER,
        )
        return Runner(work, self._store, hooks, self._clock)


def _delayed(topic: Topic[Any], message: Message) -> Message:
    note = Note(topic.name, FORWARDER, partitions=topic.partition_count)
    return replace(wrapped(message, note), deliver_at_us=message.deliver_at_us)


async def _no_results(results: list[_Entry]) -> None:
    """The forwarder returns none."""
