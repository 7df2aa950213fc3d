"""Delays that a road cannot keep, over a store in memory and a clock that stands still."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from postroad.core.clock import duration_us
from postroad.core.hooks import Hooks
from postroad.core.message import Message
from postroad.core.reports import DeadLetter
from postroad.core.topic import Topic
from postroad.delivery.delaying import Delaying
from postroad.delivery.moving import FORWARDER, moved_name
from postroad.delivery.stored import StoredLetters
from postroad.errors import PayloadTooLargeError, PublishError
from postroad.testing.clock import VirtualClock
from postroad.testing.models import Broker, PushModel
from postroad.transports.memory import MemoryTransport

ORDERS: Topic[bytes] = Topic("orders", bytes, partitions=3)
LATER = timedelta(hours=1)


class Road(PushModel):
    """Notes what is published on it; refuses for good what it is told to."""

    def __init__(self) -> None:
        super().__init__(Broker())
        self.came: list[str] = []
        self.refused: set[str] = set()

    async def publish(self, messages: Sequence[tuple[Topic[Any], Message]]) -> Any:
        if any(message.id in self.refused for _, message in messages):
            raise PublishError({0: PayloadTooLargeError("too large")})
        self.came += [message.id for _, message in messages]
        return await super().publish(messages)


class World:
    """A clock, a store, and whoever publishes late through it."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.store = MemoryTransport(clock=self.clock)
        self.tasks: list[asyncio.Task[None]] = []

    async def join(self, name: str) -> tuple[Road, Delaying]:
        road = Road()
        await road.open([], [])
        delaying = Delaying(road, self.store, self.clock, road=name)
        await delaying.open()
        return road, delaying

    def forward(self, delaying: Delaying) -> None:
        runner = delaying.runner(Hooks())
        self.tasks.append(asyncio.create_task(runner.run(asyncio.Event(), timedelta(0))))

    async def publish(self, delaying: Delaying, id_: str) -> None:
        due = self.clock.now_us() + duration_us(LATER)
        message = Message(id=id_, type="t", source="s", data=b"", time_us=0, deliver_at_us=due)
        await delaying.publish([(ORDERS, message)])


@asynccontextmanager
async def a_world() -> AsyncIterator[World]:
    world = World()
    await world.store.open([], [])
    try:
        yield world
    finally:
        for task in world.tasks:
            task.cancel()
        await asyncio.gather(*world.tasks, return_exceptions=True)
        await world.store.close()


async def test_each_topic_has_an_account_of_what_is_on_its_way() -> None:
    async with a_world() as world:
        road, delaying = await world.join("here")
        await world.publish(delaying, "1")
        await world.publish(delaying, "2")
        name = moved_name(delaying.prefix, "orders")
        account = await world.store.account(name, FORWARDER)
        assert (account.accepted, account.scheduled) == (2, 2)
        world.forward(delaying)
        await world.clock.advance(LATER - timedelta(seconds=1))
        assert road.came == []
        await world.clock.advance(timedelta(seconds=2))
        assert sorted(road.came) == ["1", "2"]
        account = await world.store.account(name, FORWARDER)
        assert (account.scheduled, account.outcomes["handled"]) == (0, 2)


async def test_roads_that_share_a_store_publish_their_own() -> None:
    async with a_world() as world:
        here, one = await world.join("redis://here")
        there, other = await world.join("redis://there")
        for n in range(20):
            await world.publish(one, f"here{n}")
            await world.publish(other, f"there{n}")
        world.forward(one)
        world.forward(other)
        await world.clock.advance(LATER + timedelta(seconds=1))
        assert sorted(here.came) == sorted(f"here{n}" for n in range(20))
        assert sorted(there.came) == sorted(f"there{n}" for n in range(20))


@pytest.mark.parametrize("action", ["redrive", "discard"])
async def test_what_its_road_refuses_for_good_is_a_dead_letter_of_its_topic(action: str) -> None:
    async with a_world() as world:
        road, delaying = await world.join("here")
        road.refused = {"1"}
        await world.publish(delaying, "1")
        await world.publish(delaying, "2")
        world.forward(delaying)
        await world.clock.advance(LATER + timedelta(hours=1))
        letters = StoredLetters(world.store, "here", delaying.prefix)
        found: Sequence[DeadLetter] = await letters.dead_letters("orders", None, 9)
        assert [(one.topic, one.message.id, one.group) for one in found] == [
            ("orders", "1", FORWARDER)
        ]
        assert not found[0].message.headers
        assert found[0].failures
        road.refused.clear()
        assert await getattr(letters, action)([found[0].id]) == 1
        await world.clock.advance(timedelta(seconds=1))
        assert sorted(road.came) == (["1", "2"] if action == "redrive" else ["2"])
        assert await letters.dead_letters("#", None, 9) == []
