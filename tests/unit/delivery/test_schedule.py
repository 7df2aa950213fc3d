"""Schedules: every tick once, over processes, by interval and by cron line."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import pytest

from postroad.core.clock import from_us, to_us
from postroad.core.delivery import Settlement
from postroad.core.subscription import Subscription
from postroad.core.ticks import ticks_of
from postroad.core.topic import Topic
from postroad.core.transport import Consumer, Plan
from postroad.delivery.schedule import Every, Ticker
from postroad.errors import (
    DeclarationError,
    StorageCorruptError,
    TransportUnavailableError,
)
from postroad.testing.clock import VirtualClock
from postroad.transports.memory import MemoryTransport

TOPIC: Topic[int] = Topic("numbers", int)
START = datetime(2024, 2, 28, 23, 58, 30, tzinfo=UTC)


def first(when: timedelta | str, count: int, after: datetime = START) -> list[datetime]:
    return [from_us(tick) for tick in islice(ticks_of(when)(to_us(after)), count)]


def test_intervals_count_from_the_epoch_for_everybody() -> None:
    minute = timedelta(minutes=1)
    expected = [datetime(2024, 2, 28, 23, 59, tzinfo=UTC) + n * minute for n in range(3)]
    assert first(minute, 3) == expected
    assert first(minute, 1, after=expected[0]) == expected[1:2]


def test_cron_lines_are_in_utc() -> None:
    assert first("*/30 * * * *", 2) == [
        datetime(2024, 2, 29, 0, 0, tzinfo=UTC),
        datetime(2024, 2, 29, 0, 30, tzinfo=UTC),
    ]
    assert first("0 12 29 2 *", 2) == [
        datetime(2024, 2, 29, 12, tzinfo=UTC),
        datetime(2028, 2, 29, 12, tzinfo=UTC),
    ]


@pytest.mark.parametrize(
    "when", [timedelta(0), timedelta(seconds=-1), "nonsense", "61 * * * *", "0 0 30 2 *"]
)
def test_what_never_ticks_is_refused(when: timedelta | str) -> None:
    with pytest.raises(DeclarationError):
        ticks_of(when)


class Bench:
    def __init__(self) -> None:
        self.clock = VirtualClock(START)
        self.transport = MemoryTransport("memory://", clock=self.clock)
        self.prepared: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.consumer: Consumer

    async def prepare(self, topic: Topic[Any]) -> None:
        self.prepared.append(topic.name)

    def tick(self, function: Callable[..., Any], *, wants_tick: bool = False) -> None:
        every = Every(
            "name",
            ticks_of(timedelta(minutes=1)),
            function,
            wants_tick=wants_tick,
            is_async=asyncio.iscoroutinefunction(function),
        )
        ticker = Ticker(every, self.transport, self.clock, source="s", prepare=self.prepare)
        self.tasks.append(asyncio.create_task(ticker.run()))

    async def minutes(self, count: int) -> list[int]:
        await self.clock.advance(timedelta(minutes=count))
        batch = await self.consumer.receive(1000, 1 << 20, timedelta(0))
        await self.consumer.settle([Settlement(delivery) for delivery in batch])
        return [TOPIC.decode(delivery.message.data) for delivery in batch]


@asynccontextmanager
async def bench_() -> AsyncIterator[Bench]:
    bench = Bench()
    subscription = Subscription(source=TOPIC, group="g", lease=timedelta(days=1))
    await bench.transport.open([TOPIC], [subscription])
    bench.consumer = await bench.transport.subscribe(subscription, Plan(lease=timedelta(days=1)))
    try:
        yield bench
    finally:
        for task in bench.tasks:
            task.cancel()
        await asyncio.gather(*bench.tasks, return_exceptions=True)
        await bench.transport.close()


async def test_every_tick_is_published_by_one_of_three() -> None:
    async with bench_() as bench:
        calls: list[datetime] = []

        async def handler(tick: datetime) -> Any:
            calls.append(tick)
            return TOPIC.message(tick.minute)

        for _ in range(3):
            bench.tick(handler, wants_tick=True)
        assert await bench.minutes(4) == [59, 0, 1, 2]
        assert len(calls) == 12
        assert set(bench.prepared) == {"numbers"}


async def test_what_a_function_may_return() -> None:
    async with bench_() as bench:
        answers: list[Any] = [None, TOPIC.message(1), [TOPIC.message(2), None, TOPIC.message(3)]]

        async def handler() -> Any:
            return answers.pop(0) if answers else []

        bench.tick(handler)
        assert await bench.minutes(5) == [1, 2, 3]


async def test_a_wrong_answer_costs_its_tick_only() -> None:
    async with bench_() as bench:

        async def handler() -> Any:
            return 7

        bench.tick(handler)
        assert await bench.minutes(2) == []
        (task,) = bench.tasks
        assert not task.done()


async def test_an_error_costs_its_tick_only_and_is_told() -> None:
    async with bench_() as bench:
        told: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        numbers = iter(range(10))

        async def handler() -> Any:
            number = next(numbers)
            if number == 1:
                raise ValueError("no luck")
            return TOPIC.message(number)

        bench.tick(handler)
        assert await bench.minutes(3) == [0, 2]
        assert [str(context["exception"]) for context in told] == ["no luck"]
        assert "'name'" in told[0]["message"]


async def test_a_road_in_trouble_is_waited_for_or_ends_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with bench_() as bench:
        publish_once = bench.transport.publish_once
        errors: list[Exception] = [TransportUnavailableError("away")] * 4

        async def troubled(*args: Any) -> bool:
            if errors:
                raise errors.pop()
            return await publish_once(*args)

        monkeypatch.setattr(bench.transport, "publish_once", troubled)

        async def handler() -> Any:
            return TOPIC.message(1)

        bench.tick(handler)
        assert await bench.minutes(2) == [1, 1]
        errors.append(StorageCorruptError("gone"))
        await bench.minutes(1)
        assert isinstance(bench.tasks[0].exception(), StorageCorruptError)
