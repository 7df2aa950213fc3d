"""Revocations: they come to a consumer that does not receive, they end, and nothing is lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import cast

from postroad.core.delivery import Delivery, Partition, Settlement
from postroad.core.notices import Assigned, Lost, Notice, Revoking
from postroad.core.transport import AtomicSettle, Consumer
from postroad.testing.conformance.bench import BYTES, Workbench, ids, make_topic
from postroad.testing.conformance.waiting import eventually

_PARTITIONS = 2
_SLACK = 0.05


class Listener:
    """What one consumer was told, kept while the consumer only holds and renews."""

    def __init__(self, consumer: Consumer) -> None:
        self.consumer = consumer
        self.notices: list[Notice] = []
        self.held: list[Delivery] = []
        self._listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        async for notice in self.consumer.notices():
            self.notices.append(notice)

    async def renew(self) -> None:
        """What a runner does under backpressure: no receive, but renewals."""
        await self.consumer.extend(self.held)

    def of(self, kind: type[Assigned] | type[Revoking] | type[Lost]) -> set[Partition]:
        """The partitions that notices of a kind have named."""
        return {
            place
            for notice in self.notices
            if isinstance(notice, kind)
            for place in notice.partitions
        }

    @property
    def deadline(self) -> float:
        """The first revocation's."""
        return next(one.deadline for one in self.notices if isinstance(one, Revoking))

    def of_partitions(self, places: set[Partition]) -> list[Delivery]:
        """What it holds of these."""
        return [one for one in self.held if (one.topic, one.partition) in places]


class Pair:
    """An owner that holds everything and has stopped receiving, and who joins it."""

    def __init__(self, bench: Workbench, owner: Listener, lease: timedelta) -> None:
        self.bench = bench
        self.owner = owner
        self._lease = lease
        self.found: list[Delivery] = []
        self._second: Consumer | None = None

    @property
    def second(self) -> Consumer:
        """Who joined."""
        assert self._second is not None
        return self._second

    async def join(self) -> set[Partition]:
        """Let the second one join; returns what is revoked from the first for it."""
        wish = self.bench.subscription(make_topic("orders.created", _PARTITIONS))
        self._second = await self.bench.consumer(
            wish, await self.bench.another(), lease=self._lease, ordered=True
        )
        await self.until(
            lambda: self.owner.of(Revoking), "a revocation while the owner does not receive"
        )
        return self.owner.of(Revoking)

    async def until(self, condition: Callable[[], object], what: str) -> None:
        """As `eventually`, while the second one receives and the first one renews."""

        async def met() -> bool:
            await self.owner.renew()
            self.found += await self.second.receive(100, BYTES, timedelta(milliseconds=10))
            return bool(condition())

        left = self.owner.deadline - time.monotonic() if self.owner.of(Revoking) else 0.0
        await eventually(met, what, self.bench.road.patience + max(0.0, left))


