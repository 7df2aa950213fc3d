"""Transports that lie, to prove that the conformance suite finds a lie; and one that does not.

A `Disguise` wraps any transport. It passes everything on unchanged; a liar overrides one hook.
Every instance that one road makes has to be wrapped by the same disguise.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, cast

import msgspec

from postroad.core.capabilities import Capabilities
from postroad.core.delivery import Delivery, Partition, Receipt, Settled, Settlement, Start
from postroad.core.message import Message
from postroad.core.notices import Gap, Notice, Revoking
from postroad.core.reports import Account, DeadLetter, Lag, TopicInfo
from postroad.core.subscription import Subscription
from postroad.core.topic import Topic
from postroad.core.transport import (
    AtomicSettle,
    Audited,
    Cancels,
    Consumer,
    DeadLetters,
    OnceTokens,
    Plan,
    Source,
    SqlLog,
    Transaction,
    Transport,
)


class Disguise:
    """Honest: what goes in comes out."""

    def wrap(self, transport: Transport) -> Transport:
        """The transport in this disguise."""
        return _Transport(transport, self)

    def plan(self, plan: Plan) -> Plan:
        """What the wrapped transport is told to do for a subscription."""
        return plan

    async def publish(
        self, transport: Transport, messages: Sequence[tuple[Topic[Any], Message]]
    ) -> Sequence[Receipt]:
        """Hand a batch to the wrapped transport."""
        return await transport.publish(messages)

    def received(self, consumer: Consumer, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """What the receiver is shown of what came."""
        return deliveries

    async def settle(
        self, consumer: Consumer, settlements: Sequence[Settlement]
    ) -> Sequence[Settled]:
        """Hand answers to the wrapped consumer."""
        return await consumer.settle(settlements)

    async def settle_and_publish(
        self,
        consumer: Consumer,
        settlements: Sequence[Settlement],
        messages: Sequence[tuple[Topic[Any], Message]],
    ) -> Sequence[Settled]:
        """Hand answers with results to the wrapped consumer."""
        return await cast(AtomicSettle, consumer).settle_and_publish(settlements, messages)

    def shows(self, notice: Notice) -> bool:
        """Whether the receiver is told."""
        return True

    async def close(self, consumer: Consumer) -> None:
        """Close the wrapped consumer."""
        await consumer.close()


class Drops(Disguise):
    """Confirms every message and drops one in so many."""

    def __init__(self, one_in: int = 1000) -> None:
        self._one_in = one_in
        self._count = 0

    async def publish(
        self, transport: Transport, messages: Sequence[tuple[Topic[Any], Message]]
    ) -> Sequence[Receipt]:
        kept = [pair for pair in messages if not self._drop()]
        receipts = list(await transport.publish(kept))
        return receipts + [Receipt()] * (len(messages) - len(kept))

    def _drop(self) -> bool:
        self._count += 1
        return self._count % self._one_in == 0


class Reorders(Disguise):
    """Swaps two messages of a key, once in each batch that has two."""

    def received(self, consumer: Consumer, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        shown = list(deliveries)
        last: dict[str | None, int] = {}
        for at, delivery in enumerate(deliveries):
            before = last.get(delivery.message.key)
            if before is not None:
                shown[before], shown[at] = shown[at], shown[before]
                break
            last[delivery.message.key] = at
        return shown


class IgnoresNacks(Disguise):
    """Answers a nack with `done` and takes it for an ack."""

    async def settle(
        self, consumer: Consumer, settlements: Sequence[Settlement]
    ) -> Sequence[Settled]:
        return await consumer.settle(
            [Settlement(one.delivery) if one.action == "nack" else one for one in settlements]
        )


class BreaksDelays(Disguise):
    """Declares delays and delivers at once."""

    def __init__(self) -> None:
        self._delayed: dict[str, Message] = {}

    async def publish(
        self, transport: Transport, messages: Sequence[tuple[Topic[Any], Message]]
    ) -> Sequence[Receipt]:
        return await transport.publish(
            [(topic, self._at_once(message)) for topic, message in messages]
        )

    def _at_once(self, message: Message) -> Message:
        if message.deliver_at_us is None:
            return message
        self._delayed[message.id] = message
        return msgspec.structs.replace(message, deliver_at_us=None)

    def received(self, consumer: Consumer, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        return [
            msgspec.structs.replace(
                delivery, message=self._delayed.get(delivery.message.id, delivery.message)
            )
            for delivery in deliveries
        ]


class Miscounts(Disguise):
    """Says of every delivery that it is the first, and forgets a failure."""

    def received(self, consumer: Consumer, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        return [
            msgspec.structs.replace(
                delivery,
                deliveries=1,
                attempts=max(0, delivery.attempts - 1),
                failures=delivery.failures[1:],
            )
            for delivery in deliveries
        ]


class ObeysZombies(Disguise):
    """Takes the answer of a consumer that lost its lease as if its new owner had given it."""

    def __init__(self) -> None:
        self._owners: dict[tuple[str, str | None, str], tuple[Consumer, Delivery]] = {}

    def received(self, consumer: Consumer, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        for delivery in deliveries:
            self._owners[_identity(delivery)] = (consumer, delivery)
        return deliveries

    async def settle(
        self, consumer: Consumer, settlements: Sequence[Settlement]
    ) -> Sequence[Settled]:
        results = list(await consumer.settle(settlements))
        for at, (one, result) in enumerate(zip(settlements, results, strict=True)):
            if result == "stale":
                owner, delivery = self._owners[_identity(one.delivery)]
                forged = msgspec.structs.replace(one, delivery=delivery)
                results[at] = (await owner.settle([forged]))[0]
        return results


class CommitsPastGaps(Disguise):
    """Settling a message settles everything before it in its partition, as a position would."""

    def __init__(self) -> None:
        self._held: dict[int, list[Delivery]] = {}

    def received(self, consumer: Consumer, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        self._held.setdefault(id(consumer), []).extend(deliveries)
        return deliveries

    async def settle(
        self, consumer: Consumer, settlements: Sequence[Settlement]
    ) -> Sequence[Settled]:
        held = self._held.get(id(consumer), [])
        ends = {one.delivery.partition: 0 for one in settlements if one.action == "ack"}
        for at, delivery in enumerate(held):
            if any(one.delivery is delivery and one.action == "ack" for one in settlements):
                ends[delivery.partition] = at
        passed = [d for at, d in enumerate(held) if at < ends.get(d.partition, 0)]
        results = await consumer.settle(settlements)
        await consumer.settle([Settlement(delivery) for delivery in passed])
        return results


class CommitsWhatItRead(Disguise):
    """Settling a message moves the position of its partition past everything that was received
    of it, as an automatic commit does."""

    def __init__(self) -> None:
        self._last: dict[tuple[int, str, int], Delivery] = {}

    def received(self, consumer: Consumer, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        for delivery in deliveries:
            self._last[id(consumer), delivery.topic, delivery.partition] = delivery
        return deliveries

    async def settle(
        self, consumer: Consumer, settlements: Sequence[Settlement]
    ) -> Sequence[Settled]:
        results = await consumer.settle(settlements)
        places = {(id(consumer), one.delivery.topic, one.delivery.partition) for one in settlements}
        await consumer.settle([Settlement(self._last[place]) for place in places])
        return results


class HidesGaps(Disguise):
    """Loses what its reader does not read in time, and says nothing."""

    def shows(self, notice: Notice) -> bool:
        return not isinstance(notice, Gap)


class HidesRevocations(Disguise):
    """Takes partitions away and says nothing before they are lost."""

    def shows(self, notice: Notice) -> bool:
        return not isinstance(notice, Revoking)


class PublishesAnyway(Disguise):
    """Publishes the results first and settles after that, whatever comes of it."""

    def __init__(self) -> None:
        self._road: Transport | None = None

    def wrap(self, transport: Transport) -> Transport:
        self._road = self._road or transport
        return super().wrap(transport)

    async def settle_and_publish(
        self,
        consumer: Consumer,
        settlements: Sequence[Settlement],
        messages: Sequence[tuple[Topic[Any], Message]],
    ) -> Sequence[Settled]:
        assert self._road is not None
        await self._road.publish(messages)
        return await cast(AtomicSettle, consumer).settle_and_publish(settlements, [])


class SharesPartitions(Disguise):
    """Declares one owner for each partition and lets every consumer read all of them."""

    def plan(self, plan: Plan) -> Plan:
        return replace(plan, ordered=False)


class KeepsLeases(Disguise):
    """Declares leases and never takes a message from a silent consumer."""

    def plan(self, plan: Plan) -> Plan:
        return replace(plan, lease=timedelta(days=1))


class SettlesOnClose(Disguise):
    """Takes leaving for an ack of everything that was received."""

    def __init__(self) -> None:
        self._held: dict[int, list[Delivery]] = {}

    def received(self, consumer: Consumer, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        self._held.setdefault(id(consumer), []).extend(deliveries)
        return deliveries

    async def close(self, consumer: Consumer) -> None:
        held = self._held.pop(id(consumer), [])
        await consumer.settle([Settlement(delivery) for delivery in held])
        await consumer.close()


def _identity(delivery: Delivery) -> tuple[str, str | None, str]:
    return delivery.topic, delivery.group, delivery.message.id


@dataclass
class _Transport:
    """A transport, with everything that one may offer, in a disguise."""

    inner: Transport
    disguise: Disguise

    @property
    def capabilities(self) -> Capabilities:
        return self.inner.capabilities

    async def open(
        self, topics: Sequence[Topic[Any]], subscriptions: Sequence[Subscription]
    ) -> None:
        await self.inner.open(topics, subscriptions)

    async def publish(self, messages: Sequence[tuple[Topic[Any], Message]]) -> Sequence[Receipt]:
        return await self.disguise.publish(self.inner, messages)

    def notices(self) -> AsyncIterator[Notice]:
        return self.inner.notices()

    async def close(self) -> None:
        await self.inner.close()

    async def topics(self, pattern: str) -> Sequence[TopicInfo]:
        return await self._source.topics(pattern)

    async def subscribe(self, subscription: Subscription, plan: Plan) -> Consumer:
        inner = await self._source.subscribe(subscription, self.disguise.plan(plan))
        return _Consumer(inner, self.disguise)

    async def browse(self, topic: str, start: Start, limit: int) -> Sequence[Delivery]:
        return await self._source.browse(topic, start, limit)

    async def seek(self, topic: str, group: str, to: Start) -> None:
        await self._source.seek(topic, group, to)

    async def lag(self, topic: str, group: str) -> Lag:
        return await self._source.lag(topic, group)

    async def cancel(self, message_id: str) -> bool:
        return await cast(Cancels, self.inner).cancel(message_id)

    async def publish_once(
        self, token: str, messages: Sequence[tuple[Topic[Any], Message]]
    ) -> bool:
        return await cast(OnceTokens, self.inner).publish_once(token, messages)

    async def dead_letters(self, topic: str, group: str | None, limit: int) -> Sequence[DeadLetter]:
        return await cast(DeadLetters, self.inner).dead_letters(topic, group, limit)

    async def redrive(self, ids: Sequence[str]) -> int:
        return await cast(DeadLetters, self.inner).redrive(ids)

    async def discard(self, ids: Sequence[str]) -> int:
        return await cast(DeadLetters, self.inner).discard(ids)

    async def account(self, topic: str, group: str) -> Account:
        return await cast(Audited, self.inner).account(topic, group)

    async def groups(self, pattern: str) -> Sequence[tuple[str, str]]:
        return await cast(Audited, self.inner).groups(pattern)

    @property
    def _source(self) -> Source:
        return cast(Source, self.inner)


@dataclass
class _Consumer:
    """A consumer, with everything that one may offer, in a disguise."""

    inner: Consumer
    disguise: Disguise

    async def receive(self, limit: int, max_bytes: int, wait: timedelta) -> Sequence[Delivery]:
        found = await self.inner.receive(limit, max_bytes, wait)
        return self.disguise.received(self.inner, found)

    async def begin(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        return await self.inner.begin(deliveries)

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        return await self.disguise.settle(self.inner, settlements)

    async def extend(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        return await self.inner.extend(deliveries)

    async def pause(self, partitions: Sequence[Partition]) -> None:
        await self.inner.pause(partitions)

    async def resume(self, partitions: Sequence[Partition]) -> None:
        await self.inner.resume(partitions)

    async def release(self, partitions: Sequence[Partition]) -> None:
        await self.inner.release(partitions)

    async def notices(self) -> AsyncIterator[Notice]:
        async for notice in self.inner.notices():
            if self.disguise.shows(notice):
                yield notice

    async def close(self) -> None:
        await self.disguise.close(self.inner)

    async def settle_and_publish(
        self, settlements: Sequence[Settlement], messages: Sequence[tuple[Topic[Any], Message]]
    ) -> Sequence[Settled]:
        return await self.disguise.settle_and_publish(self.inner, settlements, messages)

    @property
    def settles(self) -> bool:
        return bool(getattr(self.inner, "settles", True))

    def transaction(
        self, delivery: Delivery, source: str
    ) -> AbstractAsyncContextManager[Transaction]:
        return cast(SqlLog, self.inner).transaction(delivery, source)
