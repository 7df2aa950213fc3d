"""Postroad on SQLite, durability=full, through its public API alone."""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.subjects.order import TOPIC, OrderCreated, orders
from benchmarks.subjects.stopwatch import Stopwatch
from postroad import Hooks, Postroad, Subscription
from postroad.storage.sqlite.connection import SqlitePlace, connect


@asynccontextmanager
async def opened(folder: str | None, groups: int = 0) -> AsyncIterator[tuple[Postroad, Path]]:
    """A new file with one topic and so many groups on it."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = Path(place) / "road.db"
        road = Postroad(f"sqlite:///{path}")
        for number in range(groups):
            road.subscribe(TOPIC, group=f"group-{number}", start="earliest")(_nothing)
        async with road:
            yield road, path


async def _nothing(order: OrderCreated) -> None:
    """The handler of every benchmark."""


# ------------------------------------------------------------------------------- publishing


def publish_from_tasks(
    figure: str, count: int, tasks: int = 1000, groups: int = 0, folder: str | None = None
) -> Mapping[str, float]:
    """Publish from so many tasks, each awaiting each one."""
    return asyncio.run(_publish_from_tasks(figure, count, tasks, groups, folder))


async def _publish_from_tasks(
    figure: str, count: int, tasks: int, groups: int, folder: str | None
) -> Mapping[str, float]:
    async with opened(folder, groups) as (road, _):
        return {figure: await rate_from_tasks(road, count, tasks)}


async def rate_from_tasks(road: Postroad, count: int, tasks: int) -> float:
    """Messages per second while so many tasks publish one after the other."""
    each = count // tasks
    payloads = orders(each * tasks)
    await road.publish(TOPIC, payloads[0])

    async def publisher(mine: list[OrderCreated]) -> None:
        for payload in mine:
            await road.publish(TOPIC, payload)

    with Stopwatch() as watch:
        await asyncio.gather(*(publisher(payloads[n::tasks]) for n in range(tasks)))
    return len(payloads) / watch.seconds


def publish_many(figure: str, count: int, folder: str | None = None) -> Mapping[str, float]:
    """Publish with one `publish_many`."""

    async def run() -> Mapping[str, float]:
        payloads = orders(count)
        async with opened(folder) as (road, _):
            await road.publish(TOPIC, payloads[0])
            with Stopwatch() as watch:
                await road.publish_many(TOPIC, payloads)
            return {figure: count / watch.seconds}

    return asyncio.run(run())


def publish_alone(figure: str, count: int, folder: str | None = None) -> Mapping[str, float]:
    """One publisher that awaits each message before it makes the next."""

    async def run() -> Mapping[str, float]:
        payloads = orders(count)
        async with opened(folder) as (road, _):
            await road.publish(TOPIC, payloads[0])
            with Stopwatch() as watch:
                for payload in payloads:
                    await road.publish(TOPIC, payload)
            return {figure: count / watch.seconds}

    return asyncio.run(run())


def stall_while_locked(
    figure: str, locked: float, folder: str | None = None
) -> Mapping[str, float]:
    """The longest pause of the event loop, in ms, while another process's stand-in holds the
    file's write lock for `locked` seconds and publishers wait for it."""

    async def run() -> Mapping[str, float]:
        async with opened(folder) as (road, path):
            await road.publish(TOPIC, orders(1)[0])
            held, free = threading.Event(), threading.Event()
            holder = threading.Thread(target=_hold, args=(path, held, free))
            holder.start()
            await asyncio.to_thread(held.wait)
            publishing = [asyncio.create_task(road.publish(TOPIC, one)) for one in orders(100)]
            longest = await _longest_pause(locked)
            waited = not any(task.done() for task in publishing)
            free.set()
            await asyncio.gather(*publishing)
            await asyncio.to_thread(holder.join)
            if not waited:
                raise RuntimeError("the lock did not hold the publishers up: nothing was measured")
            return {figure: longest * 1000}

    return asyncio.run(run())


def _hold(path: Path, held: threading.Event, free: threading.Event) -> None:
    connection = connect(SqlitePlace(path))
    connection.execute("BEGIN IMMEDIATE")
    held.set()
    free.wait()
    connection.execute("ROLLBACK")
    connection.close()


async def _longest_pause(seconds: float) -> float:
    """How late the loop was at the worst, being asked every millisecond."""
    longest, now = 0.0, time.perf_counter()
    end = now + seconds
    while now < end:
        await asyncio.sleep(0.001)
        before, now = now, time.perf_counter()
        longest = max(longest, now - before - 0.001)
    return longest


# ------------------------------------------------------------------------------- consuming


class Counter(Hooks):
    """Counts what is settled, and sets `reached` at the wanted number."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.handled = 0
        self.at_reaching = 0
        self.reached = asyncio.Event()

    def settled(self, subscription: Subscription, counts: Mapping[str, int]) -> None:
        """See `Hooks.settled`."""
        self.handled += counts.get("handled", 0)
        if self.handled >= self.wanted and not self.reached.is_set():
            self.at_reaching = self.handled
            self.reached.set()


def consume(figure: str, count: int, folder: str | None = None) -> Mapping[str, float]:
    """Receive, decode, call an async handler, ack, until everything is settled and committed."""

    async def run() -> Mapping[str, float]:
        counter = Counter(count)
        with tempfile.TemporaryDirectory(dir=folder) as place:
            road = Postroad(f"sqlite:///{Path(place) / 'road.db'}", hooks=counter)
            calls = 0

            @road.subscribe(TOPIC, group="all", start="earliest")
            async def handler(order: OrderCreated) -> None:
                nonlocal calls
                calls += 1

            async with road:
                await road.publish_many(TOPIC, orders(count))
                seconds = await time_to_settle(road, counter)
            if calls != count:
                raise RuntimeError(f"{calls} calls for {count} messages")
            return {figure: count / seconds}

    return asyncio.run(run())


async def time_to_settle(road: Postroad, counter: Counter) -> float:
    """Run the road until the counter has reached its number."""
    stop = asyncio.Event()
    with Stopwatch() as watch:
        running = asyncio.create_task(road.run(stop=stop))
        reached = asyncio.create_task(counter.reached.wait())
        await asyncio.wait({running, reached}, return_when=asyncio.FIRST_COMPLETED)
    seconds = watch.seconds
    reached.cancel()
    stop.set()
    await running
    return seconds
