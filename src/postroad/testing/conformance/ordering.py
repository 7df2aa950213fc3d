"""Order: of the log inside a partition, and of a key over all consumers of a group."""

from __future__ import annotations

import asyncio
from collections import defaultdict

from postroad.core.delivery import Delivery
from postroad.core.message import Message
from postroad.core.subscription import Subscription
from postroad.core.topic import Topic
from postroad.testing.conformance.actors import Actor
from postroad.testing.conformance.bench import Workbench, failure, ids
from postroad.testing.conformance.waiting import eventually

KEYS = 12


class Ledger:
    """What was done of each key, to compare with what was published of it."""

    def __init__(self, sent: list[Message]) -> None:
        self.expected: dict[str | None, list[str]] = defaultdict(list)
        for message in sent:
            self.expected[message.key].append(message.id)
        self.done: dict[str | None, list[str]] = defaultdict(list)
        self._handled: dict[str | None, str] = {}

    def handle(self, delivery: Delivery) -> None:
        """Called as a delivery is handled: all before it in its key were handled before.

        Raises:
            AssertionError: an earlier message of the key was passed over.
        """
        key, message = delivery.message.key, delivery.message.id
        order = self.expected[key]
        at = order.index(message)
        reached = len(self.done[key])
        last = self._handled.get(key)
        if last is not None:
            reached = max(reached, order.index(last) + 1)
        assert at <= reached, f"{key!r}: message {at} came while {reached} was still to come"
        self._handled[key] = message

    def settle(self, delivery: Delivery) -> None:
        """Called as a delivery is settled. Raises if it is not the next one of its key."""
        key = delivery.message.key
        at = len(self.done[key])
        expected = self.expected[key][at : at + 1]
        assert expected == [delivery.message.id], f"{key!r}: settled out of order at {at}"
        self.done[key].append(delivery.message.id)

    @property
    def complete(self) -> bool:
        """Whether all of every key was settled."""
        return self.done == self.expected


def in_order(found: list[Delivery], sent: list[Message]) -> None:
    """Within each key, deliveries come in the order in which they were published.

    Raises:
        AssertionError: they do not.
    """
    place = {message.id: n for n, message in enumerate(sent)}
    by_key: dict[str | None, list[int]] = defaultdict(list)
    for delivery in found:
        by_key[delivery.message.key].append(place[delivery.message.id])
    for key, places in by_key.items():
        assert places == sorted(places), f"key {key!r} out of order: {places}"


