"""Consuming what was moved to the store, as if it came from its own road."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from itertools import islice

from msgspec.structs import replace

from postroad.core.clock import Clock
from postroad.core.delivery import Delivery, Partition, Settled, Settlement
from postroad.core.notices import Assigned, Lost, Notice, Revoking
from postroad.core.pattern import matches
from postroad.core.reports import DeadLetter
from postroad.core.subscription import Subscription
from postroad.core.transport import Audited, Consumer, DeadLetters, Plan, Source
from postroad.delivery.moving import PREFIX, prefix_of, unwrapped
from postroad.delivery.patience import patiently

_ALL = 1_000_000


async def join_store(
    store: Source, subscription: Subscription, plan: Plan, clock: Clock
) -> Consumer:
    """A consumer of what was moved for the subscription."""
    prefix = prefix_of(subscription.group or "")
    moved = Subscription(
        source=prefix + subscription.source_name,
        group=subscription.group,
        order=subscription.order,
        start="earliest",
    )
    ordered = subscription.order == "key"
    return StoredConsumer(await store.subscribe(moved, plan), prefix, clock, ordered=ordered)


class StoredConsumer:
    """A `Consumer` of moved topics whose deliveries look as on the road they came from."""

    def __init__(self, inner: Consumer, prefix: str, clock: Clock, *, ordered: bool) -> None:
        self._inner = inner
        self._ordered = ordered
        self._prefix = prefix
        self._clock = clock

    async def receive(self, limit: int, max_bytes: int, wait: timedelta) -> Sequence[Delivery]:
        """See `Consumer.receive`. What came before its time waits on the store."""
        deadline = self._clock.monotonic() + wait.total_seconds()
        while True:
            left = max(0.0, deadline - self._clock.monotonic())
            batch = await self._inner.receive(limit, max_bytes, timedelta(seconds=left))
            ready = await self._ready(batch)
            if ready or not batch:
                return ready

    async def _ready(self, batch: Sequence[Delivery]) -> list[Delivery]:
        now = self._clock.now_us()
        ready, early = [], []
        blocked: dict[tuple[str, str | None, int], int] = {}
        for inner in batch:
            delivery, due_us = _shown(inner)
            lane = (delivery.topic, delivery.message.key, delivery.message.priority)
            if self._ordered and lane[1] is not None:
                # The store keeps them in order once it knows that the first of them waits.
                due_us = blocked[lane] = max(due_us, blocked.get(lane, 0))
            if due_us > now:
                rest = timedelta(microseconds=due_us - now)
                early.append(_told(Settlement(delivery, "nack", delay=rest)))
            else:
                ready.append(delivery)
        if early:
            await patiently(self._clock, lambda: self._inner.settle(early))
        return ready

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
        return [(self._prefix + topic, number) for topic, number in partitions]

    def _own(self, partitions: Sequence[Partition]) -> list[Partition]:
        return [(topic.removeprefix(self._prefix), number) for topic, number in partitions]


def _shown(inner: Delivery) -> tuple[Delivery, int]:
    """The delivery as on the road that it came from, and when it is due."""
    message, note = unwrapped(inner.message)
    shown = replace(inner, message=message, topic=note.topic, token=inner)
    if not inner.attempts:
        # Later attempts are the store's to record, beginning with these.
        shown.attempts, shown.failures = note.attempts, note.failures
    return shown, note.due_us


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
    """`DeadLetters` of a store, under the names that they had on their road."""

    def __init__(self, store: DeadLetters) -> None:
        self._store = store

    async def dead_letters(self, topic: str, group: str | None, limit: int) -> Sequence[DeadLetter]:
        """See `DeadLetters.dead_letters`."""
        found = await self._store.dead_letters(PREFIX + "#", group, _ALL)
        shown = (_letter(letter) for letter in found)
        fitting = (one for one in shown if one.topic == topic or matches(topic, one.topic))
        return list(islice(fitting, limit))

    async def redrive(self, ids: Sequence[str]) -> int:
        """See `DeadLetters.redrive`."""
        return await self._store.redrive(ids)

    async def discard(self, ids: Sequence[str]) -> int:
        """See `DeadLetters.discard`."""
        return await self._store.discard(ids)


async def stored_groups(
    store: Audited, pattern: str, group: str | None
) -> Sequence[tuple[str, str]]:
    """(moved topic, group) of everything that was moved from the topics that fit."""
    found = []
    for moved, name in await store.groups(PREFIX + "#"):
        topic = moved.removeprefix(prefix_of(name))
        if group in (None, name) and (topic == pattern or matches(pattern, topic)):
            found.append((moved, name))
    return found


def _letter(letter: DeadLetter) -> DeadLetter:
    message, note = unwrapped(letter.message)
    return replace(letter, message=message, topic=note.topic, position=note.position)
