"""The log itself: delays, priorities, expiry, retention, browsing, patterns, observers."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from postroad.core.delivery import Position, Settlement
from postroad.core.subscription import Subscription
from postroad.core.topic import Options, Retention, Topic
from postroad.errors import NotFoundError
from tests.integration.sqlite_road import (
    KEYED,
    PLAIN,
    SOON,
    WHY,
    JumpingClock,
    Number,
    ack,
    balance,
    group,
    join,
    ns,
    publish,
    road,
    take,
)

NAME = PLAIN.name


async def test_delayed_messages_take_their_place_when_due(tmp_path: Path) -> None:
    clock, subscription = JumpingClock(), group()
    async with road(tmp_path, subscription, clock=clock) as transport:
        consumer = await join(transport, subscription, lease=timedelta(hours=9))
        recall = ""
        for i, minutes in ((1, 20), (2, 10), (3, 30)):
            (receipt,) = await publish(
                transport, [i], options=Options(delay=timedelta(minutes=minutes))
            )
            assert receipt.position is None
            recall = receipt.recall or ""
        await publish(transport, [0])
        assert ns(await take(consumer)) == [0]
        account = await transport.account(NAME, "g")
        assert (account.accepted, account.scheduled, balance(account)) == (4, 3, 0)
        clock.jump(minutes=9)
        assert ns(await take(consumer)) == []
        clock.jump(minutes=12)
        await publish(transport, [4])
        assert ns(await take(consumer)) == [2, 1, 4]
        assert await transport.cancel(recall)
        assert not await transport.cancel(recall)
        clock.jump(minutes=30)
        assert ns(await take(consumer)) == []
        assert balance(await transport.account(NAME, "g")) == 0


async def test_a_delay_is_not_early_and_wakes_the_reader(tmp_path: Path) -> None:
    subscription = group()
    async with road(tmp_path, subscription) as transport:
        consumer = await join(transport, subscription)
        await publish(transport, [1], options=Options(delay=timedelta(milliseconds=200)))
        (delivery,) = await take(consumer, wait=SOON)
        due = delivery.message.deliver_at_us
        assert due is not None
        assert due <= JumpingClock().now_us() < due + 2_000_000


async def test_higher_priorities_go_first(tmp_path: Path) -> None:
    subscription = group()
    async with road(tmp_path, subscription) as transport:
        await publish(transport, [1, 2])
        await publish(transport, [3], options=Options(priority=9))
        await publish(transport, [4], options=Options(priority=5))
        consumer = await join(transport, subscription)
        found = await take(consumer)
        assert ns(found) == [3, 4, 1, 2]
        assert [delivery.message.priority for delivery in found] == [9, 5, 0, 0]
        assert await ack(consumer, found) == {"done"}
        assert balance(await transport.account(NAME, "g")) == 0


async def test_expired_messages_are_counted(tmp_path: Path) -> None:
    clock, subscription = JumpingClock(), group()
    async with road(tmp_path, subscription, clock=clock) as transport:
        await publish(transport, [1, 2], options=Options(expires_in=timedelta(minutes=1)))
        await publish(transport, [3])
        consumer = await join(transport, subscription)
        (held,) = await take(consumer, 1)
        await consumer.settle([Settlement(held, "nack", failure=WHY)])
        clock.jump(minutes=1)
        consumer = await join(transport, subscription)
        assert ns(await take(consumer)) == [3]
        account = await transport.account(NAME, "g")
        assert account.outcomes == {"expired": 2}
        assert balance(account) == 0


_SIZE = len(PLAIN.encode(Number(1)))


@pytest.mark.parametrize(
    ("retention", "left"),
    [
        (Retention(age=timedelta(minutes=30)), [5, 6, 7, 8, 9]),
        (Retention(size=3 * _SIZE + 1), [7, 8, 9]),
    ],
)
async def test_retention_by_age_and_size(
    tmp_path: Path, retention: Retention, left: list[int]
) -> None:
    kept: Topic[Number] = Topic("numbers.kept", Number, retention=retention)
    clock, subscription = JumpingClock(), group(kept)
    async with road(tmp_path, subscription, clock=clock) as transport:
        await publish(transport, range(5), kept)
        clock.jump(hours=1)
        await publish(transport, range(5, 10), kept)
        await transport.trim()
        found = ns(await transport.browse(kept.name, "earliest", 100))
        assert found == left
        account = await transport.account(kept.name, "g")
        assert (account.trimmed, account.backlog) == (10 - len(found), len(found))
        assert balance(account) == 0
        consumer = await join(transport, subscription)
        assert ns(await take(consumer)) == found


async def test_retention_of_what_is_consumed_spares_what_is_held(tmp_path: Path) -> None:
    queue: Topic[Number] = Topic("numbers.queue", Number, retention=Retention(consumed=True))
    first, second = group(queue, "first"), group(queue, "second")
    async with road(tmp_path, first, second) as transport:
        await publish(transport, range(10), queue)
        one, two = await join(transport, first), await join(transport, second)
        await ack(one, await take(one))
        held = await take(two, 8)
        await ack(two, held[:4])
        await transport.trim()  # a range that is held stays whole until it is settled
        assert ns(await transport.browse(queue.name, "earliest", 100)) == list(range(10))
        await ack(two, held[4:])
        await transport.trim()
        assert ns(await transport.browse(queue.name, "earliest", 100)) == [8, 9]
        await ack(two, await take(two))
        await transport.trim()
        assert await transport.browse(queue.name, "earliest", 100) == []
        for name in ("first", "second"):
            account = await transport.account(queue.name, name)
            assert (account.outcomes, account.trimmed) == ({"handled": 10}, 0)
            assert balance(account) == 0
        await publish(transport, [10], queue)
        assert ns(await take(one)) == [10]


async def test_a_retry_outlives_its_place_in_the_log(tmp_path: Path) -> None:
    queue: Topic[Number] = Topic("numbers.queue", Number, retention=Retention(consumed=True))
    subscription = group(queue)
    async with road(tmp_path, subscription) as transport:
        await publish(transport, range(3), queue)
        consumer = await join(transport, subscription)
        held = await take(consumer)
        wait = timedelta(milliseconds=50)
        await consumer.settle([Settlement(one, "nack", delay=wait, failure=WHY) for one in held])
        await transport.trim()
        assert await transport.browse(queue.name, "earliest", 100) == []
        assert ns(await take(consumer, wait=SOON)) == [0, 1, 2]


async def test_browsing_goes_on_after_the_last_one(tmp_path: Path) -> None:
    async with road(tmp_path) as transport:
        for i in range(30):
            await publish(transport, [i], options=Options(priority=i % 3))
        found: list[int] = []
        position = Position(0, 0)
        while some := await transport.browse(NAME, position, 4):
            found += ns(some)
            last = some[-1].position
            assert last is not None
            position = Position(last.partition, int(last.offset) + 1)
        assert found == list(range(30))
        with pytest.raises(NotFoundError):
            await transport.browse("nowhere", "earliest", 1)


async def test_a_pattern_sees_later_topics_from_their_first_message(tmp_path: Path) -> None:
    subscription = group("numbers.#")
    late: Topic[Number] = Topic("numbers.late", Number)
    async with road(tmp_path, subscription) as transport:
        consumer = await join(transport, subscription)
        await publish(transport, [1])
        assert ns(await take(consumer, wait=SOON)) == [1]
        async with road(tmp_path) as other:
            await other.open([late], [])
            await publish(other, [2], late)
        (delivery,) = await take(consumer, wait=SOON)
        assert (delivery.topic, ns([delivery])) == ("numbers.late", [2])
        assert await transport.groups("numbers.late") == [("numbers.late", "g")]


async def test_an_observer_leaves_no_trace(tmp_path: Path) -> None:
    async with road(tmp_path) as transport:
        await publish(transport, [0])
        observer = await join(transport, Subscription(source="numbers.*", group=None))
        past = await join(transport, Subscription(source=PLAIN, group=None, start="earliest"))
        before = transport.commits
        await publish(transport, [1], KEYED)
        assert transport.commits == before + 1
        (one,) = await take(observer, wait=SOON)
        assert ns([one]) == [1]
        assert ns(await take(past)) == [0]
        await observer.settle([Settlement(one, "nack", failure=WHY)])
        (again,) = await take(observer, wait=SOON)
        assert (ns([again]), again.attempts) == ([1], 1)
        assert transport.commits == before + 1


async def test_publishes_of_another_process_wake_the_reader(tmp_path: Path) -> None:
    subscription = group()
    async with road(tmp_path, subscription) as reader, road(tmp_path) as writer:
        consumer = await join(reader, subscription)
        waiting = asyncio.ensure_future(take(consumer, wait=SOON))
        await asyncio.sleep(0.2)
        await publish(writer, [1])
        sent = asyncio.get_running_loop().time()
        assert ns(await waiting) == [1]
        assert asyncio.get_running_loop().time() - sent < 0.5


async def test_a_token_is_accepted_once(tmp_path: Path) -> None:
    async with road(tmp_path, group()) as one, road(tmp_path) as two:
        message = PLAIN.envelope(Number(1), 0, "test")
        calls = [road_.publish_once("tick 12:00", [(PLAIN, message)]) for road_ in (one, two, one)]
        assert sorted(await asyncio.gather(*calls)) == [False, False, True]
        assert (await one.lag(NAME, "g")).messages == 1
