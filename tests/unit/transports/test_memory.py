"""The memory road: queues, leases, delays, backpressure, dead letters and the account."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any

import pytest

from postroad.core.delivery import Delivery, Failure, Settled, Settlement
from postroad.core.filters import Exact
from postroad.core.message import Message
from postroad.core.notices import Blocked, Unblocked
from postroad.core.subscription import Subscription
from postroad.core.topic import Options, Topic
from postroad.core.transport import (
    AtomicSettle,
    Audited,
    Cancels,
    Consumer,
    DeadLetters,
    OnceTokens,
    Plan,
    Source,
    Transport,
)
from postroad.errors import (
    BacklogFullError,
    ClosedError,
    InvalidURLError,
    NotFoundError,
    NotSupportedError,
    PublishError,
    TopicMismatchError,
)
from postroad.testing.clock import VirtualClock
from postroad.transports.memory import MemoryTransport

SECOND = timedelta(seconds=1)
NOTHING = timedelta(0)
FAILURE = Failure(reason="exception", detail="no")
TOPIC = Topic("orders.created", dict)
OTHER = Topic("orders.paid", dict)
SUBSCRIPTION = Subscription(source=TOPIC, group="billing")


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
async def road(clock: VirtualClock) -> AsyncIterator[MemoryTransport]:
    transport = MemoryTransport(clock=clock)
    await transport.open([TOPIC, OTHER], [SUBSCRIPTION])
    yield transport
    await transport.close()


def small(clock: VirtualClock, query: str = "capacity=2") -> MemoryTransport:
    return MemoryTransport(f"memory://?{query}", clock=clock)


def message(clock: VirtualClock, number: int, topic: Topic[Any] = TOPIC, **options: Any) -> Message:
    return topic.envelope_with({"n": number}, Options(**options), clock.now_us(), "test")


async def publish(
    road: MemoryTransport,
    clock: VirtualClock,
    *numbers: int,
    topic: Topic[Any] = TOPIC,
    **options: Any,
) -> None:
    await road.publish([(topic, message(clock, n, topic, **options)) for n in numbers])


async def read(consumer: Consumer, limit: int = 100, wait: timedelta = NOTHING) -> list[Delivery]:
    return list(await consumer.receive(limit, 1 << 30, wait))


def numbers(deliveries: Sequence[Delivery]) -> list[int]:
    return [TOPIC.decode(delivery.message.data)["n"] for delivery in deliveries]


async def ack(consumer: Consumer, deliveries: Sequence[Delivery]) -> Sequence[Settled]:
    return await consumer.settle([Settlement(delivery) for delivery in deliveries])


# ----------------------------------------------------------------- shape


async def test_it_is_what_it_declares(road: MemoryTransport) -> None:
    transport: Transport = road
    assert transport.capabilities.order == "key-group"
    for protocol in (Source, Cancels, OnceTokens, DeadLetters, Audited):
        assert isinstance(road, protocol)
    consumer: Consumer = await road.subscribe(SUBSCRIPTION, Plan())
    assert isinstance(consumer, AtomicSettle)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "memory://host",
        "memory:///path",
        "memory://?size=1",
        "memory://?capacity=0",
        "memory://?capacity=-1",
        "memory://?capacity=many",
        "memory://?capacity=",
        "memory://?capacity=1&capacity=2",
        "memory://?when_full=drop",
        "memory://?nonsense",
        "memory://#fragment",
    ],
)
def test_a_wrong_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidURLError, match="capacity=10000"):
        MemoryTransport(url)


def test_an_error_never_repeats_a_password() -> None:
    with pytest.raises(InvalidURLError) as caught:
        MemoryTransport("memory://user:hunter2@host?hunter3=1")
    assert "hunter2" not in str(caught.value)


async def test_before_open_and_after_close_it_is_closed(clock: VirtualClock) -> None:
    road = MemoryTransport(clock=clock)
    for _ in range(2):
        with pytest.raises(ClosedError):
            await publish(road, clock, 1)
        for call in (
            road.subscribe(SUBSCRIPTION, Plan()),
            road.lag(TOPIC.name, "billing"),
            road.account(TOPIC.name, "billing"),
            road.topics("#"),
            road.groups("#"),
            road.dead_letters("#", None, 1),
            road.redrive([]),
            road.discard([]),
            road.cancel("a"),
            road.publish_once("token", []),
            road.browse(TOPIC.name, "earliest", 1),
            road.seek(TOPIC.name, "billing", "latest"),
        ):
            with pytest.raises(ClosedError):
                await call
        await road.open([TOPIC], [SUBSCRIPTION])
        await asyncio.gather(*(road.close() for _ in range(10)))


async def test_what_it_holds_survives_close_and_open(
    road: MemoryTransport, clock: VirtualClock
) -> None:
    await publish(road, clock, 1)
    await road.close()
    await road.open([TOPIC], [SUBSCRIPTION])
    assert numbers(await read(await road.subscribe(SUBSCRIPTION, Plan()))) == [1]


async def test_a_topic_s_partitions_cannot_change(road: MemoryTransport) -> None:
    with pytest.raises(TopicMismatchError, match="partitions"):
        await road.open([Topic("orders.created", dict, partitions=4)], [])


async def test_there_is_no_history(road: MemoryTransport) -> None:
    for call in (
        road.browse(TOPIC.name, "earliest", 1),
        road.seek(TOPIC.name, "billing", "latest"),
    ):
        with pytest.raises(NotSupportedError):
            await call
    for call in (road.browse("nope", "earliest", 1), road.seek(TOPIC.name, "nope", "latest")):
        with pytest.raises(NotFoundError):
            await call


async def test_a_native_filter_is_refused(road: MemoryTransport) -> None:
    with pytest.raises(NotSupportedError):
        await road.subscribe(SUBSCRIPTION, Plan(filter=Exact("type", "a")))


# ----------------------------------------------------------------- groups


async def test_a_declared_group_gets_what_was_published_before_it_reads(
    road: MemoryTransport, clock: VirtualClock
) -> None:
    await publish(road, clock, 1, 2, 3)
    consumer = await road.subscribe(SUBSCRIPTION, Plan())
    deliveries = await read(consumer)
    assert numbers(deliveries) == [1, 2, 3]
    assert {d.group for d in deliveries} == {"billing"}
    assert {d.topic for d in deliveries} == {TOPIC.name}
    assert await ack(consumer, deliveries) == ["done"] * 3
    assert await read(consumer) == []


async def test_a_group_starts_at_its_creation(road: MemoryTransport, clock: VirtualClock) -> None:
    await publish(road, clock, 1)
    late = await road.subscribe(Subscription(source=TOPIC, group="late"), Plan())
    await publish(road, clock, 2)
    assert numbers(await read(late)) == [2]


async def test_consumers_compete_inside_a_group_and_groups_fan_out(
    road: MemoryTransport, clock: VirtualClock
) -> None:
    one = await road.subscribe(SUBSCRIPTION, Plan())
    two = await road.subscribe(SUBSCRIPTION, Plan())
    other = await road.subscribe(Subscription(source=TOPIC, group="mail"), Plan())
    await publish(road, clock, *range(10))
    first, second = await read(one, limit=4), await read(two)
    assert numbers(first) == [0, 1, 2, 3]
    assert numbers(second) == [4, 5, 6, 7, 8, 9]
    assert numbers(await read(other)) == list(range(10))


async def test_every_consumer_without_a_group_gets_its_own_copy(
    road: MemoryTransport, clock: VirtualClock
) -> None:
    wish = Subscription(source=TOPIC, group=None)
    one = await road.subscribe(wish, Plan())
    two = await road.subscribe(wish, Plan())
    await publish(road, clock, 1)
    assert numbers(await read(one)) == numbers(await read(two)) == [1]
    await one.close()
    await publish(road, clock, 2)
    assert numbers(await read(await road.subscribe(wish, Plan()))) == []
    assert numbers(await read(two)) == [2]


async def test_a_pattern_reads_later_topics_too(road: MemoryTransport, clock: VirtualClock) -> None:
    wish = Subscription(source="orders.*", group="all")
    consumer = await road.subscribe(wish, Plan())
    await publish(road, clock, 1)
    await publish(road, clock, 2, topic=Topic("orders.cancelled", dict))
    await publish(road, clock, 3, topic=Topic("orders.eu.paid", dict))
    deliveries = await read(consumer)
    assert sorted((d.topic, *numbers([d])) for d in deliveries) == [
        ("orders.cancelled", 2),
        ("orders.created", 1),
    ]
    assert await ack(consumer, deliveries) == ["done", "done"]


async def test_a_declared_pattern_holds_later_topics_until_somebody_reads(
    road: MemoryTransport, clock: VirtualClock
) -> None:
    wish = Subscription(source="orders.#", group="all")
    await road.open([], [wish])
    await publish(road, clock, 1, topic=Topic("orders.new", dict))
    assert numbers(await read(await road.subscribe(wish, Plan()))) == [1]


async def test_no_topic_of_a_pattern_starves_another(
    road: MemoryTransport, clock: VirtualClock
) -> None:
    consumer = await road.subscribe(Subscription(source="orders.*", group="all"), Plan())
    await publish(road, clock, *range(10))
    await publish(road, clock, *range(10), topic=OTHER)
    topics = [(await read(consumer, limit=1))[0].topic for _ in range(6)]
    assert topics.count(TOPIC.name) == topics.count(OTHER.name) == 3


async def test_topics_and_groups_are_listed(road: MemoryTransport, clock: VirtualClock) -> None:
    await road.subscribe(Subscription(source=TOPIC, group="mail"), Plan())
    await publish(road, clock, 1, 2)
    (found,) = await road.topics("orders.created")
    assert (found.name, found.partitions, found.messages) == (TOPIC.name, 1, 2)
    assert sorted(found.groups) == ["billing", "mail"]
    assert [info.name for info in await road.topics("orders.*")] == [TOPIC.name, OTHER.name]
    assert sorted(await road.groups("#")) == [(TOPIC.name, "billing"), (TOPIC.name, "mail")]


# ----------------------------------------------------------------- receive


async def test_receive_keeps_to_its_bytes_but_always_gives_one(
    road: MemoryTransport, clock: VirtualClock
) -> None:
    await publish(road, clock, 1, 2, 3)
    size = len(message(clock, 1).data)
    consumer = await road.subscribe(SUBSCRIPTION, Plan())
    assert numbers(await consumer.receive(10, 2 * size, NOTHING)) == [1, 2]
    assert numbers(await consumer.receive(10, 1, NOTHING)) == [3]


async def test_receive_waits_by_the_clock(road: MemoryTransport, clock: VirtualClock) -> None:
    consumer = await road.subscribe(SUBSCRIPTION, Plan())
    task = asyncio.create_task(read(consumer, wait=SECOND))
    await clock.advance(SECOND * 0.99)
    assert not task.done()
    await clock.advance(SECOND * 0.01)
    assert task.result() == []
    assert clock.sleepers == 0


async def test_receive_wakes_for_a_message(road: MemoryTransport, clock: VirtualClock) -> None:
    consumer = await road.subscribe(SUBSCRIPTION, Plan())
    task = asyncio.create_task(read(consumer, wait=60 * SECOND))
    await clock.settle()
    await publish(road, clock, 1)
    assert numbers(await task) == [1]
    assert clock.monotonic() == 0


async def test_a_cancelled_receive_loses_nothing(
    road: MemoryTransport, clock: VirtualClock
) -> None:
    consumer = await road.subscribe(SUBSCRIPTION, Plan())
    for number in range(20):
        task = asyncio.create_task(read(consumer, wait=60 * SECOND))
        for _ in range(number % 4):
            await asyncio.sleep(0)
        await publish(road, clock, number)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if not task.cancelled():
            await ack(consumer, task.result())
    assert clock.sleepers == 0
    await ack(consumer, await read(consumer))
    account = await road.account(TOPIC.name, "billing")
    assert (account.accepted, account.outcomes, account.duplicates) == (20, {"handled": 20}, 0)


async def test_receive_lets_others_run(road: MemoryTransport, clock: VirtualClock) -> None:
    consumer = await road.subscribe(SUBSCRIPTION, Plan())
    other = asyncio.create_task(publish(road, clock, 1))
    while not await read(consumer):
        pass
    assert other.done()


# ----------------------------------------------------------------- settling


async def test_settling_twice_is_stale_and_changes_nothing(
    road: MemoryTransport, clock: VirtualClock
) -> None:
    await publish(road, clock, 1)
    consumer = await road.subscribe(SUBSCRIPTION, Plan())
    (delivery,) = await read(consumer)
    nack = Settlement(delivery, "nack")
    assert await consumer.settle([Settlement(delivery), nack]) == ["done", "stale"]
    assert await consumer.settle([Settlement(delivery, "reject")]) == ["stale"]
    assert (await road.account(TOPIC.name, "billing")).outcomes == {"handled": 1}


async def test_each_outcome_is_counted_apart(road: MemoryTransport, clock: VirtualClock) -> None:
    await publish(road, clock, 1, 2, 3, 4, 5)
    consumer = await road.subscribe(SUBSCRIPTION, Plan())
    outcomes = ("handled", "filtered", "expired", "shed", "discarded")
    deliveries = await read(consumer)
    await consumer.settle(
        [Settlement(d, outcome=o) for d, o in zip(deliveries, outcomes, strict=True)]  # type: ignore[arg-type]
    )
    account = await road.account(TOPIC.name, "billing")
    assert account.outcomes == dict.fromkeys(outcomes, 1)


async def test_a_nack_comes_again_at_its_place_with_its_failure(
    road: MemoryTransport, clock: VirtualClock
) -> None:
    await publish(road, clock, 1, 2, 3)
    consumer = await road.subscribe(SUBSCRIPTION, Plan())
    (first,) = await read(consumer, limit=1)
    assert (first.deliveries, first.attempts, first.failures) == (1, 0, ())
    await consumer.settle([Settlement(first, "nack", failure=FAILURE)])
    again = await read(consumer)
    assert numbers(again) == [1, 2, 3]
    assert (again[0].deliveries, again[0].attempts, again[0].failures) == (2, 1, (FAILURE,))
    assert again[0].idempotency_key == first.idempotency_key
    assert (again[0].fence or 0) > (first.fence or 0)


async def test_a_hand_back_costs_no_attempt(road: MemoryTransport, clock: VirtualClock) -> None:
    await publish(road, clock, 1)
    consumer = await road.subscribe(SUBSCRIPTION, Plan())
    await consumer.settle([Settlement(d, "nack") for d in await read(consumer)])
    (again,) = await read(consumer)
    assert (again.attempts, again.starts, again.deliveries) == (0, 0, 2)


async def test_a_nack_s_delay_is_kept_not_early_and_wakes_a_reader(
    road: MemoryTransport, clock: VirtualClock
) -> None:
    await publish(road, clock, 1)
    consumer = await road.subscribe(SUBSCRIPTION, Plan())
    await consumer.settle([Settlement(d, "nack", delay=SECOND) for d in await read(consumer)])
    account = await road.account(TOPIC.name, "billing")
    assert (account.waiting, account.backlog) == (1, 0)
    task = asyncio.create_task(read(consumer, wait=60 * SECOND))
    await clock.advance(SECOND - timedelta(microseconds=1))
    assert not task.done()
    await clock.advance(timedelta(microseconds=1))
    assert numbers(task.result()) == [1]


async def test_a_nack_by_another_wakes_a_waiting_reader_in_time(
    road: MemoryTransport, clock: VirtualClock
) -> None:
    await publish(road, clock, 1)
    one = await road.subscribe(SUBSCRIPTION, Plan())
    two = await road.subscribe(SUBSCRIPTION, Plan())
    deliveries = await read(one)
    task = asyncio.create_task(read(two, wait=60 * SECOND))
    await clock.settle()
    await one.settle([Settlement(d, "nack", delay=SECOND) for d in deliveries])
    await clock.advance(SECOND)
    assert numbers(task.result()) == [1]


async def test_closing_hands_back_without_attempt(
    road: MemoryTransport, clock: VirtualClock
) -> None:
    await publish(road, clock, 1, 2)
    one = await road.subscribe(SUBSCRIPTION, Plan())
    two = await road.subscribe(SUBSCRIPTION, Plan())
    held = await read(one)
    await one.begin(held)
    task = asyncio.create_task(read(two, wait=60 * SECOND))
    await clock.settle()
    await asyncio.gather(*(one.close() for _ in range(10)))
    assert [(d.attempts, d.starts) for d in await task] == [(0, 0), (0, 0)]
    assert await ack(one, held) == ["stale", "stale"]
    assert await one.extend(held) == await one.begin(held) == []
    with pytest.raises(ClosedError):
        await read(one)


async def test_closing_ends_a_receive_and_the_notices(road: MemoryTransport) -> None:
    consumer = await road.subscribe(SUBSCRIPTION, Plan())
    task = asyncio.create_task(read(consumer, wait=60 * SECOND))
    await asyncio.sleep(0)
    await road.close()
    assert await task == []
    assert [notice async for notice in consumer.notices()] == []
    assert [notice async for notice in road.notices()] == []


# ----------------------------------------------------------------- leases


async def test_a_lease_that_is_not_extended_goes_to_another(
    road: MemoryTransport, clock: VirtualClock
) -> None:
    await publish(road, clock, 1, 2)
    zombie = await road.subscribe(SUBSCRIPTION, Plan(lease=SECOND))
    heir = await road.subscribe(SUBSCRIPTION, Plan(lease=SECOND))
    one, two = await read(zombie)
    assert one.lease_until_us == clock.now_us() + 1_000_000
    await zombie.begin([one])
    task = asyncio.create_task(read(heir, wait=60 * SECOND))
    await clock.advance(SECOND * 0.5)
    assert await zombie.extend([one, two]) == [one, two]
    await clock.advance(SECOND * 0.9)
    assert not task.done()
    assert await zombie.extend([two]) == [two]
    await clock.advance(SECOND * 0.1)
    (again,) = task.result()
    assert numbers([again]) == [1]
    assert (again.starts, again.attempts, again.deliveries) == (1, 0, 2)
    assert (again.fence or 0) > (one.fence or 0)
    assert await zombie.extend([one, two]) == [two]
    assert await zombie.begin([one, two]) == [two]
    assert await ack(zombie, [one, two]) == ["stale", "done"]
    assert await ack(heir, [again]) == ["done"]
    account = await road.account(TOPIC.name, "billing")
    assert (account.outcomes, account.duplicates) == ({"handled": 2}, 1)


async def test_past_the_lease_an_answer_is_stale_even_if_nobody_else_took_it(
    road: MemoryTransport, clock: VirtualClock
) -> None:
    await publish(road, clock, 1)
    consumer = await road.subscribe(SUBSCRIPTION, Plan(lease=SECOND))
    held = await read(consumer)
    await clock.advance(SECOND)
    assert await ack(consumer, held) == ["stale"]
    (again,) = await read(consumer)
    assert (again.starts, again.deliveries) == (0, 2)


# ----------------------------------------------------------------- time and priority


async def test_a_delayed_message_is_not_early_and_wakes_a_reader(
    road: MemoryTransport, clock: VirtualClock
) -> None:
    consumer = await road.subscribe(SUBSCRIPTION, Plan())
    task = asyncio.create_task(read(consumer, wait=60 * SECOND))
    await clock.settle()
    (receipt,) = await road.publish([(TOPIC, message(clock, 1, delay=SECOND))])
    assert receipt.recall is not None
    assert receipt.position is None
    await clock.advance(SECOND - timedelta(microseconds=1))
    assert not task.done()
    await clock.advance(timedelta(microseconds=1))
    assert numbers(task.result()) == [1]


async def test_delayed_messages_take_their_place_when_due(
    road: MemoryTransport, clock: VirtualClock
) -> None:
    await publish(road, clock, 1, delay=2 * SECOND)
    await publish(road, clock, 2, delay=SECOND)
    await publish(road, clock, 3)
    await clock.advance(3 * SECOND)
    await publish(road, clock, 4)
    assert numbers(await read(await road.subscribe(SUBSCRIPTION, Plan()))) == [3, 2, 1, 4]


async def test_a_group_that_began_after_the_publish_gets_what_is_due_later(
    road: MemoryTransport, clock: VirtualClock
) -> None:
    await publish(road, clock, 1, delay=SECOND)
    consumer = await road.subscribe(Subscription(source=TOPIC, group="late"), Plan())
    account = await road.account(TOPIC.name, "late")
    assert (account.accepted, account.scheduled) == (1, 1)
    await clock.advance(SECOND)
    assert numbers(await read(consumer)) == [1]


async def test_cancel_withdraws_what_is_not_due(road: MemoryTransport, clock: VirtualClock) -> None:
    consumer = await road.subscribe(SUBSCRIPTION, Plan())
    await publish(road, clock, 1, delay=SECOND, id="a")
    await publish(road, clock, 2, delay=SECOND, id="b")
    await publish(road, clock, 3, id="c")
    assert await road.cancel("a")
    assert not await road.cancel("a")
    assert not await road.cancel("c")
    assert not await road.cancel("never there")
    await clock.advance(SECOND)
    assert not await road.cancel("b")
    assert numbers(await read(consumer)) == [3, 2]
    account = await road.account(TOPIC.name, "billing")
    assert (account.accepted, account.scheduled, account.outcomes) == (3, 0, {"discarded": 1})


async def test_higher_priorities_go_first_and_keep_their_order(
    road: MemoryTransport, clock: VirtualClock
) -> None:
    for number, priority in enumerate((0, 9, 5, 9, 0)):
        await publish(road, clock, number, priority=priority)
    consumer = await road.subscribe(SUBSCRIPTION, Plan())
    deliveries = await read(consumer, limit=2)
    assert numbers(deliveries) == [1, 3]
    await consumer.settle([Settlement(deliveries[0], "nack")])
    assert numbers(await read(consumer)) == [1, 2, 0, 4]


# ----------------------------------------------------------------- backpressure


async def test_a_full_queue_makes_publishers_wait_in_their_order(clock: VirtualClock) -> None:
    road = small(clock)
    await road.open([TOPIC], [SUBSCRIPTION])
    consumer = await road.subscribe(SUBSCRIPTION, Plan())
    tasks = [asyncio.create_task(publish(road, clock, n, n + 10)) for n in range(4)]
    await clock.settle()
    assert [task.done() for task in tasks] == [True, False, False, False]
    got = []
    for _ in range(8):
        deliveries = await read(consumer, limit=1)
        got += numbers(deliveries)
        assert (await road.account(TOPIC.name, "billing")).backlog <= 2
        await ack(consumer, deliveries)
        await clock.settle()
    assert got == [0, 10, 1, 2, 3, 11, 12, 13]  # message by message
    assert all(task.done() for task in tasks)
    await road.close()
    notices = [notice async for notice in road.notices()]
    assert [type(notice) for notice in notices] == [Blocked, Unblocked]


async def test_what_is_leased_or_waits_takes_room(clock: VirtualClock) -> None:
    road = small(clock, "capacity=2&when_full=refuse")
    await road.open([TOPIC], [SUBSCRIPTION])
    consumer = await road.subscribe(SUBSCRIPTION, Plan())
    await publish(road, clock, 1, 2)
    one, _ = await read(consumer)
    await consumer.settle([Settlement(one, "nack", delay=SECOND)])
    with pytest.raises(PublishError):
        await publish(road, clock, 3)


async def test_refuse_says_which_were_refused_and_no_group_gets_them(clock: VirtualClock) -> None:
    road = small(clock, "capacity=2&when_full=refuse")
    await road.open([TOPIC], [SUBSCRIPTION])
    slow = await road.subscribe(SUBSCRIPTION, Plan())
    fast = await road.subscribe(Subscription(source=TOPIC, group="fast"), Plan())
    await publish(road, clock, 1)
    await ack(fast, await read(fast))
    with pytest.raises(PublishError) as caught:
        await publish(road, clock, 2, 3, 4)
    assert sorted(caught.value.failed) == [1, 2]
    assert all(isinstance(e, BacklogFullError) for e in caught.value.failed.values())
    assert caught.value.unknown == {}
    assert numbers(await read(fast)) == [2]
    assert numbers(await read(slow)) == [1, 2]
    assert (await road.account(TOPIC.name, "fast")).accepted == 2


async def test_a_publisher_that_gives_up_leaves_the_queue_to_the_next(clock: VirtualClock) -> None:
    road = small(clock, "capacity=1")
    await road.open([TOPIC], [SUBSCRIPTION])
    consumer = await road.subscribe(SUBSCRIPTION, Plan())
    await publish(road, clock, 1)
    gone = asyncio.create_task(publish(road, clock, 2))
    stays = asyncio.create_task(publish(road, clock, 3))
    await clock.settle()
    gone.cancel()
    await clock.settle()
    await ack(consumer, await read(consumer))
    await asyncio.wait_for(stays, 5)
    assert numbers(await read(consumer)) == [3]


async def test_nobody_pushes_in_before_publishers_that_wait(clock: VirtualClock) -> None:
    road = small(clock, "capacity=1")
    await road.open([TOPIC], [SUBSCRIPTION])
    consumer = await road.subscribe(SUBSCRIPTION, Plan())
    await publish(road, clock, 1)
    waits = asyncio.create_task(publish(road, clock, 2))
    await clock.settle()
    held = await read(consumer)
    pushes = asyncio.create_task(publish(road, clock, 3))  # runs first once there is room
    await ack(consumer, held)
    await clock.settle()
    assert (waits.done(), pushes.done()) == (True, False)
    pushes.cancel()


async def test_closing_the_road_fails_publishers_that_wait(clock: VirtualClock) -> None:
    road = small(clock, "capacity=1")
    await road.open([TOPIC], [SUBSCRIPTION])
    tasks = [asyncio.create_task(publish(road, clock, 1, 2)) for _ in range(3)]
    await clock.settle()
    await road.close()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [sorted(e.failed) for e in results if isinstance(e, PublishError)] == [
        [1],
        [0, 1],
        [0, 1],
    ]
    assert all(
        isinstance(error, ClosedError)
        for e in results
        if isinstance(e, PublishError)
        for error in e.failed.values()
    )


async def test_an_ephemeral_reader_drops_nothing_and_lets_go_when_it_closes(
    clock: VirtualClock,
) -> None:
    road = small(clock, "capacity=1")
    await road.open([TOPIC], [])
    reader = await road.subscribe(Subscription(source=TOPIC, group=None), Plan())
    task = asyncio.create_task(publish(road, clock, 1, 2))
    await clock.settle()
    assert not task.done()
    held = await read(reader)
    await ack(reader, held)
    await clock.settle()
    assert task.done()
    task = asyncio.create_task(publish(road, clock, 3))
    await clock.settle()
    assert not task.done()
    await reader.close()
    await asyncio.wait_for(task, 5)


async def test_scheduled_messages_have_a_room_of_their_own(clock: VirtualClock) -> None:
    road = small(clock)
    await road.open([TOPIC], [SUBSCRIPTION])
    await publish(road, clock, 1, 2, delay=SECOND)
    await publish(road, clock, 3, 4)
    task = asyncio.create_task(publish(road, clock, 5, delay=5 * SECOND))
    await clock.advance(SECOND * 0.9)
    assert not task.done()
    await clock.advance(SECOND * 0.1)  # with nobody reading
    await asyncio.wait_for(task, 5)
    consumer = await road.subscribe(SUBSCRIPTION, Plan())
    assert numbers(await read(consumer)) == [3, 4, 1, 2]


async def test_ten_thousand_concurrent_publishes_lose_nothing(clock: VirtualClock) -> None:
    road = small(clock, "capacity=100")
    await road.open([TOPIC], [SUBSCRIPTION])
    consumer = await road.subscribe(SUBSCRIPTION, Plan())
    seen: set[int] = set()

    async def drain() -> None:
        while len(seen) < 10_000:
            deliveries = await read(consumer, limit=64, wait=SECOND)
            seen.update(numbers(deliveries))
            await ack(consumer, deliveries)

    async with asyncio.TaskGroup() as group:
        group.create_task(drain())
        for number in range(10_000):
            group.create_task(publish(road, clock, number))
    assert seen == set(range(10_000))
    account = await road.account(TOPIC.name, "billing")
    assert (account.accepted, account.outcomes, account.duplicates) == (
        10_000,
        {"handled": 10_000},
        0,
    )


# ----------------------------------------------------------------- commits


async def test_settle_and_publish_commits_both(road: MemoryTransport, clock: VirtualClock) -> None:
    consumer = await road.subscribe(SUBSCRIPTION, Plan())
    after = await road.subscribe(Subscription(source=OTHER, group="after"), Plan())
    await publish(road, clock, 1)
    settlements = [Settlement(d) for d in await read(consumer)]
    out = [(OTHER, message(clock, 2, OTHER))]
    assert await consumer.settle_and_publish(settlements, out) == ["done"]
    assert numbers(await read(after)) == [2]
    assert await consumer.settle_and_publish(settlements, out) == ["stale"]
    assert await read(after) == []


async def test_one_stale_settlement_commits_nothing(
    road: MemoryTransport, clock: VirtualClock
) -> None:
    consumer = await road.subscribe(SUBSCRIPTION, Plan())
    await publish(road, clock, 1, 2)
    one, two = await read(consumer)
    await ack(consumer, [one])
    out = [(TOPIC, message(clock, 3))]
    answers = await consumer.settle_and_publish([Settlement(one), Settlement(two)], out)
    assert answers == ["stale", "unknown"]
    assert await ack(consumer, [two]) == ["done"]
    assert await read(consumer) == []


async def test_an_atomic_publish_waits_for_a_slow_group(clock: VirtualClock) -> None:
    road = small(clock, "capacity=1")
    await road.open([TOPIC, OTHER], [SUBSCRIPTION])
    consumer = await road.subscribe(SUBSCRIPTION, Plan())
    slow = await road.subscribe(Subscription(source=OTHER, group="slow"), Plan())
    await publish(road, clock, 1)
    await publish(road, clock, 2, topic=OTHER)
    held = await read(consumer)
    task = asyncio.create_task(
        consumer.settle_and_publish(
            [Settlement(d) for d in held], [(OTHER, message(clock, 3, OTHER))]
        )
    )
    await clock.settle()
    assert not task.done()
    assert (await road.account(TOPIC.name, "billing")).leased == 1
    await ack(slow, await read(slow))
    assert await asyncio.wait_for(task, 5) == ["done"]
    assert numbers(await read(slow)) == [3]


async def test_an_atomic_publish_to_its_own_full_group_does_not_wait_for_itself(
    clock: VirtualClock,
) -> None:
    road = small(clock)
    await road.open([TOPIC], [SUBSCRIPTION])
    consumer = await road.subscribe(SUBSCRIPTION, Plan())
    await publish(road, clock, 1, 2)
    settlements = [Settlement(d) for d in await read(consumer, limit=1)]
    out = [(TOPIC, message(clock, n)) for n in (3, 4)]
    call = consumer.settle_and_publish(settlements, out)
    assert await asyncio.wait_for(call, 5) == ["done"]
    assert numbers(await read(consumer)) == [2, 3, 4]


async def test_a_refused_atomic_publish_settles_nothing(clock: VirtualClock) -> None:
    road = small(clock, "capacity=1&when_full=refuse")
    await road.open([TOPIC, OTHER], [SUBSCRIPTION])
    await road.subscribe(Subscription(source=OTHER, group="slow"), Plan())
    consumer = await road.subscribe(SUBSCRIPTION, Plan())
    await publish(road, clock, 1)
    await publish(road, clock, 2, topic=OTHER)
    held = await read(consumer)
    with pytest.raises(PublishError):
        await consumer.settle_and_publish(
            [Settlement(d) for d in held], [(OTHER, message(clock, 3, OTHER))]
        )
    assert await ack(consumer, held) == ["done"]


async def test_a_token_publishes_once(road: MemoryTransport, clock: VirtualClock) -> None:
    consumer = await road.subscribe(SUBSCRIPTION, Plan())
    calls = [road.publish_once("tick", [(TOPIC, message(clock, n))]) for n in range(5)]
    assert sorted(await asyncio.gather(*calls)) == [False] * 4 + [True]
    assert len(await read(consumer)) == 1
    assert await road.publish_once("tock", [(TOPIC, message(clock, 9))])


async def test_a_token_that_waits_for_room_publishes_once(clock: VirtualClock) -> None:
    road = small(clock, "capacity=1")
    await road.open([TOPIC], [SUBSCRIPTION])
    consumer = await road.subscribe(SUBSCRIPTION, Plan())
    await publish(road, clock, 1)
    tasks = [
        asyncio.create_task(road.publish_once("tick", [(TOPIC, message(clock, 2))]))
        for _ in range(2)
    ]
    await clock.settle()
    for _ in range(3):
        await ack(consumer, await read(consumer))
        await clock.settle()
    assert sorted(task.result() for task in tasks) == [False, True]


# ----------------------------------------------------------------- dead letters


async def die(consumer: Consumer) -> None:
    await consumer.settle([Settlement(d, "reject", failure=FAILURE) for d in await read(consumer)])


async def test_dead_letters_are_kept_listed_redriven_and_discarded(
    road: MemoryTransport, clock: VirtualClock
) -> None:
    consumer = await road.subscribe(SUBSCRIPTION, Plan())
    await publish(road, clock, 1, 2, 3)
    (one,) = await read(consumer, limit=1)
    await consumer.settle([Settlement(one, "nack", failure=FAILURE)])
    await die(consumer)
    dead = await road.dead_letters(TOPIC.name, "billing", 10)
    assert [TOPIC.decode(letter.message.data)["n"] for letter in dead] == [1, 2, 3]
    assert [len(letter.failures) for letter in dead] == [2, 1, 1]
    assert {(d.topic, d.group, d.died_us) for d in dead} == {
        (TOPIC.name, "billing", clock.now_us())
    }
    assert len(await road.dead_letters("orders.#", None, 2)) == 2
    assert await road.dead_letters(TOPIC.name, "mail", 10) == []
    assert (await road.account(TOPIC.name, "billing")).outcomes == {"dead": 3}

    await publish(road, clock, 4)
    assert await road.redrive([dead[1].id, dead[0].id, "unknown"]) == 2
    assert await road.redrive([dead[0].id]) == 0
    assert await road.discard([dead[2].id]) == 1
    assert await road.dead_letters("#", None, 10) == []
    again = await read(consumer)
    assert numbers(again) == [1, 2, 4]
    assert [(d.attempts, d.failures, d.starts) for d in again[:2]] == [(0, (), 0)] * 2
    assert again[0].idempotency_key == one.idempotency_key
    await ack(consumer, again)
    account = await road.account(TOPIC.name, "billing")
    assert account.accepted == 4
    assert account.outcomes == {"handled": 3, "discarded": 1}


async def test_a_redrive_belongs_to_its_group(road: MemoryTransport, clock: VirtualClock) -> None:
    consumer = await road.subscribe(SUBSCRIPTION, Plan())
    other = await road.subscribe(Subscription(source=TOPIC, group="mail"), Plan())
    await publish(road, clock, 1)
    await ack(other, await read(other))
    await die(consumer)
    await road.redrive([letter.id for letter in await road.dead_letters("#", None, 10)])
    assert await read(other) == []
    assert numbers(await read(consumer)) == [1]


# ----------------------------------------------------------------- lag and account


async def test_lag_is_exact_in_messages_and_seconds(
    road: MemoryTransport, clock: VirtualClock
) -> None:
    consumer = await road.subscribe(SUBSCRIPTION, Plan())
    lag = await road.lag(TOPIC.name, "billing")
    assert (lag.messages, lag.age) == (0, NOTHING)
    await publish(road, clock, 1)
    await publish(road, clock, 9, delay=60 * SECOND)
    await clock.advance(2 * SECOND)
    await publish(road, clock, 2, 3)
    await clock.advance(SECOND)
    lag = await road.lag(TOPIC.name, "billing")
    assert (lag.messages, lag.age) == (3, 3 * SECOND)
    one, two, _ = await read(consumer)
    await consumer.settle([Settlement(two, "nack", delay=SECOND)])
    assert (await road.lag(TOPIC.name, "billing")).messages == 3
    await ack(consumer, [one])
    lag = await road.lag(TOPIC.name, "billing")
    assert (lag.messages, lag.age) == (2, SECOND)
    with pytest.raises(NotFoundError):
        await road.lag(TOPIC.name, "nobody")
    with pytest.raises(NotFoundError):
        await road.lag("nothing", "billing")


async def test_a_delayed_message_s_age_counts_from_when_it_was_due(
    road: MemoryTransport, clock: VirtualClock
) -> None:
    await publish(road, clock, 1, delay=10 * SECOND)
    await clock.advance(13 * SECOND)
    lag = await road.lag(TOPIC.name, "billing")
    assert (lag.messages, lag.age) == (1, 3 * SECOND)


async def test_lag_is_told_by_partition(road: MemoryTransport, clock: VirtualClock) -> None:
    keyed = Topic("keyed", dict, key="n", partitions=4)
    await road.open([keyed], [Subscription(source=keyed, group="g")])
    await publish(road, clock, *range(20), topic=keyed)
    lag = await road.lag("keyed", "g")
    assert [part.partition for part in lag.partitions] == [0, 1, 2, 3]
    assert lag.messages == 20
    assert all(part.messages for part in lag.partitions)


async def test_the_account_balances_at_every_step(
    road: MemoryTransport, clock: VirtualClock
) -> None:
    async def balance() -> tuple[int, int]:
        a = await road.account(TOPIC.name, "billing")
        held = a.backlog + a.leased + a.waiting + a.scheduled
        return a.accepted, held + sum(a.outcomes.values()) + a.trimmed

    consumer = await road.subscribe(SUBSCRIPTION, Plan(lease=5 * SECOND))
    await publish(road, clock, *range(6))
    await publish(road, clock, 6, 7, delay=SECOND, id="recall")
    assert await balance() == (8, 8)
    deliveries = await read(consumer, limit=5)
    assert await balance() == (8, 8)
    await consumer.settle(
        [
            Settlement(deliveries[0]),
            Settlement(deliveries[1], "nack", delay=SECOND, failure=FAILURE),
            Settlement(deliveries[2], "reject", failure=FAILURE),
        ]
    )
    assert await balance() == (8, 8)
    await road.cancel("recall")
    assert await balance() == (8, 8)
    await clock.advance(10 * SECOND)
    assert await balance() == (8, 8)
    await road.redrive([letter.id for letter in await road.dead_letters("#", None, 10)])
    assert await balance() == (8, 8)
    await ack(consumer, await read(consumer))
    account = await road.account(TOPIC.name, "billing")
    assert account.outcomes == {"handled": 6, "discarded": 2}
    # 1 nacked, 2 redriven, 3 and 4 whose leases ended.
    assert account.duplicates == 4
