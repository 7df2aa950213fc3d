"""A quick measurement of a road from this process: what one publisher and one consumer get.

It says what to expect of a road here and now. Comparisons with other systems need more care, and
are in `benchmarks/`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from statistics import quantiles
from typing import Any

from msgspec import Struct

from postroad.app import Postroad
from postroad.core.message import new_id
from postroad.core.topic import Retention, Topic
from postroad.errors import TransportUnavailableError

_BATCH = 500
_LATENCY_RATE = 200.0
_SILENCE = timedelta(seconds=60)


@dataclass(frozen=True)
class Load:
    """What to measure with.

    Attributes:
        messages: of each phase; the latency phase takes at most ten seconds' worth of its rate.
        size: bytes of text in each payload.
        publishers: tasks that publish one message after the other.
        concurrency: handlers at once.
    """

    messages: int = 10_000
    size: int = 100
    publishers: int = 64
    concurrency: int = 64


@dataclass(frozen=True)
class Figures:
    """What came out; rates in messages per second, latencies from publish to handler."""

    road: str
    messages: int
    publish_one_by_one: float
    publish_in_batches: float
    consume: float
    latency_p50: timedelta
    latency_p99: timedelta
    latency_rate: float


class Probe(Struct):
    """The payload."""

    sent_ns: int
    text: str


async def measure(url: str, load: Load) -> Figures:
    """Publish and consume on topics of its own, named `postroad-bench.*`, whose messages go once
    they are handled; the empty topics stay.

    Raises:
        TransportUnavailableError: the road delivered nothing for a minute.
    """
    run = new_id()[-12:]
    bulk, paced = (
        Topic(f"postroad-bench.{run}.{what}", Probe, retention=Retention(consumed=True))
        for what in ("bulk", "paced")
    )
    road = Postroad(url, name="postroad-bench")
    arrivals = _Arrivals()
    for topic in (bulk, paced):
        road.subscribe(topic, group="bench", start="latest", concurrency=load.concurrency)(
            arrivals.take
        )
    async with road:
        singly = await _publish_singly(road, bulk, load)
        batched = await _publish_in_batches(road, bulk, load)
        async with _consuming(road):
            consumed = await _drain(arrivals, 2 * load.messages)
            latencies = await _pace(road, paced, load, arrivals)
    cuts = quantiles(latencies, n=100, method="inclusive")
    return Figures(
        road=road.url,
        messages=load.messages,
        publish_one_by_one=load.messages / singly,
        publish_in_batches=load.messages / batched,
        consume=2 * load.messages / consumed,
        latency_p50=timedelta(seconds=cuts[49]),
        latency_p99=timedelta(seconds=cuts[98]),
        latency_rate=_LATENCY_RATE,
    )


class _Arrivals:
    """Counts what arrives, and for how long it was under way."""

    def __init__(self) -> None:
        self.count = 0
        self.latencies: list[float] = []

    async def take(self, probe: Probe) -> None:
        self.count += 1
        self.latencies.append((time.monotonic_ns() - probe.sent_ns) / 1e9)


def _probe(load: Load) -> Probe:
    return Probe(time.monotonic_ns(), "x" * load.size)


async def _publish_singly(road: Postroad, topic: Topic[Probe], load: Load) -> float:
    left = iter(range(load.messages))

    async def publisher() -> None:
        for _ in left:
            await road.publish(topic, _probe(load))

    began = time.perf_counter()
    await asyncio.gather(*(publisher() for _ in range(load.publishers)))
    return time.perf_counter() - began


async def _publish_in_batches(road: Postroad, topic: Topic[Probe], load: Load) -> float:
    began = time.perf_counter()
    for start in range(0, load.messages, _BATCH):
        batch = [_probe(load) for _ in range(min(_BATCH, load.messages - start))]
        await road.publish_many(topic, batch)
    return time.perf_counter() - began


@asynccontextmanager
async def _consuming(road: Postroad) -> AsyncIterator[None]:
    stop = asyncio.Event()
    running = asyncio.create_task(road.run(stop=stop))
    try:
        yield
    finally:
        stop.set()
        await running


async def _drain(arrivals: _Arrivals, number: int) -> float:
    began = time.perf_counter()
    await _until(arrivals, number)
    return time.perf_counter() - began


async def _pace(road: Postroad, topic: Topic[Any], load: Load, arrivals: _Arrivals) -> list[float]:
    """Publish at a steady rate that no road is busy with; the latencies."""
    number = max(2, min(load.messages, int(10 * _LATENCY_RATE)))
    before = arrivals.count
    arrivals.latencies.clear()
    loop = asyncio.get_running_loop()
    began = loop.time()
    for at in range(number):
        await asyncio.sleep(began + at / _LATENCY_RATE - loop.time())
        await road.publish(topic, _probe(load))
    await _until(arrivals, before + number)
    return arrivals.latencies


async def _until(arrivals: _Arrivals, number: int) -> None:
    seen, since = arrivals.count, time.monotonic()
    while arrivals.count < number:
        await asyncio.sleep(0.002)
        if arrivals.count != seen:
            seen, since = arrivals.count, time.monotonic()
        elif time.monotonic() - since > _SILENCE.total_seconds():
            raise TransportUnavailableError(
                f"nothing arrived for a minute, {number - arrivals.count} messages are missing"
            )
