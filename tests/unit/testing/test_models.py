"""What a test may do to a model transport: stop it, kill it, lose its answers, take partitions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from postroad.core.delivery import Delivery, Settlement
from postroad.core.message import Message, new_id
from postroad.core.notices import Assigned, Gap, Lost, Notice, Revoking
from postroad.core.subscription import Subscription
from postroad.core.topic import Topic
from postroad.core.transport import Plan
from postroad.errors import ClosedError, NotSupportedError, TransportUnavailableError
from postroad.testing.clock import VirtualClock
from postroad.testing.models import (
    AtomicModel,
    Broker,
    CumulativeModel,
    LeasedModel,
    LossyModel,
    PushModel,
)
from postroad.testing.models.base import ModelTransport
from postroad.testing.models.consumer import ModelConsumer

TOPIC: Topic[int] = Topic("numbers", int, key=str, partitions=4)
LEASE = 10.0
GROUPED = [AtomicModel, CumulativeModel, LeasedModel, PushModel]
OWNED = [AtomicModel, CumulativeModel, LeasedModel]
Make = Callable[[Broker[Any]], ModelTransport[Any]]


class Server:
    """A broker in virtual time, and instances that reach it."""

    def __init__(self, make: Make, seed: int = 1) -> None:
        self.clock = VirtualClock()
        self.broker: Broker[Any] = Broker(seed=seed, clock=self.clock)
        self.roads: list[ModelTransport[Any]] = []
        self._make = make

    async def road(self) -> ModelTransport[Any]:
        """An instance, opened."""
        road = self._make(self.broker)
        self.roads.append(road)
        groups = [Subscription(source=TOPIC, group="g")] if road.capabilities.groups else []
        await road.open([TOPIC], groups)
        return road

    async def consumer(self, road: ModelTransport[Any], ordered: bool = True) -> ModelConsumer:
        """A consumer of it."""
        group = "g" if road.capabilities.groups else None
        plan = Plan(lease=timedelta(seconds=LEASE), ordered=ordered)
        return await road.subscribe(Subscription(source=TOPIC, group=group), plan)

    async def publish(self, count: int) -> None:
        """So many numbers, with keys of their own."""
        entries = [
            (
                TOPIC,
                Message(id=new_id(), type="n", source="s", data=b"%d" % n, time_us=0, key=f"{n}"),
            )
            for n in range(count)
        ]
        await self.roads[0].publish(entries)

    async def passes(self, seconds: float) -> None:
        """Let so much time pass."""
        await self.clock.advance(timedelta(seconds=seconds))


@asynccontextmanager
async def server_of(make: Make, seed: int = 1) -> AsyncIterator[Server]:
    server = Server(make, seed)
    yield server
    for road in server.roads:
        await road.close()


async def take(consumer: ModelConsumer, limit: int = 100) -> list[Delivery]:
    """What there is now."""
    return list(await consumer.receive(limit, 1 << 20, timedelta(0)))


def listen(consumer: ModelConsumer) -> tuple[list[Notice], asyncio.Task[None]]:
    """What it is told, as it comes."""
    told: list[Notice] = []

    async def read() -> None:
        async for notice in consumer.notices():
            told.append(notice)  # noqa: PERF401 - as it comes

    return told, asyncio.create_task(read())


def acks(deliveries: list[Delivery]) -> list[Settlement]:
    return [Settlement(delivery) for delivery in deliveries]


@pytest.mark.parametrize("make", GROUPED)
async def test_a_stalled_process_waits_and_goes_on_where_it_was(make: Make) -> None:
    async with server_of(make) as server:
        road = await server.road()
        consumer = await server.consumer(road)
        await server.publish(3)
        held = await take(consumer)
        road.stall()
        calls = [
            asyncio.create_task(call)
            for call in (
                consumer.settle(acks(held)),
                consumer.extend(held),
                consumer.receive(1, 1, timedelta(0)),
                server.roads[0].topics("#"),
            )
        ]
        await server.passes(1)
        assert not any(call.done() for call in calls)
        road.resume()
        await server.passes(0)
        assert all(call.done() for call in calls)
        assert calls[0].result() == ["done"] * 3


@pytest.mark.parametrize("make", OWNED)
async def test_a_process_that_was_stalled_past_its_lease_is_a_zombie(make: Make) -> None:
    async with server_of(make) as server:
        zombie_road, heir_road = await server.road(), await server.road()
        zombie = await server.consumer(zombie_road)
        told, listening = listen(zombie)
        await server.publish(20)
        held = await take(zombie)
        assert len(held) == 20
        zombie_road.stall()
        heir = await server.consumer(heir_road)
        await server.passes(LEASE + 1)
        again = await take(heir)
        assert len(again) == 20
        fences = {delivery.message.id: delivery.fence or 0 for delivery in held}
        assert all((one.fence or 0) > fences[one.message.id] for one in again)
        assert [type(notice) for notice in told] == [Assigned], "it sleeps, and was not told"
        zombie_road.resume()
        assert set(await zombie.settle(acks(held))) == {"stale"}
        assert set(await heir.settle(acks(again))) == {"done"}
        await server.passes(0)
        assert any(isinstance(notice, Lost) for notice in told)
        await zombie.close()
        await listening


@pytest.mark.parametrize("make", GROUPED)
async def test_a_killed_process_says_no_goodbye(make: Make) -> None:
    async with server_of(make) as server:
        dead_road, heir_road = await server.road(), await server.road()
        dead, heir = await server.consumer(dead_road), await server.consumer(heir_road)
        await server.publish(20)
        held = await take(dead)
        assert held
        dead_road.kill()
        dead_road.resume()
        answer = asyncio.create_task(dead.settle(acks(held)))
        await server.passes(LEASE + 1)
        assert not answer.done(), "nothing of it reaches the server, ever"
        found = await take(heir)
        while more := await take(heir):
            found += more
        assert {one.message.id for one in held} <= {one.message.id for one in found}
        await dead.close()
        await dead_road.close()
        with pytest.raises(ClosedError):
            await answer


@pytest.mark.parametrize("make", GROUPED)
async def test_a_lost_answer_was_done(make: Make) -> None:
    async with server_of(make) as server:
        road = await server.road()
        consumer = await server.consumer(road)
        await server.publish(3)
        held = await take(consumer)
        road.lose_replies(1)
        with pytest.raises(TransportUnavailableError):
            await consumer.settle(acks(held))
        assert set(await consumer.settle(acks(held))) <= {"done", "stale"}
        await consumer.close()
        assert await take(await server.consumer(road)) == []


async def test_a_commit_whose_answer_is_lost_has_published() -> None:
    async with server_of(AtomicModel) as server:
        road = await server.road()
        consumer = await server.consumer(road)
        results: Topic[int] = Topic("results", int, partitions=1)
        await server.publish(3)
        held = await take(consumer)
        entry = (results, Message(id="r", type="n", source="s", data=b"1", time_us=0))
        road.lose_replies(1)
        with pytest.raises(TransportUnavailableError):
            await consumer.settle_and_publish(acks(held), [entry])  # type: ignore[attr-defined]
        again = await consumer.settle_and_publish(acks(held), [entry])  # type: ignore[attr-defined]
        assert set(again) == {"stale"}
        assert [len(line) for line in server.broker.channels["results"].lines] == [1]


@pytest.mark.parametrize("make", OWNED)
async def test_the_server_takes_partitions_whether_anybody_receives_or_not(make: Make) -> None:
    async with server_of(make) as server:
        road = await server.road()
        consumer = await server.consumer(road)
        told, listening = listen(consumer)
        road.revoke("numbers", "g", [2])  # type: ignore[attr-defined]
        await server.passes(0)
        assert told[1:] == [Revoking([("numbers", 2)], LEASE)]
        await consumer.release([("numbers", 2), ("numbers", 3)])
        await server.passes(0)
        assert told[2:] == [Assigned([("numbers", 2)])], "nobody else wants it; 3 was not revoked"
        await consumer.close()
        await listening


@pytest.mark.parametrize("make", [CumulativeModel, LossyModel])
async def test_where_nothing_can_be_given_back_a_nack_is_refused(make: Make) -> None:
    async with server_of(make) as server:
        road = await server.road()
        consumer = await server.consumer(road)
        await server.publish(2)
        held = await take(consumer)
        with pytest.raises(NotSupportedError):
            await consumer.settle([Settlement(held[0]), Settlement(held[1], "nack")])


async def test_push_fills_a_buffer_that_nobody_asked_for_and_takes_it_back() -> None:
    async with server_of(PushModel) as server:
        road = await server.road()
        idle, busy = await server.consumer(road), await server.consumer(road)
        await server.publish(10)
        first = await take(busy)
        assert 0 < len(first) < 10, "the other ones wait in the idle one's buffer"
        await server.passes(1)
        rest = await take(busy)
        assert len(first) + len(rest) == 10
        await idle.close()


async def test_a_push_that_was_not_settled_is_stale_after_a_reconnect() -> None:
    async with server_of(PushModel) as server:
        road = await server.road()
        consumer = await server.consumer(road)
        await server.publish(3)
        held = await take(consumer)
        assert isinstance(road, PushModel)
        road.disconnect()
        assert set(await consumer.settle(acks(held))) == {"stale"}
        again = await take(consumer)
        assert {one.message.id for one in again} == {one.message.id for one in held}
        assert [one.deliveries for one in again] == [None] * 3


async def test_a_full_reader_loses_its_buffer_and_is_told_how_much() -> None:
    async with server_of(lambda broker: LossyModel(broker, capacity=4)) as server:
        road = await server.road()
        consumer = await server.consumer(road)
        told, listening = listen(consumer)
        await server.publish(7)
        assert [one.message.data for one in await take(consumer)] == [b"5", b"6"]
        await server.passes(0)
        assert told == [Gap("numbers", 5)]
        await consumer.close()
        await listening


@pytest.mark.parametrize("make", GROUPED)
async def test_one_seed_makes_the_same_choices(make: Make) -> None:
    assert await _story(make, 7) == await _story(make, 7)
    stories = [await _story(make, seed) for seed in range(8)]
    assert any(story != stories[0] for story in stories), "another seed makes others"


async def _story(make: Make, seed: int) -> list[bytes]:
    """What two members of a group receive in turns."""
    async with server_of(make, seed) as server:
        members = [await server.consumer(await server.road(), ordered=False) for _ in range(2)]
        await server.publish(30)
        found: list[bytes] = []
        for _ in range(5):
            for member in members:
                found += [delivery.message.data for delivery in await take(member, 4)]
        return found
