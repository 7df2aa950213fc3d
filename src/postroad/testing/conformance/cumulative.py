"""Settling by position: what stands before it is settled, nothing after it, and it only grows."""

from __future__ import annotations

from datetime import timedelta

from postroad.core.delivery import Delivery, Settlement
from postroad.core.subscription import Subscription
from postroad.core.topic import Topic
from postroad.core.transport import Consumer
from postroad.errors import NotSupportedError
from postroad.testing.conformance.bench import BYTES, QUIET, Workbench, failure, ids


class Positions:
    """Needs groups and `settling="cumulative"`."""

    async def _taken(
        self, bench: Workbench, partitions: int = 1
    ) -> tuple[Topic[dict[str, object]], Subscription, Consumer, list[Delivery]]:
        bench.need_groups()
        bench.need(bench.capabilities.settling == "cumulative", 'settling="cumulative"')
        topic, subscription = await bench.setup(partitions)
        consumer = await bench.consumer(subscription)
        await bench.send(topic, [bench.message(topic, n, key=f"key-{n}") for n in range(30)])
        return topic, subscription, consumer, await bench.take(consumer, 30)

    async def _comes_to_the_next(
        self, bench: Workbench, subscription: Subscription
    ) -> list[Delivery]:
        """What comes to the next member."""
        consumer = await bench.consumer(subscription)
        found: list[Delivery] = []
        while batch := await consumer.receive(100, BYTES, QUIET):
            found += batch
        return found

    async def test_what_was_only_read_comes_again(self, bench: Workbench) -> None:
        _, subscription, consumer, found = await self._taken(bench)
        await consumer.begin(found)
        await consumer.close()
        assert ids(await self._comes_to_the_next(bench, subscription)) == ids(found)

    async def test_a_position_settles_nothing_after_it(self, bench: Workbench) -> None:
        _, subscription, consumer, found = await self._taken(bench)
        await bench.settle(consumer, found[:1])
        await bench.settle(consumer, [found[9]])
        await consumer.close()
        assert ids(await self._comes_to_the_next(bench, subscription)) == ids(found[10:])

    async def test_a_position_settles_nothing_of_other_partitions(self, bench: Workbench) -> None:
        _, subscription, consumer, found = await self._taken(bench, 4)
        number = found[0].partition
        mine = [delivery for delivery in found if delivery.partition == number]
        await bench.settle(consumer, mine[-1:])
        await consumer.close()
        rest = await self._comes_to_the_next(bench, subscription)
        assert sorted(ids(rest)) == sorted(ids([one for one in found if one not in mine]))

    async def test_a_position_never_goes_back(self, bench: Workbench) -> None:
        _, subscription, consumer, found = await self._taken(bench)
        await bench.settle(consumer, found[19:20])
        assert set(await consumer.settle([Settlement(found[4])])) <= {"done", "stale"}
        await consumer.close()
        assert ids(await self._comes_to_the_next(bench, subscription)) == ids(found[20:])

    async def test_a_reject_moves_the_position_like_an_ack(self, bench: Workbench) -> None:
        _, subscription, consumer, found = await self._taken(bench)
        await bench.settle(consumer, found[:5])
        await bench.settle(consumer, found[5:6], "reject", failure=failure("poison", "rejected"))
        await consumer.close()
        assert ids(await self._comes_to_the_next(bench, subscription)) == ids(found[6:])

    async def test_a_nack_is_refused_or_brings_it_again(self, bench: Workbench) -> None:
        _, subscription, consumer, found = await self._taken(bench)
        await bench.settle(consumer, found[:10])
        try:
            await consumer.settle([Settlement(found[10], "nack")])
        except NotSupportedError:
            await consumer.close()
            assert ids(await self._comes_to_the_next(bench, subscription)) == ids(found[10:])
            return
        again = await consumer.receive(100, BYTES, timedelta(seconds=5))
        assert ids(again) == ids(found[10:]), "reading goes on from it, in order"

    async def test_positions_survive_reopening(self, bench: Workbench) -> None:
        _, subscription, consumer, found = await self._taken(bench)
        bench.need(bench.capabilities.durable, "durable")
        await bench.settle(consumer, found[:12])
        await bench.reopen()
        assert ids(await self._comes_to_the_next(bench, subscription)) == ids(found[12:])
