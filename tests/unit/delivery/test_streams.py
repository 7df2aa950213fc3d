"""`debounce` and `buffer` on the virtual clock, alone and in aiostream's pipes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from aiostream import pipe, stream

from postroad.delivery import streams
from postroad.testing.clock import VirtualClock

SECOND = timedelta(seconds=1)


class Feed:
    """A source that a test feeds by hand."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Any] = asyncio.Queue()
        self.closed = False
        self.pulled = 0

    def put(self, *items: object) -> None:
        for item in items:
            self._queue.put_nowait(item)

    async def __aiter__(self) -> AsyncIterator[Any]:
        try:
            while True:
                item = await self._queue.get()
                if item is StopAsyncIteration:
                    return
                if isinstance(item, Exception):
                    raise item
                self.pulled += 1
                yield item
        finally:
            self.closed = True


@asynccontextmanager
async def collecting(source: Any) -> AsyncIterator[list[Any]]:
    """What a reader of the source has got so far."""
    got: list[Any] = []

    async def read() -> None:
        async with source.stream() as items:
            async for item in items:
                got.append(item)  # noqa: PERF401 - a test looks on in between

    task = asyncio.create_task(read())
    try:
        yield got
        if task.done():
            await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def feed() -> Feed:
    return Feed()


async def test_of_a_burst_only_the_last_passes_after_the_quiet(
    clock: VirtualClock, feed: Feed
) -> None:
    async with collecting(streams.debounce(feed, SECOND, clock)) as got:
        for item in (1, 2, 3):
            feed.put(item)
            await clock.advance(SECOND / 2)
        assert got == []
        await clock.advance(SECOND / 2)
        assert got == [3]
        await clock.advance(10 * SECOND)
        assert got == [3]
        feed.put(4)
        await clock.advance(SECOND)
        assert got == [3, 4]


async def test_the_last_item_of_a_source_that_ends_passes(clock: VirtualClock, feed: Feed) -> None:
    async with collecting(streams.debounce(feed, SECOND, clock)) as got:
        feed.put(1, 2, StopAsyncIteration)
        await clock.settle()
        assert got == []
        await clock.advance(SECOND)
        assert got == [2]


async def test_a_full_buffer_passes_at_once(clock: VirtualClock, feed: Feed) -> None:
    async with collecting(streams.buffer(feed, 3, SECOND, clock)) as got:
        feed.put(1, 2, 3, 4)
        await clock.settle()
        assert got == [[1, 2, 3]]


async def test_a_buffer_passes_when_its_first_item_has_waited(
    clock: VirtualClock, feed: Feed
) -> None:
    async with collecting(streams.buffer(feed, 100, SECOND, clock)) as got:
        await clock.advance(10 * SECOND)
        feed.put(1)
        await clock.advance(SECOND * 0.6)
        feed.put(2)
        await clock.advance(SECOND * 0.3)
        assert got == []
        await clock.advance(SECOND * 0.1)
        assert got == [[1, 2]]
        await clock.advance(10 * SECOND)
        assert got == [[1, 2]]


async def test_each_buffer_has_its_own_wait(clock: VirtualClock, feed: Feed) -> None:
    async with collecting(streams.buffer(feed, 2, SECOND, clock)) as got:
        feed.put(1)
        await clock.advance(SECOND * 0.9)
        feed.put(2, 3)
        await clock.advance(SECOND * 0.9)
        assert got == [[1, 2]]
        await clock.advance(SECOND * 0.1)
        assert got == [[1, 2], [3]]


async def test_the_rest_passes_when_the_source_ends(clock: VirtualClock, feed: Feed) -> None:
    async with collecting(streams.buffer(feed, 2, SECOND, clock)) as got:
        feed.put(1, 2, 3, StopAsyncIteration)
        await clock.settle()
        assert got == [[1, 2], [3]]
    assert clock.sleepers == 0


async def test_an_empty_source_gives_no_buffer(clock: VirtualClock, feed: Feed) -> None:
    async with collecting(streams.buffer(feed, 2, SECOND, clock)) as got:
        feed.put(StopAsyncIteration)
        await clock.advance(2 * SECOND)
        assert got == []


@pytest.mark.parametrize("operator", ["debounce", "buffer"])
async def test_an_error_of_the_source_passes_on(
    clock: VirtualClock, feed: Feed, operator: str
) -> None:
    source: Any = (
        streams.debounce(feed, SECOND, clock)
        if operator == "debounce"
        else streams.buffer(feed, 5, SECOND, clock)
    )
    feed.put(1, ValueError("source"))
    with pytest.raises(ValueError, match="source"):
        async with collecting(source):
            await clock.settle()
    assert feed.closed
    assert clock.sleepers == 0


@pytest.mark.parametrize("operator", ["debounce", "buffer"])
async def test_leaving_closes_the_source(clock: VirtualClock, feed: Feed, operator: str) -> None:
    source: Any = (
        streams.debounce(feed, SECOND, clock)
        if operator == "debounce"
        else streams.buffer(feed, 5, SECOND, clock)
    )
    feed.put(1)
    async with collecting(source):
        await clock.settle()
        assert not feed.closed
    assert feed.closed
    assert clock.sleepers == 0


async def test_a_slow_reader_holds_up_the_source(clock: VirtualClock, feed: Feed) -> None:
    feed.put(*range(100))
    source: Any = streams.buffer(feed, 2, SECOND, clock)
    async with source.stream() as items:
        assert await anext(items) == [0, 1]
        await clock.settle()
        assert feed.pulled == 3


async def test_a_buffer_of_nothing_is_refused(clock: VirtualClock, feed: Feed) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        async with collecting(streams.buffer(feed, 0, SECOND, clock)):
            await clock.settle()


async def test_they_join_aiostream_s_pipes(clock: VirtualClock, feed: Feed) -> None:
    source: Any = (
        stream.iterate(feed)
        | pipe.map(lambda number, *_: number * 10)
        | pipe.filter(lambda number: number != 20)
        | streams.debounce.pipe(SECOND, clock)
        | streams.buffer.pipe(2, 10 * SECOND, clock)
    )
    async with collecting(source) as got:
        for item in (1, 2, 3, 4):
            feed.put(item)
            await clock.advance(SECOND * (0.5 if item == 1 else 1.5))
        # 10 is not followed by 20, which was filtered out before.
        assert got == [[10, 30]]
        await clock.advance(10 * SECOND)
        assert got == [[10, 30], [40]]
