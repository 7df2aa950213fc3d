"""Consuming what was moved to the store, as if it came from its own road."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

from msgspec.structs import replace

from postroad.core.delivery import Delivery, Partition, Settled, Settlement
from postroad.core.notices import Assigned, Lost, Notice, Revoking
from postroad.core.pattern import matches
from postroad.core.reports import DeadLetter
from postroad.core.subscription import Subscription
from postroad.core.transport import Audited, Consumer, DeadLetters, Plan, Source
from postroad.delivery.moving import (
    FORWARDER,
    PREFIX,
    is_moved,
    moved_name,
    prefix_of,
    unwrapped,
)


async def join_store(
    store: Source, subscription: Subscription, plan: Plan, prefix: str
) -> Consumer:
    """A consumer of what was moved for the subscription. The store does what the road could not,
    so the plan that was made for the road is not the store's."""
    moved = Subscription(
        source=moved_name(prefix, subscription.source_name),
        group=subscription.group,
        order=subscription.order,
        start="earliest",
    )
    ordered = subscription.order != "none"
    own = Plan(lease=plan.lease, ordered=ordered, parks=plan.parks and ordered)
    return StoredConsumer(await store.subscribe(moved, own), prefix)


class StoredConsumer:
    """A `Consumer` of moved topics whose deliveries look as on the road they came from."""

    def __init__(self, inner: Consumer, prefix: str) -> None:
        self._inner = inner
        self._prefix = prefix

    async def receive(self, limit: int, max_bytes: int, wait: timedelta) -> Sequence[Delivery]:
        """See `Consumer.receive`."""
        return [_shown(one) for one in await self._inner.receive(limit, max_bytes, wait)]

    async def begin(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """See `Consumer.begin`."""
        return _ours(deliveries, await self._inner.begin([one.token for one in deliveries]))

    async def extend(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """See `Consumer.extend`."""
        return _ours(deliveries, await self._inner.extend([one.token for one in deliveries]))

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        """See `Consumer.settle`."""
        return await self._inner.settle([_told(settlement) for settlement in settlements])

    async def pause(self, partitions: Sequence[Partition]) -> None:
        """See `Consumer.pause`."""
        await self._inner.pause(self._moved(partitions))

    async def resume(self, partitions: Sequence[Partition]) -> None:
        """See `Consumer.resume`."""
        await self._inner.resume(self._moved(partitions))

    async def release(self, partitions: Sequence[Partition]) -> None:
        """See `Consumer.release`."""
        await self._inner.release(self._moved(partitions))

    async def notices(self) -> AsyncIterator[Notice]:
        """See `Consumer.notices`."""
        async for notice in self._inner.notices():
            if isinstance(notice, Assigned | Revoking | Lost):
                yield replace(notice, partitions=self._own(notice.partitions))
            else:
                yield notice

    async def close(self) -> None:
        """See `Consumer.close`."""
        await self._inner.close()

    def _moved(self, partitions: Sequence[Partition]) -> list[Partition]:
        return [(moved_name(self._prefix, topic), number) for topic, number in partitions]

    def _own(self, partitions: Sequence[Partition]) -> list[Partition]:
        return [(topic.removeprefix(self._prefix), number) for topic, number in partitions]


def _shown(inner: Delivery) -> Delivery:
    """The delivery as on the road that it came from. It has no fence: those of the store and those
    of the road are not one row of numbers."""
    message, note = unwrapped(inner.message, inner.topic, inner.group or "")
    return replace(inner, message=message, topic=note.topic, fence=None, token=inner)


def _told(settlement: Settlement) -> Settlement:
    """The settlement as the store understands it."""
    shown = settlement.delivery
    inner: Delivery = shown.token
    inner.attempts, inner.failures = shown.attempts, shown.failures
    return replace(settlement, delivery=inner)


def _ours(shown: Sequence[Delivery], owned: Sequence[Delivery]) -> list[Delivery]:
    kept = {id(inner) for inner in owned}
    return [delivery for delivery in shown if id(delivery.token) in kept]


class StoredLetters:
    """`DeadLetters` of a store, under the names that they had on their road: of groups that gave
    up what was moved, and of the forwarder that could not publish what was delayed.

    Args:
        road: whose they are; see `prefix_of`.
        delayed: the prefix of its delayed messages, if the store keeps them; see `Delaying`.
    """

    def __init__(self, store: DeadLetters, road: str, delayed: str | None = None) -> None:
        self._store = store
        self._road = road
        self._delayed = delayed

    async def dead_letters(self, topic: str, group: str | None, limit: int) -> Sequence[DeadLetter]:
        """See `DeadLetters.dead_letters`."""
        if limit <= 0:
            return []
        asked = limit
        while True:
            found = await self._store.dead_letters(PREFIX + "#", group, asked)
            ours = [_letter(letter) for letter in found if self._fits(letter, topic)]
            if len(ours) >= limit or len(found) < asked:
                return ours[:limit]
            # Those of other topics and roads stand before ours and must not hide them.
            asked *= 4

    async def redrive(self, ids: Sequence[str]) -> int:
        """See `DeadLetters.redrive`."""
        return await self._store.redrive(ids)

    async def discard(self, ids: Sequence[str]) -> int:
        """See `DeadLetters.discard`."""
        return await self._store.discard(ids)

    def _fits(self, letter: DeadLetter, pattern: str) -> bool:
        prefixes = [prefix_of(letter.group, self._road)]
        if self._delayed is not None and letter.group == FORWARDER:
            prefixes.append(self._delayed)
        return any(
            is_moved(letter.topic, prefix, pattern)
            or (letter.topic.startswith(prefix) and matches(pattern, _letter(letter).topic))
            for prefix in prefixes
        )


async def stored_groups(
    store: Audited, road: str, pattern: str, group: str | None
) -> Sequence[tuple[str, str]]:
    """(moved topic, group) of everything that was moved from the topics that fit."""
    return [
        (moved, name)
        for moved, name in await store.groups(PREFIX + "#")
        if group in (None, name) and is_moved(moved, prefix_of(name, road), pattern)
    ]


async def delayed_groups(store: Audited, prefix: str, pattern: str) -> Sequence[tuple[str, str]]:
    """(topic in the store, forwarder) of everything that was delayed for the topics that fit."""
    return [
        (moved, name)
        for moved, name in await store.groups(prefix + "#")
        if name == FORWARDER and is_moved(moved, prefix, pattern)
    ]


def _letter(letter: DeadLetter) -> DeadLetter:
    message, note = unwrapped(letter.message, letter.topic, letter.group)
    return replace(letter, message=message, topic=note.topic, position=note.position)
