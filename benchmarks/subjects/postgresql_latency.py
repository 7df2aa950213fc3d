"""How long after its commit a message reaches its handler in another process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from multiprocessing import get_context
from multiprocessing.connection import Connection
from statistics import median, quantiles

from benchmarks.subjects import postgresql
from benchmarks.subjects.order import TOPIC, OrderCreated, order
from postroad import Postroad

_FIRST = 100_000
"""The number of the first order."""


def commit_to_handler(
    figures: tuple[str, str, str], server: str, rate: int, seconds: float, *, notify: bool
) -> Mapping[str, float]:
    """(p50, p99, p99 from the call of `publish`), in ms, at so many messages a second.

    The publisher notes when `publish` returned, which is after the commit; a handler that was
    called before that counts as 0. What it takes from the call of `publish`, with the encoding,
    the commit and the disk, is the third figure.
    """
    with postgresql.database(server) as url:
        wanted = url if notify else f"{url}?notify=off"
        return asyncio.run(_consume(figures, wanted, int(rate * seconds), rate))


async def _consume(
    figures: tuple[str, str, str], url: str, count: int, rate: int
) -> Mapping[str, float]:
    handled: dict[int, float] = {}
    everything = asyncio.Event()
    road = Postroad(url)

    @road.subscribe(TOPIC, group="all", start="earliest")
    async def handler(order: OrderCreated) -> None:
        handled[order.order_id - _FIRST] = time.monotonic()
        if len(handled) == count:
            everything.set()

    context = get_context("spawn")
    ours, theirs = context.Pipe()
    publisher = context.Process(target=_publish, args=(url, count, rate, theirs), daemon=True)
    async with road:
        stop = asyncio.Event()
        running = asyncio.create_task(road.run(stop=stop))
        publisher.start()
        async with asyncio.timeout(count / rate + 60):
            await everything.wait()
        called, committed = await asyncio.to_thread(ours.recv)
        stop.set()
        await running
    await asyncio.to_thread(publisher.join)
    # What comes first finds cold caches and connections, in both processes.
    measured = range(min(rate, count // 10), count)
    late = [max(0.0, handled[n] - committed[n]) * 1000 for n in measured]
    whole = [(handled[n] - called[n]) * 1000 for n in measured]
    return dict(
        zip(figures, (median(late), _p99(late), _p99(whole)), strict=True),
    )


def _p99(values: list[float]) -> float:
    return quantiles(values, n=100)[98]


def _publish(url: str, count: int, rate: int, tell: Connection) -> None:
    """The publisher's process: one message after the other, at even intervals."""
    tell.send(asyncio.run(_published(url, count, rate)))


async def _published(url: str, count: int, rate: int) -> tuple[list[float], list[float]]:
    called = [0.0] * count
    committed = [0.0] * count
    async with Postroad(url) as road, asyncio.TaskGroup() as group:

        async def one(number: int) -> None:
            payload = order(number)
            called[number] = time.monotonic()
            await road.publish(TOPIC, payload)
            committed[number] = time.monotonic()

        began = time.monotonic() + 0.5
        for number in range(count):
            await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
            group.create_task(one(number))
    return called, committed
