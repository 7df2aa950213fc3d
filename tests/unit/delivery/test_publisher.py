"""Publishing in batches: company without waiting for it, and errors to those they concern."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from postroad.core.delivery import Position, Receipt
from postroad.core.hooks import Hooks
from postroad.core.message import Message
from postroad.core.topic import Topic
from postroad.delivery.publisher import CHUNK, Publisher
from postroad.errors import (
    BacklogFullError,
    ClosedError,
    EncodeError,
    PublishError,
    TransportUnavailableError,
)

TOPIC: Topic[int] = Topic("numbers", int)


class Road:
    """Accepts when told to; each publish call may be given an error."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.errors: list[BaseException | None] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def publish(self, messages: Sequence[tuple[Topic[Any], Message]]) -> Sequence[Receipt]:
        self.batches.append([message.id for _, message in messages])
        await self.gate.wait()
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error
        return [Receipt(Position(0, int(message.id))) for _, message in messages]


class Counts(Hooks):
    def __init__(self) -> None:
        self.sent: Counter[str] = Counter()
        self.unsent: Counter[str] = Counter()

    def published(self, topic: str, count: int) -> None:
        self.sent[topic] += count

    def publish_failed(self, topic: str, count: int, error: Exception) -> None:
        self.unsent[topic] += count


@pytest.fixture
def road() -> Road:
    return Road()


@pytest.fixture
def counts() -> Counts:
    return Counts()


@pytest.fixture
def publisher(road: Road, counts: Counts) -> Publisher:
    transport: Any = road
    return Publisher(transport, counts)


def message(n: int) -> Message:
    return Message(id=str(n), type="t", source="s", data=b"1", time_us=0)


def entries(count: int) -> Iterator[tuple[Topic[Any], Message]]:
    return ((TOPIC, message(n)) for n in range(count))


def start(publisher: Publisher, count: int) -> list[asyncio.Task[Receipt]]:
    return [asyncio.create_task(publisher.publish(TOPIC, message(n))) for n in range(count)]


async def test_who_publishes_at_once_shares_a_batch(
    publisher: Publisher, road: Road, counts: Counts
) -> None:
    receipts = await asyncio.gather(*start(publisher, 50))
    assert [len(batch) for batch in road.batches] == [50]
    assert [receipt.position for receipt in receipts] == [Position(0, n) for n in range(50)]
    assert counts.sent == {"numbers": 50}


async def test_a_batch_fills_while_the_last_one_is_on_its_way(
    publisher: Publisher, road: Road
) -> None:
    road.gate.clear()
    lone = start(publisher, 1)
    await asyncio.sleep(0.01)
    others = start(publisher, CHUNK + 5)
    await asyncio.sleep(0.01)
    assert [len(batch) for batch in road.batches] == [1]
    road.gate.set()
    await asyncio.gather(*lone, *others)
    assert [len(batch) for batch in road.batches] == [1, CHUNK, 5]


async def test_an_error_reaches_those_it_concerns(
    publisher: Publisher, road: Road, counts: Counts
) -> None:
    full = BacklogFullError("full")
    road.errors = [PublishError({1: full}, {2: ClosedError("who knows")})]
    ended = await asyncio.gather(*start(publisher, 4), return_exceptions=True)
    assert [isinstance(end, PublishError) for end in ended] == [False, True, True, False]
    assert isinstance(ended[1], PublishError)
    assert ended[1].failed == {0: full}
    assert isinstance(ended[2], PublishError)
    assert list(ended[2].unknown) == [0]
    assert (counts.sent, counts.unsent) == ({"numbers": 2}, {"numbers": 2})


async def test_a_road_that_is_away_fails_the_batch_and_not_the_next(
    publisher: Publisher, road: Road, counts: Counts
) -> None:
    road.errors = [TransportUnavailableError("away")]
    ended = await asyncio.gather(*start(publisher, 3), return_exceptions=True)
    assert all(isinstance(end, PublishError) and 0 in end.failed for end in ended)
    assert counts.unsent == {"numbers": 3}
    await publisher.publish(TOPIC, message(9))


async def test_an_error_that_is_not_ours_leaves_the_fate_open(
    publisher: Publisher, road: Road
) -> None:
    road.errors = [RuntimeError("a bug")]
    (end,) = await asyncio.gather(*start(publisher, 1), return_exceptions=True)
    assert isinstance(end, PublishError)
    assert (list(end.failed), list(end.unknown)) == ([], [0])


async def test_a_cancelled_publisher_takes_nobody_along(publisher: Publisher, road: Road) -> None:
    road.gate.clear()
    tasks = start(publisher, 5)
    await asyncio.sleep(0.01)
    tasks[2].cancel()
    await asyncio.sleep(0)
    road.gate.set()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(end, Receipt) for end in ended] == [True, True, False, True, True]
    assert isinstance(ended[2], asyncio.CancelledError)


async def test_closing_sends_what_was_given_and_refuses_more(
    publisher: Publisher, road: Road, counts: Counts
) -> None:
    road.gate.clear()
    for n in range(CHUNK + 1):
        await publisher.post(TOPIC, message(n))
    closing = [asyncio.create_task(publisher.close()) for _ in range(3)]
    await asyncio.sleep(0.01)
    assert not any(task.done() for task in closing)
    with pytest.raises(ClosedError):
        await publisher.publish(TOPIC, message(0))
    with pytest.raises(ClosedError):
        await publisher.post(TOPIC, message(0))
    with pytest.raises(ClosedError):
        await publisher.publish_many(entries(1))
    road.gate.set()
    await asyncio.gather(*closing)
    assert counts.sent == {"numbers": CHUNK + 1}


