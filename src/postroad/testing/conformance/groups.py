"""Groups: inside one messages compete, between them they fan out; without one all see all."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from postroad.core.delivery import Settlement
from postroad.core.message import Message
from postroad.core.topic import Topic
from postroad.errors import BacklogFullError, PostroadError, PublishError
from postroad.testing.conformance.actors import Actor
from postroad.testing.conformance.bench import BYTES, Workbench, ids, make_topic
from postroad.testing.conformance.waiting import PATIENCE, eventually


class Groups:
    """Competing consumers, fan-out, ephemeral readers, and the load of many publishers."""

    async def test_consumers_of_a_group_share_the_work(self, bench: Workbench) -> None:
        bench.need_groups()
        topic, subscription = await bench.setup(partitions=8)
        members = [await bench.consumer(subscription, await bench.another()) for _ in range(3)]
        sent = [bench.message(topic, n, key=f"key-{n}") for n in range(300)]
        actors = [Actor(member) for member in members]
        await bench.send(topic, sent)
        await eventually(
            lambda: sum(len(actor.done) for actor in actors) >= 300, "300 messages settled"
        )
        for actor in actors:
            await actor.leave()
        found = [delivery for actor in actors for delivery in actor.done]
        assert Counter(ids(found)) == Counter(ids(sent)), "each exactly once in the group"

    async def test_groups_fan_out(self, bench: Workbench) -> None:
        bench.need_groups()
        topic = make_topic("orders.created")
        wishes = [bench.subscription(topic, name) for name in ("payment", "search", "Märkte/1")]
        await bench.open(topic, subscriptions=wishes)
        sent = await bench.publish(topic, 50)
        for wish in wishes:
            consumer = await bench.consumer(wish)
            found = await bench.consume(consumer, 50)
            assert sorted(ids(found)) == sorted(ids(sent))
            await bench.nothing(consumer, "the group has seen all")

    async def test_one_group_on_two_topics_keeps_them_apart(self, bench: Workbench) -> None:
        bench.need_groups()
        topics = [make_topic("orders.created"), make_topic("orders.paid")]
        wishes = [bench.subscription(topic) for topic in topics]
        await bench.open(*topics, subscriptions=wishes)
        sent = [await bench.publish(topic, 5) for topic in topics]
        for wish, messages in zip(wishes, sent, strict=True):
            consumer = await bench.consumer(wish)
            assert sorted(ids(await bench.consume(consumer, 5))) == sorted(ids(messages))

    async def test_readers_without_a_group_see_everything_from_now_on(
        self, bench: Workbench
    ) -> None:
        bench.need(bench.capabilities.ephemeral, "ephemeral")
        topic = make_topic("prices.changed")
        await bench.open(topic)
        await bench.publish(topic, 5)
        subscription = bench.subscription(topic, None, "latest")
        readers = [await bench.consumer(subscription, await bench.another()) for _ in range(2)]
        sent = await bench.publish(topic, 20)
        for reader in readers:
            found = await bench.take(reader, 20)
            assert ids(found) == ids(sent)
            settled = await reader.settle([Settlement(delivery) for delivery in found])
            assert list(settled) == ["done"] * 20, "what an ephemeral reader answers is done"
            await reader.close()
        again = await bench.consumer(subscription)
        await bench.nothing(again, "nothing of an ephemeral reader outlives it")

    async def test_a_reader_without_a_group_is_refused_where_undeclared(
        self, bench: Workbench
    ) -> None:
        if bench.capabilities.ephemeral:
            bench.skip("it is declared")
        topic = make_topic("prices.changed")
        await bench.open(topic)
        with pytest.raises(PostroadError):
            await bench.consumer(bench.subscription(topic, None, "latest"))

    async def test_a_group_is_refused_where_undeclared(self, bench: Workbench) -> None:
        if bench.capabilities.groups:
            bench.skip("it is declared")
        topic = make_topic("prices.changed")
        await bench.open(topic)
        with pytest.raises(PostroadError):
            await bench.consumer(bench.subscription(topic, "g", "latest"))

    async def test_a_burst_of_concurrent_publishes_loses_nothing(self, bench: Workbench) -> None:
        bench.need_groups()
        bench.need(bench.capabilities.backlog != "dropped", "a backlog that is not dropped")
        topic, subscription = await bench.setup(partitions=4)
        consumer = await bench.consumer(subscription)
        count = bench.road.burst
        messages = [bench.message(topic, n, key=f"key-{n % 100}") for n in range(count)]
        actor = Actor(consumer)
        await asyncio.gather(*(bench.main.publish([(topic, one)]) for one in messages))
        await actor.settled(count, bench.road.patience)
        await actor.leave()
        found = actor.done
        await bench.nothing(await bench.consumer(subscription), "all was acknowledged")
        repeated = len(found) - len(set(ids(found)))
        assert set(ids(found)) == set(ids(messages))
        if bench.capabilities.audit == "exact":
            account = await bench.account(topic)
            assert account.accepted == count
            assert account.outcomes.get("handled") == count
            assert account.duplicates == repeated, "duplicates are counted, not hidden"

    async def test_the_backlog_is_what_is_declared(self, bench: Workbench) -> None:
        bench.need_groups()
        topic, subscription = await bench.setup()
        accepted: list[str] = []
        publishing = asyncio.create_task(self._fill(bench, topic, accepted))
        await asyncio.wait([publishing], timeout=bench.road.patience / 5)
        if bench.capabilities.backlog == "refused":
            assert len(accepted) < bench.road.backlog, "a bounded queue is full at some time"
        consumer = await bench.consumer(subscription)
        if bench.capabilities.backlog == "dropped":
            await publishing
            await bench.publish(topic)
            assert len(await bench.take(consumer, 1)) == 1, "what is new comes"
            return
        found: set[str] = set()
        while not publishing.done() or len(found) < len(accepted):
            batch = await consumer.receive(500, BYTES, timedelta(milliseconds=100))
            assert batch or not publishing.done(), f"{len(accepted) - len(found)} accepted, lost"
            await bench.settle(consumer, batch)
            found |= set(ids(batch))
        assert found == set(accepted)

    async def _fill(self, bench: Workbench, topic: Topic[Any], accepted: list[str]) -> None:
        """Publish until the backlog is as long as the road says or the queue is full."""
        longest = bench.road.backlog if bench.capabilities.backlog == "refused" else 2_000
        while len(accepted) < longest:
            messages = [bench.message(topic, n) for n in range(100)]
            try:
                await bench.main.publish([(topic, message) for message in messages])
                accepted += ids(messages)
            except PublishError as error:
                accepted += _accepted(messages, error)
                return

    async def test_a_slow_consumer_hoards_nothing(self, bench: Workbench) -> None:
        bench.need_each()
        topic, subscription = await bench.setup()
        slow = await bench.consumer(subscription, await bench.another())
        fast = await bench.consumer(subscription)
        await bench.publish(topic, 200)
        held = await bench.take(slow, 1, limit=1)
        found = await bench.consume(fast, 199, limit=50)
        assert held[0].message.id not in ids(found)
        await bench.settle(slow, held)
        await bench.nothing(fast, "all was settled")

    async def test_receive_wakes_when_something_comes(self, bench: Workbench) -> None:
        bench.need_groups()
        topic, subscription = await bench.setup()
        consumer = await bench.consumer(subscription)
        waiting = asyncio.create_task(consumer.receive(10, BYTES, timedelta(seconds=PATIENCE)))
        other = await bench.another()
        message = bench.message(topic)
        await other.publish([(topic, message)])
        found = await asyncio.wait_for(waiting, PATIENCE / 2)
        assert ids(found) == [message.id]

    async def test_a_paused_partition_gives_nothing_until_it_is_resumed(
        self, bench: Workbench
    ) -> None:
        bench.need_groups()
        topic, subscription = await bench.setup()
        consumer = await bench.consumer(subscription)
        sent = await bench.publish(topic, 3)
        await bench.consume(consumer, 1, limit=1)
        await consumer.pause([(topic.name, 0)])
        await bench.nothing(consumer, "the partition is paused")
        await consumer.resume([(topic.name, 0)])
        assert ids(await bench.consume(consumer, 2)) == ids(sent[1:])


def _accepted(messages: list[Message], error: PublishError) -> list[str]:
    """The ids of what a full queue still took."""
    assert not error.unknown, "a refusal is no riddle"
    assert all(isinstance(why, BacklogFullError) for why in error.failed.values())
    return [message.id for n, message in enumerate(messages) if n not in error.failed]
