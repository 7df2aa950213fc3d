"""The memory road keeps a key's order over the consumers of a group: who owns which partition."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any

import pytest

from postroad.core.delivery import Delivery, Partition, Settlement
from postroad.core.notices import Assigned, Lost, Notice, Revoking
from postroad.core.partitioner import partition_of
from postroad.core.subscription import Subscription
from postroad.core.topic import Topic
from postroad.core.transport import Consumer, Plan
from postroad.testing.clock import VirtualClock
from postroad.transports.memory import MemoryTransport

SECOND = timedelta(seconds=1)
TOPIC = Topic("flights", dict, key="k", partitions=4)
SUBSCRIPTION = Subscription(source=TOPIC, group="claims", order="key")
ORDERED = Plan(ordered=True, lease=SECOND)


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
async def road(clock: VirtualClock) -> AsyncIterator[MemoryTransport]:
    transport = MemoryTransport(clock=clock)
    await transport.open([TOPIC], [SUBSCRIPTION])
    yield transport
    await transport.close()


class Watcher:
    """Reads a consumer's notices as they come."""

    def __init__(self, consumer: Consumer) -> None:
        self.notices: list[Notice] = []
        self._task = asyncio.create_task(self._watch(consumer))

    async def _watch(self, consumer: Consumer) -> None:
        async for notice in consumer.notices():
            self.notices.append(notice)

    async def take(self) -> list[Notice]:
        for _ in range(5):
            await asyncio.sleep(0)
        found, self.notices = self.notices, []
        return found


def key_in(partition: int) -> str:
    """A key that belongs to the partition."""
    return next(str(n) for n in range(1000) if partition_of(str(n), 4) == partition)


KEYS = [key_in(partition) for partition in range(4)]


async def publish(road: MemoryTransport, clock: VirtualClock, key: str, number: int) -> None:
    await road.publish([(TOPIC, TOPIC.envelope({"k": key, "n": number}, clock.now_us(), "t"))])


async def read(consumer: Consumer, limit: int = 100) -> list[Delivery]:
    return list(await consumer.receive(limit, 1 << 30, timedelta(0)))


def partitions(deliveries: Sequence[Delivery]) -> set[int]:
    return {delivery.partition for delivery in deliveries}


def named(notice: Notice) -> set[int]:
    assert isinstance(notice, Assigned | Revoking | Lost)
    return {number for _, number in notice.partitions}


async def test_one_consumer_owns_all_and_is_told(road: MemoryTransport) -> None:
    consumer = await road.subscribe(SUBSCRIPTION, ORDERED)
    (notice,) = await Watcher(consumer).take()
    assert isinstance(notice, Assigned)
    wanted: list[Partition] = [("flights", number) for number in range(4)]
    assert list(notice.partitions) == wanted


async def test_a_partition_at_rest_changes_hands_at_once(
    road: MemoryTransport, clock: VirtualClock
) -> None:
    one = await road.subscribe(SUBSCRIPTION, ORDERED)
    two = await road.subscribe(SUBSCRIPTION, ORDERED)
    for key in KEYS:
        await publish(road, clock, key, 0)
    first, second = partitions(await read(one)), partitions(await read(two))
    assert len(first) == len(second) == 2
    assert first | second == {0, 1, 2, 3}
    notices = await Watcher(one).take()
    assert isinstance(notices[1], Revoking)
    assert named(notices[1]) == second


async def test_a_partition_in_flight_changes_hands_once_it_is_settled(
    road: MemoryTransport, clock: VirtualClock
) -> None:
    one = await road.subscribe(SUBSCRIPTION, ORDERED)
    for key in KEYS:
        await publish(road, clock, key, 0)
    held = await read(one)
    two = await road.subscribe(SUBSCRIPTION, ORDERED)
    watcher = Watcher(one)
    (_, revoking) = await watcher.take()
    assert isinstance(revoking, Revoking)
    assert revoking.deadline == pytest.approx(clock.monotonic() + 1)
    leaving = named(revoking)
    for key in KEYS:
        await publish(road, clock, key, 1)
    # The old owner gets nothing more from them, and the new one nothing yet.
    assert partitions(await read(one)).isdisjoint(leaving)
    assert await read(two) == []
    await one.settle([Settlement(delivery) for delivery in held])
    assert partitions(await read(two)) == leaving


async def test_release_gives_up_what_is_in_flight(
    road: MemoryTransport, clock: VirtualClock
) -> None:
    one = await road.subscribe(SUBSCRIPTION, ORDERED)
    for key in KEYS:
        await publish(road, clock, key, 0)
    held = await read(one)
    two = await road.subscribe(SUBSCRIPTION, ORDERED)
    (_, revoking) = await Watcher(one).take()
    assert isinstance(revoking, Revoking)
    await one.release(revoking.partitions)
    again = await read(two)
    assert partitions(again) == named(revoking)
    assert [d.starts for d in again] == [0, 0]
    answers = await one.settle([Settlement(delivery) for delivery in held])
    assert answers == ["stale" if d.partition in named(revoking) else "done" for d in held]


