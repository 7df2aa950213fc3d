"""The virtual clock: order, consequences, cancellation."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from postroad.core.clock import Clock
from postroad.testing.clock import VirtualClock

SECOND = timedelta(seconds=1)


def test_it_starts_where_told_and_stands_still() -> None:
    clock: Clock = VirtualClock(datetime(2013, 2, 8, tzinfo=UTC))
    assert clock.now_us() == 1360281600_000_000
    assert clock.monotonic() == clock.monotonic() == 0.0
    assert VirtualClock().now() == datetime(2024, 1, 1, tzinfo=UTC)


def test_a_naive_start_is_refused() -> None:
    with pytest.raises(ValueError, match="aware"):
        VirtualClock(datetime(2013, 2, 8))  # noqa: DTZ001


async def test_sleepers_wake_in_due_order_each_at_its_own_time() -> None:
    clock = VirtualClock()
    seen: list[tuple[str, float]] = []

    async def sleeper(name: str, seconds: float) -> None:
        await clock.sleep(seconds)
        seen.append((name, round(clock.monotonic(), 6)))

    async with asyncio.TaskGroup() as group:
        for name, seconds in (("c", 3.0), ("a", 1.0), ("b", 2.0), ("a2", 1.0)):
            group.create_task(sleeper(name, seconds))
        await clock.advance(2 * SECOND)
        assert seen == [("a", 1.0), ("a2", 1.0), ("b", 2.0)]
        await clock.advance(SECOND)
    assert seen[-1] == ("c", 3.0)


async def test_a_sleeper_does_not_wake_early() -> None:
    clock = VirtualClock()
    task = asyncio.create_task(clock.sleep(1))
    await clock.advance(timedelta(microseconds=999_999))
    assert not task.done()
    await clock.advance(timedelta(microseconds=1))
    assert task.done()


async def test_what_follows_from_a_wake_up_happens_before_time_moves_on() -> None:
    clock = VirtualClock()
    seen: list[tuple[str, datetime]] = []
    queue: asyncio.Queue[str] = asyncio.Queue()

    async def producer() -> None:
        await clock.sleep(1)
        await queue.put("first")
        await clock.sleep(1)
        await queue.put("second")

    async def consumer() -> None:
        for _ in range(2):
            item = await queue.get()
            for _ in range(20):  # a long chain of consequences
                await asyncio.sleep(0)
            seen.append((item, clock.now()))

    async with asyncio.TaskGroup() as group:
        group.create_task(consumer())
        group.create_task(producer())
        await clock.advance(10 * SECOND)
    start = datetime(2024, 1, 1, tzinfo=UTC)
    assert seen == [("first", start + SECOND), ("second", start + 2 * SECOND)]


async def test_chained_sleeps_all_fit_in_one_advance() -> None:
    clock = VirtualClock()
    ticks: list[float] = []

    async def ticker() -> None:
        while True:
            await clock.sleep(0.1)
            ticks.append(clock.monotonic())

    task = asyncio.create_task(ticker())
    await clock.advance(SECOND)
    task.cancel()
    assert [round(tick, 6) for tick in ticks] == [round(n / 10, 6) for n in range(1, 11)]


async def test_a_deadline_of_floats_is_met_and_not_missed_by_rounding() -> None:
    clock = VirtualClock()
    await clock.advance(timedelta(seconds=0.1))
    deadline = clock.monotonic() + 0.2

    async def until() -> None:
        while clock.monotonic() < deadline:
            await clock.sleep(deadline - clock.monotonic())

    task = asyncio.create_task(until())
    await clock.advance(timedelta(seconds=0.2))
    assert task.done()


async def test_a_cancelled_sleeper_is_forgotten() -> None:
    clock = VirtualClock()
    task = asyncio.create_task(clock.sleep(1))
    await clock.settle()
    assert clock.sleepers == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert clock.sleepers == 0
    await clock.advance(2 * SECOND)
    assert clock.now() == datetime(2024, 1, 1, 0, 0, 2, tzinfo=UTC)


async def test_nothing_or_less_only_yields() -> None:
    clock = VirtualClock()
    await clock.sleep(0)
    await clock.sleep(-1)
    assert clock.sleepers == 0


async def test_time_does_not_go_back() -> None:
    with pytest.raises(ValueError, match="back"):
        await VirtualClock().advance(timedelta(seconds=-1))


async def test_two_cannot_advance_at_once() -> None:
    clock = VirtualClock()
    first = asyncio.create_task(clock.advance(SECOND))
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="already"):
        await clock.advance(SECOND)
    await first
    await clock.advance(SECOND)


async def test_a_spinning_task_does_not_hang_it() -> None:
    clock = VirtualClock()

    async def spin() -> None:
        while True:  # noqa: ASYNC110 - others make it true
            await asyncio.sleep(0)

    task = asyncio.create_task(spin())
    await clock.advance(timedelta(0))
    task.cancel()


async def test_a_callback_from_a_thread_that_is_done_is_seen() -> None:
    clock = VirtualClock()
    seen: list[int] = []
    loop = asyncio.get_running_loop()
    await asyncio.to_thread(loop.call_soon_threadsafe, seen.append, 1)
    await clock.settle()
    assert seen == [1]