class Revocations:
    """Needs groups and `order="key-group"`."""

    async def _pair(self, bench: Workbench, lease: timedelta) -> Pair:
        bench.need_groups()
        bench.need(bench.capabilities.order == "key-group", 'order="key-group"')
        topic, wish = await bench.setup(partitions=_PARTITIONS)
        await bench.send(topic, [bench.message(topic, n, key=f"key-{n}") for n in range(40)])
        first = await bench.consumer(wish, await bench.another(), lease=lease, ordered=True)
        owner = Listener(first)
        owner.held = await bench.take(first, 40)
        return Pair(bench, owner, lease)

    async def test_a_revocation_comes_to_one_that_does_not_receive(self, bench: Workbench) -> None:
        pair = await self._pair(bench, timedelta(seconds=30))
        revoked = await pair.join()
        assert len(revoked) == 1, "one of two partitions is the second one's share"
        assert pair.owner.deadline > time.monotonic(), "there is time to finish"
        held = pair.owner.of_partitions(revoked)
        assert ids(await pair.owner.consumer.extend(held)) == ids(held), "still the owner's"
        assert not pair.found, "nobody else has it before it is released"
        await bench.settle(pair.owner.consumer, held)
        await pair.owner.consumer.release(sorted(revoked))

    async def test_a_revoked_partition_gives_its_owner_nothing_more(self, bench: Workbench) -> None:
        pair = await self._pair(bench, timedelta(seconds=30))
        revoked = await pair.join()
        topic = make_topic("orders.created", _PARTITIONS)
        more = [bench.message(topic, n, key=f"key-{n}") for n in range(40)]
        await bench.send(topic, more)
        came = await pair.owner.consumer.receive(100, BYTES, timedelta(seconds=1))
        assert not {(one.topic, one.partition) for one in came} & revoked
        await pair.owner.consumer.release(sorted(revoked))

    async def test_the_new_owner_goes_on_after_what_was_settled(self, bench: Workbench) -> None:
        pair = await self._pair(bench, timedelta(seconds=30))
        revoked = await pair.join()
        held = pair.owner.of_partitions(revoked)
        kept = [one for one in pair.owner.held if one not in held]
        half = len(held) // 2
        await bench.settle(pair.owner.consumer, held[:half])
        pair.owner.held = kept
        await pair.owner.consumer.release(sorted(revoked))
        await pair.until(lambda: len(pair.found) >= len(held) - half, "the rest of the partition")
        assert ids(pair.found) == ids(held[half:]), "what was not settled, in order, and no more"
        late = await pair.owner.consumer.settle([Settlement(one) for one in held[half:]])
        assert set(late) == {"stale"}, "they are the new owner's"
        await bench.settle(pair.owner.consumer, kept)
        await bench.settle(pair.second, pair.found)

    async def test_an_unanswered_revocation_ends_at_its_deadline(self, bench: Workbench) -> None:
        pair = await self._pair(bench, bench.road.lease)
        revoked = await pair.join()
        deadline, held = pair.owner.deadline, pair.owner.of_partitions(revoked)
        await pair.until(lambda: pair.found, "the partition to be given to the next one")
        assert time.monotonic() >= deadline - _SLACK, "the owner has until the deadline"
        await pair.until(lambda: pair.owner.of(Lost) >= revoked, "the owner to be told its loss")
        await pair.until(lambda: len(pair.found) >= len(held), "all of the partition")
        assert ids(pair.found) == ids(held), "nothing of it was settled, nothing is lost"
        await self._all_stale(pair.owner.consumer, held)
        await bench.settle(pair.second, pair.found)

    async def test_a_lost_partition_publishes_nothing(self, bench: Workbench) -> None:
        bench.need(bench.capabilities.atomic_settle, "atomic_settle")
        pair = await self._pair(bench, timedelta(seconds=30))
        outcomes = make_topic("orders.paid")
        await bench.main.open([outcomes], [bench.subscription(outcomes)])
        results = await bench.consumer(bench.subscription(outcomes))
        revoked = await pair.join()
        lost = pair.owner.of_partitions(revoked)
        kept = [one for one in pair.owner.held if one not in lost]
        pair.owner.held = kept
        await pair.owner.consumer.release(sorted(revoked))
        atomic = cast(AtomicSettle, pair.owner.consumer)
        entries = [(outcomes, bench.message(outcomes))]
        answers = [Settlement(one) for one in (*lost, *kept)]
        settled = list(await atomic.settle_and_publish(answers, entries))
        assert settled == ["stale"] * len(lost) + ["unknown"] * len(kept)
        await bench.nothing(results, "nothing of the call is committed")
        answers = [Settlement(one) for one in kept]
        assert set(await atomic.settle_and_publish(answers, entries)) == {"done"}
        assert len(await bench.consume(results, 1)) == 1

    async def _all_stale(self, consumer: Consumer, deliveries: Sequence[Delivery]) -> None:
        settled = await consumer.settle([Settlement(one) for one in deliveries])
        assert set(settled) == {"stale"}, "the partition was lost"
        assert not await consumer.begin(deliveries)
        assert not await consumer.extend(deliveries)