async def test_releasing_what_is_not_revoked_changes_nothing(
    road: MemoryTransport, clock: VirtualClock
) -> None:
    one = await road.subscribe(SUBSCRIPTION, ORDERED)
    await publish(road, clock, KEYS[0], 0)
    held = await read(one)
    await one.release([("flights", 0), ("unknown", 7)])
    assert await one.extend(held) == held


async def test_at_the_deadline_a_partition_is_lost(
    road: MemoryTransport, clock: VirtualClock
) -> None:
    one = await road.subscribe(SUBSCRIPTION, ORDERED)
    for key in KEYS:
        await publish(road, clock, key, 0)
    held = await read(one)
    two = await road.subscribe(SUBSCRIPTION, ORDERED)
    watcher = Watcher(one)
    leaving = named((await watcher.take())[1])
    waits = asyncio.create_task(two.receive(10, 1 << 30, 60 * SECOND))
    for _ in range(2):
        await clock.advance(SECOND * 0.49)
        await one.extend(held)
        assert not waits.done()
    await clock.advance(SECOND * 0.02)
    assert partitions(waits.result()) == leaving
    (lost,) = await watcher.take()
    assert isinstance(lost, Lost)
    assert named(lost) == leaving
    still = [d for d in held if d.partition not in leaving]
    assert await one.extend(held) == still


async def test_a_silent_owner_loses_its_partitions_and_may_come_back(
    road: MemoryTransport, clock: VirtualClock
) -> None:
    one = await road.subscribe(SUBSCRIPTION, ORDERED)
    two = await road.subscribe(SUBSCRIPTION, ORDERED)
    watcher = Watcher(one)
    for key in KEYS:
        await publish(road, clock, key, 0)
    held = await read(one)
    await one.begin(held)
    await two.settle([Settlement(d) for d in await read(two)])
    waits = asyncio.create_task(two.receive(10, 1 << 30, 60 * SECOND))
    await clock.advance(SECOND)
    again = waits.result()
    assert partitions(again) == partitions(held)
    assert {d.starts for d in again} == {1}
    assert isinstance((await watcher.take())[-1], Lost)
    await two.settle([Settlement(d) for d in again])
    assert await one.settle([Settlement(d) for d in held]) == ["stale"] * 2
    for key in KEYS:
        await publish(road, clock, key, 1)
    assert len(partitions(await read(one))) == len(partitions(await read(two))) == 2
    assert isinstance((await watcher.take())[-1], Assigned)


async def test_one_who_waits_already_inherits_from_an_owner_that_falls_silent_later(
    road: MemoryTransport, clock: VirtualClock
) -> None:
    heir = await road.subscribe(SUBSCRIPTION, ORDERED)
    zombie = await road.subscribe(SUBSCRIPTION, ORDERED)
    waits = asyncio.create_task(heir.receive(9, 1 << 30, 60 * SECOND))
    takes = asyncio.create_task(zombie.receive(9, 1 << 30, 60 * SECOND))
    await clock.settle()
    # The heir wakes first, for nothing, and waits again while the other is still well.
    theirs = {0, 1, 2, 3} - await owned_by(heir)
    await publish(road, clock, KEYS[min(theirs)], 0)
    assert len(await takes) == 1
    await clock.advance(SECOND * 0.99)
    assert not waits.done()
    await clock.advance(SECOND * 0.01)
    assert partitions(waits.result()) == {min(theirs)}


async def owned_by(consumer: Consumer) -> set[int]:
    """What the notices so far say."""
    owned: set[int] = set()
    for notice in await Watcher(consumer).take():
        owned = owned | named(notice) if isinstance(notice, Assigned) else owned - named(notice)
    return owned


async def test_extending_nothing_keeps_the_membership(
    road: MemoryTransport, clock: VirtualClock
) -> None:
    one = await road.subscribe(SUBSCRIPTION, ORDERED)
    two = await road.subscribe(SUBSCRIPTION, ORDERED)
    for _ in range(5):
        await clock.advance(SECOND * 0.6)
        await one.extend([])
        await two.extend([])
    for key in KEYS:
        await publish(road, clock, key, 0)
    assert len(partitions(await read(one))) == len(partitions(await read(two))) == 2


async def test_waiting_in_receive_keeps_the_membership(
    road: MemoryTransport, clock: VirtualClock
) -> None:
    one = await road.subscribe(SUBSCRIPTION, ORDERED)
    two = await road.subscribe(SUBSCRIPTION, ORDERED)
    waits = [asyncio.create_task(c.receive(9, 1 << 30, 60 * SECOND)) for c in (one, two)]
    await clock.advance(10 * SECOND)
    await road.publish(
        [(TOPIC, TOPIC.envelope({"k": key, "n": 0}, clock.now_us(), "t")) for key in KEYS]
    )
    assert [len(partitions(await task)) for task in waits] == [2, 2]