class Ordering:
    """Needs an order other than `none`."""

    async def _keyed(
        self, bench: Workbench, count: int, partitions: int = 4
    ) -> tuple[Subscription, list[Message]]:
        bench.need_groups()
        bench.need(bench.capabilities.order != "none", "an order")
        topic, subscription = await bench.setup(partitions)
        return subscription, await self._send(bench, topic, count)

    async def _send(self, bench: Workbench, topic: Topic[object], count: int) -> list[Message]:
        keys = [f"key-{bench.random.randrange(KEYS)}" for _ in range(count)]
        sent = [bench.message(topic, n, key=key) for n, key in enumerate(keys)]
        for start in range(0, count, 100):
            await bench.send(topic, sent[start : start + 100])
        return sent

    async def test_one_partition_comes_in_the_order_of_the_log(self, bench: Workbench) -> None:
        bench.need_groups()
        bench.need(bench.capabilities.order != "none", "an order")
        topic, subscription = await bench.setup()
        sent = await bench.publish(topic, 300)
        found = await bench.consume(await bench.consumer(subscription), 300, limit=7)
        assert ids(found) == ids(sent)

    async def test_one_consumer_gets_each_key_in_order(self, bench: Workbench) -> None:
        subscription, sent = await self._keyed(bench, 500)
        consumer = await bench.consumer(subscription)
        in_order(await bench.consume(consumer, 500, limit=13), sent)

    async def test_a_key_stays_in_its_partition(self, bench: Workbench) -> None:
        subscription, _ = await self._keyed(bench, 200)
        found = await bench.consume(await bench.consumer(subscription), 200)
        partitions = defaultdict(set)
        for delivery in found:
            partitions[delivery.message.key].add(delivery.partition)
        assert all(len(places) == 1 for places in partitions.values())

    async def test_what_is_handed_back_comes_in_order_again(self, bench: Workbench) -> None:
        bench.need_each()
        subscription, sent = await self._keyed(bench, 100)
        consumer = await bench.consumer(subscription, ordered=self._ordered(bench))
        found = await bench.take(consumer, 40)
        in_order(found, sent)
        shuffled = list(found)
        bench.random.shuffle(shuffled)
        await bench.settle(consumer, shuffled, "nack")
        in_order(await bench.consume(consumer, 100, limit=9), sent)

    async def test_redelivery_keeps_the_order_of_a_key(self, bench: Workbench) -> None:
        """A batch fails as a whole from some message on, as the lanes of the engine do it."""
        bench.need_each()
        subscription, sent = await self._keyed(bench, 150)
        consumer = await bench.consumer(subscription, ordered=self._ordered(bench))
        done: list[Delivery] = []
        while len(done) < len(sent):
            batch = await bench.take(consumer, min(10, len(sent) - len(done)))
            split = bench.random.randrange(len(batch) + 1)
            await bench.settle(consumer, batch[:split])
            await bench.settle(consumer, batch[split:], "nack", failure=failure("again"))
            done += batch[:split]
        in_order(done, sent)

    async def test_closing_gives_the_next_one_the_same_order(self, bench: Workbench) -> None:
        subscription, sent = await self._keyed(bench, 120)
        done: list[Delivery] = []
        while len(done) < len(sent):
            consumer = await bench.consumer(subscription, ordered=self._ordered(bench))
            batch = await bench.take(consumer, min(40, len(sent) - len(done)))
            half = batch[: len(batch) // 2 + 1]
            await bench.settle(consumer, half)
            done += half
            await consumer.close()
        assert sorted(ids(done)) == sorted(ids(sent)), "each settled once"
        in_order(done, sent)

    async def test_several_consumers_keep_the_order_of_a_key(self, bench: Workbench) -> None:
        bench.need_groups()
        bench.need(bench.capabilities.order == "key-group", 'order="key-group"')
        topic, subscription = await bench.setup(partitions=8)
        sent = await self._send(bench, topic, 400)
        ledger = Ledger(sent)
        actors = [await self._actor(bench, subscription, ledger) for _ in range(3)]
        await self._until_complete(ledger, actors)
        for actor in actors:
            await actor.leave()

    async def test_joining_and_leaving_keep_the_order_of_a_key(self, bench: Workbench) -> None:
        bench.need_groups()
        bench.need(bench.capabilities.order == "key-group", 'order="key-group"')
        topic, subscription = await bench.setup(partitions=8)
        sent = [
            bench.message(topic, n, key=f"key-{bench.random.randrange(KEYS)}") for n in range(1500)
        ]
        ledger = Ledger(sent)
        actors = [await self._actor(bench, subscription, ledger)]
        for step in range(15):
            await bench.send(topic, sent[step * 100 : (step + 1) * 100])
            if step % 3 == 1:
                actors.append(await self._actor(bench, subscription, ledger))
            elif step % 3 == 2 and len(actors) > 1:
                gone = actors.pop(bench.random.randrange(len(actors)))
                await (gone.leave() if step % 2 else gone.vanish())
            await asyncio.sleep(0.02)
        await self._until_complete(ledger, actors)
        for actor in actors:
            await actor.leave()

    async def test_every_member_gets_partitions(self, bench: Workbench) -> None:
        bench.need_groups()
        bench.need(bench.capabilities.order == "key-group", 'order="key-group"')
        topic, subscription = await bench.setup(partitions=8)
        first = await self._actor(bench, subscription, None)
        await eventually(lambda: len(first.assigned) == 8, "the only member to own all 8")
        second = await self._actor(bench, subscription, None)
        await eventually(lambda: len(second.assigned) >= 3, "the second one to own some of 8")
        await eventually(
            lambda: len(first.assigned) + len(second.assigned) == 8, "every partition owned once"
        )
        assert not first.assigned & second.assigned, "one owner at a time"
        await first.leave()
        await eventually(lambda: len(second.assigned) == 8, "the last one to own all 8")
        sent = await self._send(bench, topic, 40)
        await second.settled(len(sent))
        await second.leave()

    async def test_a_member_that_falls_silent_loses_its_partitions(self, bench: Workbench) -> None:
        bench.need_each()
        bench.need(bench.capabilities.order == "key-group", 'order="key-group"')
        bench.need(bench.capabilities.lease, "lease")
        topic, subscription = await bench.setup(partitions=2)
        sent = await self._send(bench, topic, 40)
        silent = await bench.consumer(
            subscription, await bench.another(), lease=bench.road.lease, ordered=True
        )
        held = await bench.take(silent, 10)
        ledger = Ledger(sent)
        actor = await self._actor(bench, subscription, ledger)
        await self._until_complete(ledger, [actor])
        await actor.leave()
        assert list(await silent.begin(held)) == []
        assert list(await silent.extend(held)) == []

    def _ordered(self, bench: Workbench) -> bool:
        return bench.capabilities.order == "key-group"

    async def _actor(
        self, bench: Workbench, subscription: Subscription, ledger: Ledger | None
    ) -> Actor:
        consumer = await bench.consumer(subscription, await bench.another(), ordered=True)
        if ledger is None:
            return Actor(consumer, limit=20)
        return Actor(consumer, limit=20, handle=ledger.handle, settled=ledger.settle)

    async def _until_complete(self, ledger: Ledger, actors: list[Actor]) -> None:
        await eventually(
            lambda: any(actor.failed for actor in actors) or ledger.complete,
            "every message of every key settled in order",
        )
        for actor in actors:
            actor.check()
        assert ledger.complete
