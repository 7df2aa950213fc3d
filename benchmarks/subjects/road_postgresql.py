"""Postroad on a PostgreSQL server, with its defaults, through its public API alone."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from benchmarks.subjects import postgresql
from benchmarks.subjects.order import TOPIC, OrderCreated, orders
from benchmarks.subjects.road import Counter, time_to_settle
from benchmarks.subjects.stopwatch import Stopwatch
from postroad import Postroad


def publish_many(figure: str, server: str, count: int, size: int) -> Mapping[str, float]:
    """Publish with `publish_many`, `size` messages a call."""

    async def run(url: str) -> Mapping[str, float]:
        payloads = orders(count)
        async with Postroad(url) as road:
            await road.publish_many(TOPIC, payloads[:size])
            await asyncio.to_thread(postgresql.settled, url)
            with Stopwatch() as watch:
                for start in range(0, count, size):
                    await road.publish_many(TOPIC, payloads[start : start + size])
        return {figure: count / watch.seconds}

    with postgresql.database(server) as url:
        return asyncio.run(run(url))


def publish_from_tasks(figure: str, server: str, count: int, tasks: int) -> Mapping[str, float]:
    """Publish from so many tasks, each awaiting each one."""

    async def run(url: str) -> Mapping[str, float]:
        payloads = orders(count)
        async with Postroad(url) as road:
            await road.publish(TOPIC, payloads[0])
            await asyncio.to_thread(postgresql.settled, url)

            async def publisher(mine: list[OrderCreated]) -> None:
                for payload in mine:
                    await road.publish(TOPIC, payload)

            with Stopwatch() as watch:
                await asyncio.gather(*(publisher(payloads[n::tasks]) for n in range(tasks)))
        return {figure: count / watch.seconds}

    with postgresql.database(server) as url:
        return asyncio.run(run(url))


def consume(figure: str, server: str, count: int, prefetch: int = 1000) -> Mapping[str, float]:
    """Receive, decode, call an async handler, ack, until everything is settled and committed."""

    async def run(url: str) -> Mapping[str, float]:
        counter = Counter(count)
        road = Postroad(url, hooks=counter)
        calls = 0

        @road.subscribe(TOPIC, group="all", start="earliest", prefetch=prefetch)
        async def handler(order: OrderCreated) -> None:
            nonlocal calls
            calls += 1

        async with road:
            await road.publish_many(TOPIC, orders(count))
            await asyncio.to_thread(postgresql.settled, url)
            seconds = await time_to_settle(road, counter)
        if calls != count:
            raise RuntimeError(f"{calls} calls for {count} messages")
        return {figure: count / seconds}

    with postgresql.database(server) as url:
        return asyncio.run(run(url))