async def test_paused_partitions_rest_and_stay_owned(
    road: MemoryTransport, clock: VirtualClock
) -> None:
    one = await road.subscribe(SUBSCRIPTION, ORDERED)
    for key in KEYS:
        await publish(road, clock, key, 0)
    await one.pause([("flights", 0), ("flights", 2)])
    assert partitions(await read(one)) == {1, 3}
    waits = asyncio.create_task(one.receive(9, 1 << 30, 60 * SECOND))
    await clock.settle()
    await one.resume([("flights", 0)])
    await clock.settle()
    assert partitions(waits.result()) == {0}


async def test_pausing_works_without_order_too(road: MemoryTransport, clock: VirtualClock) -> None:
    one = await road.subscribe(SUBSCRIPTION, Plan())
    for key in KEYS:
        await publish(road, clock, key, 0)
    await one.pause([("flights", 1)])
    assert partitions(await read(one)) == {0, 2, 3}


async def test_a_group_becomes_ordered_only_when_others_hold_nothing(
    road: MemoryTransport, clock: VirtualClock
) -> None:
    loose = await road.subscribe(SUBSCRIPTION, Plan())
    for key in KEYS:
        await publish(road, clock, key, 0)
    held = await read(loose)
    strict = await road.subscribe(SUBSCRIPTION, ORDERED)
    for key in KEYS:
        await publish(road, clock, key, 1)
    assert await read(strict) == []
    await loose.settle([Settlement(d) for d in held])
    assert len(partitions(await read(strict))) == 2


@pytest.mark.parametrize("members", [1, 2, 3, 5, 7])
async def test_shares_are_even_and_moves_are_few(members: int, clock: VirtualClock) -> None:
    topic = Topic("wide", dict, key="k", partitions=16)
    wish = Subscription(source=topic, group="g", order="key")
    road = MemoryTransport(clock=clock)
    await road.open([topic], [wish])
    watchers = []
    owned: list[set[int]] = []
    for _ in range(members):
        before = [set(mine) for mine in owned]
        watchers.append(Watcher(await road.subscribe(wish, ORDERED)))
        owned.append(set())
        for mine, watcher in zip(owned, watchers, strict=True):
            for notice in await watcher.take():
                if isinstance(notice, Assigned):
                    mine |= named(notice)
                else:
                    mine -= named(notice)
        moved = sum(len(old - new) for old, new in zip(before, owned, strict=False))
        assert moved == (16 // len(owned) if before else 0)
    assert max(map(len, owned)) - min(map(len, owned)) <= 1
    assert set().union(*owned) == set(range(16))
    assert sum(map(len, owned)) == 16
    await road.close()


async def test_order_holds_while_members_come_go_and_fall_silent(
    road: MemoryTransport, clock: VirtualClock
) -> None:
    """Many keys, random members; each key is handled in order and nothing is lost."""
    rng = random.Random(33)
    total = 600
    keys = [str(number) for number in range(20)]
    handled: dict[str, list[int]] = defaultdict(list)
    members: list[tuple[Any, list[Delivery]]] = []

    async def join() -> None:
        members.append((await road.subscribe(SUBSCRIPTION, ORDERED), []))

    async def settle(consumer: Any, held: list[Delivery]) -> None:
        # The oldest of each partition first, as the engine's lanes do.
        answers = await consumer.settle([Settlement(delivery) for delivery in held])
        for delivery, answer in zip(held, answers, strict=True):
            if answer == "done":
                payload = TOPIC.decode(delivery.message.data)
                handled[payload["k"]].append(payload["n"])
        held.clear()

    async def step(number: int) -> None:
        choice = rng.random()
        if len(members) < 2 or (choice < 0.1 and len(members) < 5):
            await join()
        consumer, held = rng.choice(members)
        if choice < 0.2:
            await consumer.close()
            members.remove((consumer, held))
        elif choice < 0.5:
            await settle(consumer, held)
        elif not held:
            held.extend(await read(consumer, limit=rng.randrange(1, 20)))
        if choice > 0.9:
            await clock.advance(SECOND * rng.random())

    for number in range(total):
        await publish(road, clock, rng.choice(keys), number)
        await step(number)
    while sum(map(len, handled.values())) < total:
        await clock.advance(SECOND)
        for consumer, held in members or [(await road.subscribe(SUBSCRIPTION, ORDERED), [])]:
            held.extend(await read(consumer))
            await settle(consumer, held)
    for numbers in handled.values():
        assert numbers == sorted(numbers)
    account = await road.account("flights", "claims")
    assert account.outcomes == {"handled": total}
