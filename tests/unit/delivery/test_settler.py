"""Settling in batches, with results, over roads that can and cannot commit both at once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from postroad.core.delivery import Delivery, Failure, Settled, Settlement
from postroad.core.hooks import Hooks
from postroad.core.message import Message
from postroad.core.subscription import Subscription
from postroad.core.topic import Topic
from postroad.delivery.prefix import Prefix
from postroad.delivery.publisher import CHUNK
from postroad.delivery.settler import Results, Settler
from postroad.errors import (
    BacklogFullError,
    PayloadTooLargeError,
    PublishError,
    StorageBusyError,
    StorageCorruptError,
    TransportUnavailableError,
)
from postroad.testing.clock import VirtualClock

TOPIC: Topic[int] = Topic("numbers", int)
FAILURE = Failure(reason="exception", detail="x")


def delivery(n: int, partition: int = 0) -> Delivery:
    message = Message(id=str(n), type="t", source="s", data=b"", time_us=0)
    return Delivery(message=message, topic="numbers", partition=partition, offset=n)


def result(n: int) -> Results:
    return [(TOPIC, Message(id=f"r{n}", type="t", source="s", data=b"", time_us=0))]


class Plain:
    """A consumer that settles; `stale` never settle, `errors` come first."""

    def __init__(self) -> None:
        self.log: list[tuple[str, list[int]]] = []
        self.stale: set[int] = set()
        self.unknown = 0
        self.errors: list[Exception] = []

    def answers(self, settlements: Sequence[Settlement]) -> list[Settled]:
        if self.errors:
            raise self.errors.pop(0)
        if self.unknown:
            self.unknown -= 1
            return ["unknown"] * len(settlements)
        return ["stale" if number(one) in self.stale else "done" for one in settlements]

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        answers = self.answers(settlements)
        self.log.append(("settle", [number(one) for one in settlements]))
        return answers

    async def extend(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        return deliveries


class Slow:
    """`Moving` into a store that takes dead letters, each batch when it is let."""

    def __init__(self, log: list[tuple[str, list[int]]]) -> None:
        self.log = log
        self.permits = asyncio.Semaphore(0)

    def moves(self, settlement: Settlement) -> bool:
        return settlement.action == "reject"

    async def move(self, settlements: Sequence[Settlement]) -> None:
        await self.permits.acquire()
        self.log.append(("move", [number(one) for one in settlements]))


class Atomic(Plain):
    async def settle_and_publish(
        self, settlements: Sequence[Settlement], messages: Results
    ) -> Sequence[Settled]:
        answers = self.answers(settlements)
        if "stale" in answers:
            return ["stale" if one == "stale" else "unknown" for one in answers]
        if "unknown" not in answers:
            self.log.append(("both", [number(one) for one in settlements]))
            self.log.append(("publish", [int(message.id[1:]) for _, message in messages]))
        return answers


class Publishing:
    """Publishes results; `refusals` say which indices of a call are not accepted."""

    def __init__(self, log: list[tuple[str, list[int]]]) -> None:
        self.log = log
        self.refusals: list[PublishError] = []

    async def __call__(self, results: Results) -> None:
        refusal = self.refusals.pop(0) if self.refusals else None
        out = {*refusal.failed, *refusal.unknown} if refusal else set()
        self.log.append(
            ("publish", [int(m.id[1:]) for i, (_, m) in enumerate(results) if i not in out])
        )
        if refusal:
            raise refusal


class Counts(Hooks):
    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()

    def settled(self, subscription: Subscription, counts: Mapping[str, int]) -> None:
        assert counts
        self.outcomes.update(counts)

    def published(self, topic: str, count: int) -> None:
        self.sent[topic] += count


class Desk:
    """A settler with everything around it."""

    def __init__(
        self, consumer: Plain, prefix: Prefix | None = None, moving: Any | None = None
    ) -> None:
        self.consumer = consumer
        self.clock = VirtualClock()
        self.counts = Counts()
        self.publishing = Publishing(consumer.log)
        self.ended: list[int] = []
        stub: Any = consumer
        self.settler = Settler(
            stub,
            Subscription(source=TOPIC, group="g"),
            self.counts,
            self.clock,
            publish=self.publishing,
            on_settled=lambda ones: self.ended.extend(number(one) for one in ones),
            prefix=prefix,
            moving=moving,
        )
        self.task = asyncio.create_task(self.settler.run())

    async def pass_time(self, seconds: float = 60) -> None:
        await self.clock.advance(timedelta(seconds=seconds))


def number(settlement: Settlement) -> int:
    offset = settlement.delivery.offset
    assert isinstance(offset, int)
    return offset


@asynccontextmanager
async def desk_of(consumer: Plain, prefix: Prefix | None = None, moving: Any | None = None) -> Any:
    desk = Desk(consumer, prefix, moving)
    try:
        yield desk
    finally:
        desk.task.cancel()
        await asyncio.gather(desk.task, return_exceptions=True)


async def test_answers_collect_into_a_batch_and_are_counted_by_name() -> None:
    async with desk_of(Plain()) as desk:
        desk.consumer.stale = {5}
        for n, settlement in enumerate(
            [
                Settlement(delivery(0)),
                Settlement(delivery(1), "ack", "filtered"),
                Settlement(delivery(2), "nack"),
                Settlement(delivery(3), "nack", failure=FAILURE),
                Settlement(delivery(4), "reject", failure=FAILURE),
                Settlement(delivery(5)),
            ]
        ):
            assert number(settlement) == n
            desk.settler.add(settlement)
        await desk.pass_time(0)
        assert desk.consumer.log == [("settle", [0, 1, 2, 3, 4, 5])]
        assert desk.counts.outcomes == {
            "handled": 1,
            "filtered": 1,
            "returned": 1,
            "retried": 1,
            "dead": 1,
            "stale": 1,
        }
        assert desk.ended == [0, 1, 2, 3, 4, 5]


async def test_results_and_answers_commit_together_where_the_road_can() -> None:
    async with desk_of(Atomic()) as desk:
        desk.settler.add(Settlement(delivery(1)), result(1))
        desk.settler.add(Settlement(delivery(2)), result(2))
        desk.settler.add(Settlement(delivery(3)), [])
        await desk.pass_time(0)
        assert desk.consumer.log == [("both", [1, 2]), ("publish", [1, 2]), ("settle", [3])]
        assert desk.counts.sent == {"numbers": 2}


async def test_elsewhere_results_go_first() -> None:
    async with desk_of(Plain()) as desk:
        desk.settler.add(Settlement(delivery(1)), result(1))
        await desk.pass_time(0)
        assert desk.consumer.log == [("publish", [1]), ("settle", [1])]


async def test_a_stale_one_among_several_publishes_nothing() -> None:
    async with desk_of(Atomic()) as desk:
        desk.consumer.stale = {2}
        for n in (1, 2, 3):
            desk.settler.add(Settlement(delivery(n)), result(n))
        await desk.pass_time()
        published = [ids for what, ids in desk.consumer.log if what == "publish"]
        assert published == [[1], [3]]
        assert desk.counts.outcomes == {"handled": 2, "stale": 1}
        assert desk.counts.sent == {"numbers": 2}
        assert sorted(desk.ended) == [1, 2, 3]


@pytest.mark.parametrize("kind", [Plain, Atomic])
async def test_an_unknown_fate_is_asked_again(kind: Callable[[], Plain]) -> None:
    async with desk_of(kind()) as desk:
        desk.consumer.unknown = 1
        desk.settler.add(Settlement(delivery(1)), result(1) if kind is Atomic else None)
        await desk.pass_time()
        assert desk.counts.outcomes == {"handled": 1}


async def test_a_fate_that_stays_unknown_is_asked_until_it_is_known() -> None:
    async with desk_of(Plain()) as desk:
        desk.consumer.unknown = 10
        desk.settler.add(Settlement(delivery(1)))
        for _ in range(30):
            await desk.pass_time()
        assert desk.counts.outcomes == {"handled": 1}
        assert desk.ended == [1]


@pytest.mark.parametrize(
    "error",
    [
        TransportUnavailableError("away"),
        StorageBusyError("locked"),
        PublishError({0: BacklogFullError("full")}),
    ],
)
async def test_a_transient_error_is_waited_out(error: Exception) -> None:
    async with desk_of(Atomic()) as desk:
        desk.consumer.errors = [error] * 5
        desk.settler.add(Settlement(delivery(1)), result(1))
        await desk.pass_time(0)
        assert desk.consumer.log == []
        await desk.pass_time()
        assert desk.consumer.log == [("both", [1]), ("publish", [1])]


@pytest.mark.parametrize(
    "error", [StorageCorruptError("bad"), PublishError({0: PayloadTooLargeError("too large")})]
)
async def test_a_permanent_error_ends_the_settler(error: Exception) -> None:
    async with desk_of(Atomic()) as desk:
        desk.consumer.errors = [error]
        desk.settler.add(Settlement(delivery(1)), result(1))
        await desk.pass_time()
        assert desk.task.exception() is error
        assert desk.ended == []


async def test_only_what_was_not_accepted_goes_out_again() -> None:
    async with desk_of(Plain()) as desk:
        away = TransportUnavailableError("away")
        desk.publishing.refusals = [PublishError({1: away}, {2: away}), PublishError({0: away})]
        for n in range(4):
            desk.settler.add(Settlement(delivery(n)), result(n))
        await desk.pass_time()
        assert desk.consumer.log == [
            ("publish", [0, 3]),
            ("publish", [2]),
            ("publish", [1]),
            ("settle", [0, 1, 2, 3]),
        ]


async def test_more_results_than_a_chunk_all_go_out_before_the_answer() -> None:
    async with desk_of(Plain()) as desk:
        away = TransportUnavailableError("away")
        desk.publishing.refusals = [PublishError({7: away})]
        many = [entry for n in range(2 * CHUNK + 1) for entry in result(n)]
        desk.settler.add(Settlement(delivery(1)), many)
        await desk.pass_time()
        published = [n for what, ids in desk.consumer.log if what == "publish" for n in ids]
        assert sorted(published) == list(range(2 * CHUNK + 1))
        assert desk.consumer.log[-1] == ("settle", [1])


async def test_a_prefix_holds_answers_back_and_commits_no_hand_back() -> None:
    prefix = Prefix()
    line = [delivery(n) for n in range(5)]
    prefix.received(line)
    async with desk_of(Plain(), prefix) as desk:
        desk.settler.add(Settlement(line[1]), result(1))
        desk.settler.add(Settlement(line[2]))
        await desk.pass_time(0)
        assert desk.consumer.log == [("publish", [1])]
        assert desk.ended == []
        desk.settler.add(Settlement(line[0]))
        desk.settler.add(Settlement(line[3], "nack"))
        desk.settler.add(Settlement(line[4]))
        await desk.pass_time(0)
        assert desk.consumer.log == [("publish", [1]), ("settle", [0, 1, 2])]
        assert desk.ended == [3, 4, 0, 1, 2]
        assert desk.counts.outcomes == {"handled": 3, "returned": 1, "stale": 1}


async def test_what_is_forgotten_is_not_committed() -> None:
    prefix = Prefix()
    line = [delivery(n) for n in range(3)]
    prefix.received(line)
    async with desk_of(Atomic(), prefix) as desk:
        desk.settler.add(Settlement(line[1]), result(1))
        await desk.pass_time(0)
        desk.settler.forget([("numbers", 0)])
        assert desk.ended == [1]
        desk.settler.add(Settlement(line[0]), result(0))
        desk.settler.add(Settlement(line[2]), result(2))
        await desk.pass_time(0)
        assert desk.ended == [1, 0, 2]
        assert desk.counts.outcomes == {"stale": 3}
        assert desk.consumer.log == [], "nor is anything of it published"


async def test_with_a_prefix_results_enter_the_commit_of_their_answer() -> None:
    prefix = Prefix()
    line = [delivery(n) for n in range(6)]
    prefix.received(line)
    async with desk_of(Atomic(), prefix) as desk:
        for n in (1, 2, 4):
            desk.settler.add(Settlement(line[n]), result(n))
        await desk.pass_time(0)
        assert desk.consumer.log == [], "0 still runs, so nothing of 1, 2 and 4 may be seen"
        desk.settler.add(Settlement(line[0]))
        await desk.pass_time(0)
        assert desk.consumer.log == [("both", [0, 1, 2]), ("publish", [1, 2])]
        desk.consumer.log.clear()
        desk.settler.add(Settlement(line[3]), result(3))
        desk.settler.add(Settlement(line[5]))
        await desk.pass_time(0)
        assert desk.consumer.log == [("both", [3, 4, 5]), ("publish", [3, 4])]
        assert desk.counts.outcomes == {"handled": 6}
        assert desk.counts.sent == {"numbers": 4}


async def test_without_results_a_prefix_is_just_settled() -> None:
    prefix = Prefix()
    line = [delivery(n) for n in range(2)]
    prefix.received(line)
    async with desk_of(Atomic(), prefix) as desk:
        desk.settler.add(Settlement(line[1]))
        desk.settler.add(Settlement(line[0]), [])
        await desk.pass_time(0)
        assert desk.consumer.log == [("settle", [0, 1])]


async def test_a_stale_partition_undoes_no_other_one() -> None:
    prefix = Prefix()
    mine = [delivery(n, 1) for n in (10, 11, 12)]
    lost = [delivery(n, 2) for n in (20, 21)]
    prefix.received([*mine, *lost])
    async with desk_of(Atomic(), prefix) as desk:
        desk.consumer.stale = {20, 21}
        for one in (*lost, *mine):
            desk.settler.add(Settlement(one), result(number(Settlement(one))))
        await desk.pass_time()
        assert desk.consumer.log == [("both", [10, 11, 12]), ("publish", [10, 11, 12])]
        assert desk.counts.outcomes == {"handled": 3, "stale": 2}
        assert desk.counts.sent == {"numbers": 3}


async def test_one_stale_position_leaves_the_order_of_the_others() -> None:
    prefix = Prefix()
    line = [delivery(n) for n in range(4)]
    prefix.received(line)
    async with desk_of(Atomic(), prefix) as desk:
        desk.consumer.stale = {0}
        for one in reversed(line):
            desk.settler.add(Settlement(one), result(number(Settlement(one))))
        await desk.pass_time()
        committed = [ids for what, ids in desk.consumer.log if what == "both"]
        assert committed == [[1], [2], [3]]
        assert desk.counts.outcomes == {"handled": 3, "stale": 1}


async def test_a_hand_back_frees_whoever_waits_for_what_is_behind_it() -> None:
    prefix = Prefix()
    line = [delivery(n) for n in range(5)]
    prefix.received(line)
    async with desk_of(Atomic(), prefix) as desk:
        desk.settler.add(Settlement(line[3]), result(3))
        await desk.pass_time(0)
        desk.settler.add(Settlement(line[1], "nack"))
        await desk.pass_time(0)
        assert desk.ended == [1, 3], "it will never be committed by us"
        desk.settler.add(Settlement(line[4]), result(4))
        desk.settler.add(Settlement(line[0]), result(0))
        await desk.pass_time(0)
        assert desk.consumer.log == [("both", [0]), ("publish", [0])]
        assert desk.counts.outcomes == {"handled": 1, "returned": 1, "stale": 2}


async def test_idle_is_when_everything_added_is_answered() -> None:
    async with desk_of(Plain()) as desk:
        desk.consumer.errors = [TransportUnavailableError("away")]
        desk.settler.add(Settlement(delivery(1)))
        idle = asyncio.create_task(desk.settler.idle())
        await desk.pass_time(0)
        assert not idle.done()
        await desk.pass_time(1)
        assert idle.done()
        assert desk.consumer.log == [("settle", [1])]
        await desk.settler.idle()


async def test_idle_is_when_what_is_for_the_store_is_there_and_answered() -> None:
    consumer = Plain()
    moving = Slow(consumer.log)
    async with desk_of(consumer, moving=moving) as desk:
        desk.settler.add(Settlement(delivery(1), "reject", failure=FAILURE))
        idle = asyncio.create_task(desk.settler.idle())
        await desk.pass_time(0)
        assert not idle.done(), "the store has not taken it"
        desk.settler.add(Settlement(delivery(2), "reject", failure=FAILURE))
        desk.settler.add(Settlement(delivery(3)))
        await desk.pass_time(0)
        moving.permits.release()
        await desk.pass_time(0)
        assert consumer.log == [("settle", [3]), ("move", [1]), ("settle", [1])]
        assert not idle.done(), "nor the one that came meanwhile"
        moving.permits.release()
        await desk.pass_time(0)
        assert idle.done()
        assert consumer.log[3:] == [("move", [2]), ("settle", [2])]
        await desk.settler.idle()
