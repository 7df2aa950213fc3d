"""Ordered groups: one owner a partition, cooperative rebalancing, key order over redelivery."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

from postroad.core.delivery import Delivery, Partition, Settlement
from postroad.core.notices import Assigned, Lost, Notice, Revoking
from postroad.core.topic import Topic
from postroad.core.transport import Consumer
from tests.integration.sqlite_road import (
    KEYED,
    SOON,
    WHY,
    JumpingClock,
    Number,
    ack,
    balance,
    group,
    join,
    n,
    ns,
    publish,
    road,
    take,
    until,
)

NAME = KEYED.name
SUBSCRIPTION = group(KEYED, order="key")


async def next_notice(notices: AsyncIterator[Notice]) -> Notice:
    return await asyncio.wait_for(anext(notices), 5)


def partitions(deliveries: list[Delivery]) -> set[int]:
    return {delivery.partition for delivery in deliveries}


async def test_a_partition_has_one_owner_and_shares_are_fair(tmp_path: Path) -> None:
    async with road(tmp_path, SUBSCRIPTION) as transport:
        first = await join(transport, SUBSCRIPTION, ordered=True)
        notices = aiter(first.notices())
        everything: list[Partition] = [(NAME, part) for part in range(6)]
        assert await next_notice(notices) == Assigned(everything)
        second = await join(transport, SUBSCRIPTION, ordered=True)
        revoking = await next_notice(notices)
        assert isinstance(revoking, Revoking)
        assert list(revoking.partitions) == everything[3:]
        await publish(transport, range(200), KEYED, keys=50)
        held = await take(first)
        assert partitions(held) == {0, 1, 2}
        assert await take(second) == []
        await first.release(revoking.partitions)
        assigned = await next_notice(aiter(second.notices()))
        assert assigned == Assigned(everything[3:])
        other = await take(second, wait=SOON)
        assert partitions(other) == {3, 4, 5}
        assert len(held) + len(other) == 200
        await second.close()
        assert await next_notice(notices) == Assigned(everything[3:])
        assert ns(await take(first)) == ns(other)


async def test_what_a_releasing_owner_leaves_comes_first(tmp_path: Path) -> None:
    async with road(tmp_path, SUBSCRIPTION) as transport:
        first = await join(transport, SUBSCRIPTION, ordered=True)
        await publish(transport, range(60), KEYED, keys=30)
        held = await take(first)
        await join(transport, SUBSCRIPTION, ordered=True)
        second = await join(transport, SUBSCRIPTION, ordered=True)
        notices = aiter(first.notices())
        await next_notice(notices)
        wanted: set[Partition] = set()
        while len(wanted) < 4:
            notice = await next_notice(notices)
            if isinstance(notice, Revoking):
                wanted |= set(notice.partitions)
        await publish(transport, range(60, 90), KEYED, keys=30)
        await first.release(sorted(wanted))
        left = [delivery for delivery in held if (NAME, delivery.partition) in wanted]
        assert await first.begin(left) == []
        assert await ack(first, left) == {"stale"}
        found: list[Delivery] = []
        while len(partitions(found)) < 2:
            found += await take(second, wait=SOON)
        for part in partitions(found):
            mine = [n(delivery) for delivery in found if delivery.partition == part]
            assert mine == sorted(mine)
            assert mine[0] < 60


async def test_a_silent_owner_loses_its_partitions(tmp_path: Path) -> None:
    clock = JumpingClock()
    async with road(tmp_path, SUBSCRIPTION, clock=clock) as transport:
        first = await join(transport, SUBSCRIPTION, ordered=True)
        await publish(transport, range(12), KEYED, keys=12)
        held = await take(first)
        clock.jump(seconds=31)
        second = await join(transport, SUBSCRIPTION, ordered=True)
        again = await take(second, wait=SOON)
        assert sorted(ns(again)) == sorted(ns(held))
        assert await ack(first, held) == {"stale"}
        notices = aiter(first.notices())
        await next_notice(notices)
        assert isinstance(await next_notice(notices), Lost)


async def test_a_key_waits_for_its_retry(tmp_path: Path) -> None:
    """Message 0 fails and waits; its consumer dies. Nothing later of its key overtakes it, while
    other keys go on."""
    one: Topic[Number] = Topic("numbers.one", Number, key="key", partitions=1)
    subscription = group(one, order="key")
    clock = JumpingClock()
    async with road(tmp_path, subscription, clock=clock) as transport:
        first = await join(transport, subscription, ordered=True)
        await publish(transport, range(10), one, keys=2)
        held = await take(first, 6)
        wait = timedelta(minutes=2)
        await first.settle([Settlement(held[0], "nack", delay=wait, failure=WHY)])
        await first.settle([Settlement(held[2], "nack")])
        clock.jump(seconds=31)
        second = await join(transport, subscription, ordered=True, lease=timedelta(hours=1))
        found = await take(second, wait=SOON)
        assert ns(found) == [1, 3, 5, 7, 9]
        await ack(second, found)
        assert await take(second) == []
        assert (await transport.lag(one.name, "g")).messages == 5
        clock.jump(minutes=2)
        later: list[Delivery] = []
        while len(later) < 5:
            some = await take(second, 2, wait=SOON)
            assert some
            later += some
        assert ns(later) == [0, 2, 4, 6, 8]
        await ack(second, later)
        account = await transport.account(one.name, "g")
        assert (account.outcomes, balance(account)) == ({"handled": 10}, 0)


async def test_total_order_waits_as_a_whole(tmp_path: Path) -> None:
    one: Topic[Number] = Topic("numbers.one", Number)
    subscription = group(one, order="total")
    clock = JumpingClock()
    async with road(tmp_path, subscription, clock=clock) as transport:
        consumer = await join(transport, subscription, ordered=True, lease=timedelta(hours=1))
        await publish(transport, range(6), one)
        held = await take(consumer, 3)
        wait = timedelta(minutes=1)
        await consumer.settle([Settlement(held[1], "nack", delay=wait, failure=WHY)])
        await consumer.settle([Settlement(held[0]), Settlement(held[2], "nack")])
        assert await take(consumer) == []
        clock.jump(minutes=1)
        found: list[Delivery] = []
        while len(found) < 5:
            found += await take(consumer, 2, wait=SOON)
        assert ns(found) == [1, 2, 3, 4, 5]


async def test_pausing_a_partition(tmp_path: Path) -> None:
    async with road(tmp_path, SUBSCRIPTION) as transport:
        consumer = await join(transport, SUBSCRIPTION, ordered=True)
        await publish(transport, range(60), KEYED, keys=30)
        await consumer.pause([(NAME, part) for part in range(5)])
        assert partitions(await take(consumer)) == {5}
        await consumer.resume([(NAME, part) for part in range(5)])
        assert partitions(await take(consumer)) == {0, 1, 2, 3, 4}


async def test_key_order_while_consumers_come_and_go(tmp_path: Path) -> None:
    """Three consumers share the work; one leaves, one joins, all the while messages arrive."""
    seen: dict[str, list[int]] = {}
    total = 1500

    async def run(consumer: Consumer, until: asyncio.Event) -> None:
        async def listen() -> None:
            async for notice in consumer.notices():
                if isinstance(notice, Revoking):
                    async with busy:
                        await consumer.release(notice.partitions)

        busy = asyncio.Lock()
        listening = asyncio.ensure_future(listen())
        while not until.is_set():
            async with busy:
                deliveries = await take(consumer, 20)
                for delivery in deliveries:
                    seen.setdefault(delivery.message.key or "", []).append(n(delivery))
                if deliveries:
                    assert await ack(consumer, deliveries) == {"done"}
            await asyncio.sleep(0 if deliveries else 0.01)
        await consumer.close()
        await listening

    async with road(tmp_path, SUBSCRIPTION) as transport:
        ends = [asyncio.Event() for _ in range(4)]
        runs: list[asyncio.Future[None]] = []
        for step in range(30):
            await publish(transport, range(step * 50, step * 50 + 50), KEYED, keys=40)
            if step in (0, 2, 4, 15):
                consumer = await join(transport, SUBSCRIPTION, ordered=True)
                runs.append(asyncio.ensure_future(run(consumer, ends[len(runs)])))
            if step == 10:
                ends[0].set()
            if step == 20:
                ends[1].set()
            await asyncio.sleep(0.05)

        async def all_seen() -> bool:
            return sum(map(len, seen.values())) >= total

        await until(all_seen)
        for end in ends:
            end.set()
        await asyncio.gather(*runs)
        account = await transport.account(NAME, "g")
        assert (account.outcomes, account.duplicates) == ({"handled": total}, 0)
    assert all(numbers == sorted(numbers) for numbers in seen.values())