async def test_fire_and_forget_failures_are_counted(
    publisher: Publisher, road: Road, counts: Counts
) -> None:
    road.errors = [PublishError({0: BacklogFullError("full")})]
    await publisher.post(TOPIC, message(0))
    await publisher.post(TOPIC, message(1))
    await publisher.close()
    assert (counts.sent, counts.unsent) == ({"numbers": 1}, {"numbers": 1})


async def test_many_go_in_chunks_in_order(publisher: Publisher, road: Road) -> None:
    receipts = await publisher.publish_many(entries(2 * CHUNK + 1))
    assert [len(batch) for batch in road.batches] == [CHUNK, CHUNK, 1]
    assert [int(id_) for batch in road.batches for id_ in batch] == list(range(2 * CHUNK + 1))
    assert len(receipts) == 2 * CHUNK + 1
    assert await publisher.publish_many(entries(0)) == []


@pytest.mark.parametrize("chunk", [0, 1, 2])
async def test_the_chunk_that_fails_is_told_by_its_indices(
    publisher: Publisher, road: Road, chunk: int
) -> None:
    error = PublishError({1: BacklogFullError("full")}, {2: ClosedError("?")})
    road.errors = [*[None] * chunk, error]
    with pytest.raises(PublishError) as caught:
        await publisher.publish_many(entries(3 * CHUNK))
    assert list(caught.value.failed) == [chunk * CHUNK + 1]
    assert list(caught.value.unknown) == [chunk * CHUNK + 2]
    assert len(road.batches) == chunk + 1


async def test_a_chunk_that_the_road_did_not_take_fails_whole(
    publisher: Publisher, road: Road
) -> None:
    road.errors = [None, TransportUnavailableError("away")]
    with pytest.raises(PublishError) as caught:
        await publisher.publish_many(entries(CHUNK + 3))
    assert list(caught.value.failed) == [CHUNK, CHUNK + 1, CHUNK + 2]


async def test_a_payload_that_does_not_fit_leaves_the_chunks_before_accepted(
    publisher: Publisher, road: Road, counts: Counts
) -> None:
    def broken() -> Iterator[tuple[Topic[Any], Message]]:
        yield from entries(CHUNK + 10)
        raise EncodeError("not a number")

    with pytest.raises(EncodeError):
        await publisher.publish_many(broken())
    assert counts.sent == {"numbers": CHUNK}


async def test_cancelling_many_leaves_no_task_behind(publisher: Publisher, road: Road) -> None:
    road.gate.clear()
    before = asyncio.all_tasks()
    many = asyncio.create_task(publisher.publish_many(entries(3 * CHUNK)))
    await asyncio.sleep(0.01)
    many.cancel()
    await asyncio.gather(many, return_exceptions=True)
    assert many.cancelled()
    assert asyncio.all_tasks() == before
    assert len(road.batches) == 1


# ------------------------------------------------------------------ who is alone


@pytest.fixture
async def lone(publisher: Publisher) -> Publisher:
    """One whose last publish was alone."""
    await publisher.publish(TOPIC, message(0))
    return publisher


async def test_who_was_alone_makes_no_task(lone: Publisher, road: Road) -> None:
    tasks = len(asyncio.all_tasks())
    road.gate.clear()
    waiting = asyncio.create_task(lone.publish(TOPIC, message(1)))
    await asyncio.sleep(0.01)
    assert len(asyncio.all_tasks()) == tasks + 1, "its own"
    road.gate.set()
    assert (await waiting).position == Position(0, 1)


async def test_company_of_the_lone_one_waits_and_goes_together(lone: Publisher, road: Road) -> None:
    road.gate.clear()
    first = asyncio.create_task(lone.publish(TOPIC, message(1)))
    await asyncio.sleep(0.01)
    others = start(lone, 30)
    await asyncio.sleep(0.01)
    road.gate.set()
    await asyncio.gather(first, *others)
    again = start(lone, 30)
    await asyncio.gather(*again)
    assert [len(batch) for batch in road.batches] == [1, 1, 30, 30]


@pytest.mark.parametrize(
    ("error", "known"),
    [
        (BacklogFullError("full"), True),
        (RuntimeError("a defect"), False),
        (PublishError(failed={0: BacklogFullError("full")}), True),
    ],
)
async def test_the_error_of_a_lone_one_is_a_publish_error(
    lone: Publisher, road: Road, counts: Counts, error: Exception, known: bool
) -> None:
    road.errors = [error]
    with pytest.raises(PublishError) as raised:
        await lone.publish(TOPIC, message(1))
    assert bool(raised.value.failed) is known
    assert counts.unsent == {"numbers": 1}
    assert (await lone.publish(TOPIC, message(2))).position == Position(0, 2)


async def test_cancelling_the_lone_one_holds_up_nobody(lone: Publisher, road: Road) -> None:
    road.gate.clear()
    first = asyncio.create_task(lone.publish(TOPIC, message(1)))
    await asyncio.sleep(0.01)
    others = start(lone, 3)
    await asyncio.sleep(0.01)
    first.cancel()
    await asyncio.wait([first])
    assert first.cancelled()
    road.gate.set()
    await asyncio.gather(*others)


async def test_closing_waits_for_the_lone_one(lone: Publisher, road: Road) -> None:
    road.gate.clear()
    first = asyncio.create_task(lone.publish(TOPIC, message(1)))
    await asyncio.sleep(0.01)
    closing = asyncio.create_task(lone.close())
    await asyncio.sleep(0.01)
    assert not closing.done()
    road.gate.set()
    await asyncio.gather(first, closing)
    with pytest.raises(ClosedError):
        await lone.publish(TOPIC, message(2))
