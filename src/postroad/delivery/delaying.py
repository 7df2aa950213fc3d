"""Delays that a road cannot keep: the message waits in the store and is published when due."""

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
from postroad.delivery.moving import PREFIX, Note, unwrapped, wrapped
from postroad.delivery.patience import patiently
from postroad.delivery.runner import Runner, Work
from postroad.errors import PostroadError, PublishError

_Entry = tuple[Topic[Any], Message]

DELAYED: Topic[bytes] = Topic(
    PREFIX + "delayed", bytes, partitions=1, retention=Retention(consumed=True)
)
_GROUP = "postroad"
_AT_ONCE = 64


class Delaying:
    """Publishes on a road; what is due later than the road can wait is kept in a store until
    then, and published by whichever process consumes. A crash in between repeats it.

    Args:
        transport, store: open.
    """

    def __init__(self, transport: Transport, store: Transport, clock: Clock) -> None:
        self._transport = transport
        self._store = store
        self._clock = clock
        self._longest_us = duration_us(transport.capabilities.delay)
        self._topics: dict[str, Topic[Any]] = {}

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
        kept = [(DELAYED, _delayed(topic, message)) for topic, message in messages]
        # A place in the store is none on the road.
        return [Receipt(recall=one.recall) for one in await self._store.publish(kept)]

    async def open(self) -> None:
        """Create what the store needs for it."""
        await self._store.open([DELAYED], [_subscription()])

    def runner(self, hooks: Hooks) -> Runner:
        """What publishes the messages that are due."""
        subscription = _subscription()

        async def forward(delivery: Delivery) -> None:
            message, note = unwrapped(delivery.message, delivery.topic, _GROUP)
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
            decode_for=lambda _: DELAYED.decode,
            max_payload=lambda _: None,
            publish=_no_results,
            source=_GROUP,
        )
        return Runner(work, self._store, hooks, self._clock)


def _delayed(topic: Topic[Any], message: Message) -> Message:
    note = Note(topic.name, _GROUP, partitions=topic.partition_count)
    return replace(wrapped(message, note), deliver_at_us=message.deliver_at_us)


def _subscription() -> Subscription:
    return Subscription(source=DELAYED, group=_GROUP, start="earliest", concurrency=_AT_ONCE)


async def _no_results(results: list[_Entry]) -> None:
    """The forwarder returns none."""
