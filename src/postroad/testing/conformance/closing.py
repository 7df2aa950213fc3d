"""Closing and cancelling: nothing hangs, nothing is lost, and errors are ours."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import pytest

from postroad.core.delivery import Delivery, Settlement
from postroad.core.transport import Consumer, Plan, Transport
from postroad.errors import ClosedError, PostroadError, PublishError
from postroad.testing.conformance.actors import Actor
from postroad.testing.conformance.bench import BYTES, Workbench, failure, ids, make_topic
from postroad.testing.conformance.waiting import PATIENCE, eventually


class Closing:
    """How things end."""

    async def test_ten_closes_at_once_and_again(self, bench: Workbench) -> None:
        topic, subscription = make_topic("orders.created"), None
        if bench.capabilities.groups:
            topic, subscription = await bench.setup()
        else:
            await bench.open(topic)
        if subscription is not None:
            consumer = await bench.consumer(subscription)
            await bench.publish(topic, 5)
            await bench.take(consumer, 2)
            await asyncio.gather(*(consumer.close() for _ in range(10)))
            await consumer.close()
        await self._shut(bench)

    async def _shut(self, bench: Workbench) -> None:
        bench.audited = bench.capabilities.durable
        closes = (bench.main.close() for _ in range(10))
        await asyncio.wait_for(asyncio.gather(*closes), PATIENCE)
        await bench.main.close()

    async def test_used_after_closing_says_so(self, bench: Workbench) -> None:
        bench.need_groups()
        topic, subscription = await bench.setup()
        source = bench.source()
        await self._shut(bench)
        with pytest.raises((ClosedError, PublishError)) as caught:
            await bench.main.publish([(topic, bench.message(topic))])
        if isinstance(caught.value, PublishError):
            assert isinstance(caught.value.failed[0], ClosedError)
        for call in (
            lambda: source.subscribe(subscription, Plan()),
            lambda: source.lag(topic.name, "g"),
            lambda: source.topics("#"),
        ):
            with pytest.raises(ClosedError):
                await call()

    async def test_used_before_opening_says_so(self, bench: Workbench) -> None:
        topic = make_topic("orders.created")
        with pytest.raises((ClosedError, PublishError)):
            await bench.main.publish([(topic, bench.message(topic))])

    async def test_a_closed_consumer_says_so(self, bench: Workbench) -> None:
        bench.need_groups()
        topic, subscription = await bench.setup()
        consumer = await bench.consumer(subscription)
        await bench.publish(topic)
        held = await bench.take(consumer, 1)
        await consumer.close()
        with pytest.raises(ClosedError):
            await consumer.receive(1, BYTES, timedelta(0))
        try:
            settled = await consumer.settle([Settlement(held[0])])
        except ClosedError:
            return
        assert list(settled) != ["done"], "closing has handed it back"

    async def test_closing_ends_a_waiting_receive(self, bench: Workbench) -> None:
        bench.need_groups()
        _, subscription = await bench.setup()
        consumer = await bench.consumer(subscription)
        waiting = asyncio.create_task(consumer.receive(1, BYTES, timedelta(minutes=5)))
        await bench.nothing(await bench.consumer(subscription), "nothing was published")
        await asyncio.wait_for(consumer.close(), PATIENCE)
        done, _ = await asyncio.wait([waiting], timeout=PATIENCE)
        assert done, "a receive that waits ends when its consumer is closed"
        error = waiting.exception()
        assert error is None or isinstance(error, ClosedError)

    async def test_closing_ends_the_notices(self, bench: Workbench) -> None:
        bench.need_groups()
        _, subscription = await bench.setup()
        consumer = await bench.consumer(subscription)
        streams = [_drain(consumer), _drain(bench.main)]
        tasks = [asyncio.create_task(stream) for stream in streams]
        await consumer.close()
        await self._shut(bench)
        await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE)

    async def test_closing_the_road_hands_back_what_its_consumers_held(
        self, bench: Workbench
    ) -> None:
        bench.need_each()
        bench.need(bench.capabilities.durable, "durable")
        topic, subscription = await bench.setup()
        consumer = await bench.consumer(subscription)
        sent = await bench.publish(topic, 5)
        await bench.take(consumer, 5)
        await bench.main.close()
        await bench.reopen()
        again = await bench.take(await bench.consumer(subscription), 5)
        assert sorted(ids(again)) == sorted(ids(sent))

    async def test_closing_finishes_what_is_being_published(self, bench: Workbench) -> None:
        bench.need_groups()
        bench.need(bench.capabilities.durable, "durable")
        topic, subscription = await bench.setup()
        sent = [bench.message(topic, n) for n in range(200)]
        tasks = [asyncio.create_task(bench.main.publish([(topic, one)])) for one in sent]
        await asyncio.sleep(0)
        await bench.main.close()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        kept = []
        for message, result in zip(sent, results, strict=True):
            if isinstance(result, BaseException):
                assert isinstance(result, PostroadError), f"not an error of ours: {result!r}"
            else:
                kept.append(message.id)
        await bench.reopen()
        consumer = await bench.consumer(subscription)
        assert set(kept) <= set(ids(await bench.consume(consumer, len(kept))))

    async def test_a_cancelled_receive_loses_nothing(self, bench: Workbench) -> None:
        bench.need_groups()
        topic, subscription = await bench.setup()
        consumer = await bench.consumer(subscription)
        sent: list[str] = []
        found: list[Delivery] = []
        for step in range(40):
            task = asyncio.create_task(consumer.receive(3, BYTES, timedelta(seconds=5)))
            for _ in range(bench.random.randrange(4)):
                await asyncio.sleep(0)
            sent += ids(await bench.publish(topic, 2))
            await asyncio.sleep(bench.random.random() * 0.004)
            task.cancel()
            found += await _outcome(task)
            if step % 10 == 9:
                await bench.settle(consumer, found)
                found = []
        await bench.settle(consumer, found)
        await self._settled_each_once(bench, consumer, sent)

    async def _settled_each_once(
        self, bench: Workbench, consumer: Consumer, sent: list[str]
    ) -> None:
        actor = Actor(consumer)
        if bench.capabilities.audit == "exact":
            topic = make_topic("orders.created")

            async def all_settled() -> bool:
                return (await bench.account(topic)).outcomes.get("handled") == len(sent)

            await eventually(all_settled, f"{len(sent)} messages settled, none leased for ever")
        await actor.leave()

    async def test_a_cancelled_publish_is_whole_or_not_at_all(self, bench: Workbench) -> None:
        bench.need_groups()
        topic, subscription = await bench.setup()
        consumer = await bench.consumer(subscription)
        sent: list[str] = []
        for _ in range(30):
            message = bench.message(topic)
            task = asyncio.create_task(bench.main.publish([(topic, message)]))
            for _ in range(bench.random.randrange(3)):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            sent.append(message.id)
        last = await bench.publish(topic)
        found: list[str] = []
        while last[0].id not in found:
            found += ids(await bench.consume(consumer, 1, limit=1))
        assert len(found) == len(set(found)), "cancelling repeats nothing"
        assert set(found) <= {*sent, last[0].id}
        await bench.nothing(consumer, "the last one was received")

    async def test_cancelled_settling_can_be_repeated(self, bench: Workbench) -> None:
        bench.need_each()
        topic, subscription = await bench.setup()
        consumer = await bench.consumer(subscription)
        await bench.publish(topic, 10)
        for delivery in await bench.take(consumer, 10):
            task = asyncio.create_task(consumer.settle([Settlement(delivery)]))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            settled = await consumer.settle([Settlement(delivery)])
            assert set(settled) <= {"done", "stale"}
        await bench.nothing(consumer, "all was acknowledged")
        if bench.capabilities.audit == "exact":
            assert (await bench.account(topic)).outcomes.get("handled") == 10

    async def test_opening_twice_and_by_two_at_once_is_fine(self, bench: Workbench) -> None:
        bench.need_groups()
        topic = make_topic("orders.created")
        subscription = bench.subscription(topic)
        await bench.open(topic, subscriptions=[subscription])
        if bench.capabilities.shared:
            await asyncio.gather(*(bench.another() for _ in range(3)))
        sent = await bench.publish(topic, 3)
        await bench.main.open([topic], [subscription])
        consumer = await bench.consumer(subscription)
        assert ids(await bench.consume(consumer, 3)) == ids(sent)

    async def test_settling_nothing_is_nothing(self, bench: Workbench) -> None:
        bench.need_groups()
        topic, subscription = await bench.setup()
        consumer = await bench.consumer(subscription)
        assert list(await consumer.settle([])) == []
        await bench.publish(topic)
        held = await bench.take(consumer, 1)
        if bench.capabilities.settling == "each":
            await bench.settle(consumer, held, "nack", failure=failure("once"))
            await bench.consume(consumer, 1)


async def _drain(teller: Consumer | Transport) -> None:
    async for _ in teller.notices():
        pass


async def _outcome(task: asyncio.Task[Sequence[Delivery]]) -> Sequence[Delivery]:
    """What a receive gave before its cancellation took effect."""
    try:
        return await task
    except asyncio.CancelledError:
        return ()
