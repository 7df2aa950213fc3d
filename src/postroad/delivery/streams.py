"""What `aiostream` lacks for streams of events: `debounce`, and a `buffer` that minds time.

Everything else is aiostream's own, over any async iterator::

    from aiostream import pipe, stream
    from postroad.delivery import streams

    busy = (
        stream.iterate(road.stream(readings))
        | pipe.map(lambda reading: reading.level)
        | pipe.filter(lambda level: level > 80)
        | streams.debounce.pipe(timedelta(seconds=2))
        | streams.buffer.pipe(100, timedelta(seconds=5))
    )
    async with busy.stream() as batches:
        async for batch in batches: ...

Both operators pull: where the reader is slow, the source waits. Leaving the `async with` closes
the source. An error of the source passes on and drops what is held.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from datetime import timedelta
from typing import Any, TypeVar

from postroad.core.clock import Clock, SystemClock
from postroad.errors import MissingExtraError

try:
    from aiostream import pipable_operator, stream, streamcontext
except ImportError:
    raise MissingExtraError(
        "stream operators need aiostream: pip install 'postroad[streams]'"
    ) from None

T = TypeVar("T")

_SYSTEM = SystemClock()


@pipable_operator
def debounce(
    source: AsyncIterable[T], quiet: timedelta, clock: Clock = _SYSTEM
) -> AsyncIterator[T]:
    """Pass an item on once none followed it for `quiet`; of a burst only the last one passes.

    The last item of a source that ends passes too, after `quiet`.
    """

    async def settled(item: T, *_: object) -> AsyncIterator[T]:
        await clock.sleep(quiet.total_seconds())
        yield item

    return stream.switchmap.raw(source, settled)


@pipable_operator
async def buffer(
    source: AsyncIterable[T], size: int, wait: timedelta, clock: Clock = _SYSTEM
) -> AsyncIterator[list[T]]:
    """Lists of items in order: of `size`, or fewer once `wait` has passed since the list's first.

    Never an empty list; the last one holds what the source left.

    Raises:
        ValueError: size is below 1.
    """
    if size < 1:
        raise ValueError("a buffer holds at least 1")
    async with streamcontext(source) as items:
        held: list[T] = []
        upcoming = asyncio.create_task(_next(items))
        alarm: asyncio.Task[None] | None = None
        try:
            while await _first_of(upcoming, alarm):
                if upcoming.done():
                    held.append(upcoming.result())
                    upcoming = asyncio.create_task(_next(items))
                    alarm = alarm or asyncio.create_task(clock.sleep(wait.total_seconds()))
                if len(held) >= size or (alarm is not None and alarm.done()):
                    await _stopped(alarm)
                    alarm = None
                    yield held
                    held = []
            if held:
                yield held
        finally:
            await _stopped(upcoming, alarm)


async def _next(items: AsyncIterator[T]) -> T:
    return await anext(items)


async def _first_of(upcoming: asyncio.Task[T], alarm: asyncio.Task[None] | None) -> bool:
    """Wait for one of them; False if the source has ended."""
    await asyncio.wait([upcoming, alarm] if alarm else [upcoming], return_when="FIRST_COMPLETED")
    return not (upcoming.done() and isinstance(upcoming.exception(), StopAsyncIteration))


async def _stopped(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel what still runs, and see it end: a source can only be closed at rest."""
    running = [task for task in tasks if task is not None]
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
