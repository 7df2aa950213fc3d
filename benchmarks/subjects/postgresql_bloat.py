"""A queue that millions of messages go through: how large its tables are, and how long `receive`
takes, from the first million to the last."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from datetime import timedelta
from statistics import quantiles

import psycopg

from benchmarks.subjects import postgresql
from benchmarks.subjects.order import OrderCreated, orders
from postroad import Postroad, Retention, Topic
from postroad.core.delivery import Settlement
from postroad.core.subscription import Subscription
from postroad.core.transport import Plan
from postroad.transports.sql import SqlTransport

QUEUE: Topic[OrderCreated] = Topic("orders.queue", OrderCreated, retention=Retention(consumed=True))
PARTS = 10
_GROUP = "all"
_CHUNK = 1000
_AHEAD = 20_000
"""Messages that the publisher may be ahead of the consumer."""
_SIZES = (
    "SELECT relname, pg_total_relation_size(oid) FROM pg_class "
    "WHERE relkind = 'r' AND relname LIKE 'postroad%'"
)


@dataclass
class Part:
    """A tenth of all messages.

    Attributes:
        sizes: bytes of every table, with its indexes, at the part's end.
        times: seconds of every `receive` that returned messages.
    """

    sizes: dict[str, int] = field(default_factory=dict)
    times: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def size(self) -> float:
        """MiB of all tables together."""
        return sum(self.sizes.values()) / (1 << 20)

    @property
    def late(self) -> float:
        """ms; the 99th percentile of `receive`."""
        return quantiles(self.times, n=100)[98] * 1000


def through(server: str, count: int, limit: int) -> list[Part]:
    """Publish and consume so many messages at the same time, as fast as it goes, at most `limit`
    a `receive`; what happened in each tenth."""
    with postgresql.database(server) as url:
        return asyncio.run(_through(url, count, limit))


async def _through(url: str, count: int, limit: int) -> list[Part]:
    transport = SqlTransport(url)
    subscription = Subscription(source=QUEUE, group=_GROUP, start="earliest")
    await transport.open([QUEUE], [subscription])
    consumer = await transport.subscribe(subscription, Plan())
    parts = [Part() for _ in range(PARTS)]
    each, done = count // PARTS, 0
    room = asyncio.Semaphore(_AHEAD // _CHUNK)
    publishing = asyncio.create_task(_publish(url, count, room))
    began = time.perf_counter()
    try:
        for part in parts:
            end = done + each
            while done < end:
                before = time.perf_counter()
                found = await consumer.receive(limit, 64 << 20, timedelta(seconds=10))
                if found:
                    part.times.append(time.perf_counter() - before)
                elif publishing.done():
                    publishing.result()
                    raise RuntimeError(f"{done} of {count} messages arrived")
                await consumer.settle([Settlement(delivery) for delivery in found])
                for _ in range((done + len(found)) // _CHUNK - done // _CHUNK):
                    room.release()
                done += len(found)
            part.seconds, began = time.perf_counter() - began, time.perf_counter()
            part.sizes = await asyncio.to_thread(_sizes, url)
        await publishing
    finally:
        publishing.cancel()
        await asyncio.gather(publishing, return_exceptions=True)
        await transport.close()
    return parts


async def _publish(url: str, count: int, room: asyncio.Semaphore) -> None:
    payloads = orders(_CHUNK)
    async with Postroad(url) as road:
        for _ in range(count // _CHUNK):
            await room.acquire()
            await road.publish_many(QUEUE, payloads)


def _sizes(url: str) -> dict[str, int]:
    with psycopg.connect(url) as connection:
        return {str(name): int(size) for name, size in connection.execute(_SIZES).fetchall()}


def table(parts: list[Part], count: int) -> str:
    """What happened, as Markdown."""
    each = count // PARTS
    largest = sorted(parts[-1].sizes, key=lambda name: -parts[-1].sizes[name])[:4]
    heads = ["messages", "messages/s", "p99 of receive, ms", "all tables, MiB"]
    heads += [name.removeprefix("postroad_") for name in largest]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---:|" * len(heads)]
    for number, part in enumerate(parts, 1):
        cells = [
            f"{number * each:,}",
            f"{each / part.seconds:,.0f}",
            f"{part.late:.1f}",
            f"{part.size:.1f}",
            *(f"{part.sizes[name] / (1 << 20):.1f}" for name in largest),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
