"""A process of pollers, for tests that have many of them or kill some.

Its argument is one JSON object (`Job`). What it begins and ends it writes to a file that all
processes append to, a line each; it goes on until it is ended.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import msgspec

from postroad.core.delivery import Settlement
from postroad.core.subscription import Subscription
from postroad.core.transport import Consumer, Plan
from postroad.errors import PostroadError
from postroad.transports.polling import PollingSource
from postroad.transports.polling.transport import PollingTransport

_BYTES = 1 << 20


class Job(msgspec.Struct):
    """What the process is to do.

    Attributes:
        connections: how many transports it opens, each with connections of its own.
        pollers: how many consumers poll on each.
        log: the file that is appended to.
        hold: seconds that a row is worked on, at the most.
        every: seconds between two looks.
        limit: rows at once.
        lease: in seconds.
    """

    url: str
    connections: int
    pollers: int
    log: str
    hold: float
    every: float = 0.3
    limit: int = 5
    lease: float = 60.0


class Line(NamedTuple):
    """One line of the log. `at` is nanoseconds of the machine's monotonic clock."""

    what: str
    key: int
    poller: str
    at: int


def source(every: float) -> PollingSource:
    """The orders that are polled."""
    return PollingSource(
        table="orders",
        where="status = 'ready_to_ship'",
        claim={"status": "shipping"},
        done={"status": "shipped"},
        failed={"status": "stuck"},
        every=timedelta(seconds=every),
        jitter=timedelta(seconds=every),
    )


class Log:
    """Lines that processes append to one file, each with one write."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def write(self, what: str, key: str | None, poller: str) -> None:
        """Append a line."""
        os.write(self._file, f"{what} {key} {poller} {time.monotonic_ns()}\n".encode())


def lines_of(path: str) -> list[Line]:
    """What all processes wrote, in order."""
    found = [line.split() for line in Path(path).read_text("utf-8").splitlines()]
    return [Line(what, int(key), poller, int(at)) for what, key, poller, at in found]


async def run(job: Job) -> None:
    """Poll until the process is ended."""
    log = Log(job.log)
    polled = source(job.every)
    wanted = Subscription(source=polled.topic, group="shipping")
    loops = []
    for place in range(job.connections):
        transport = PollingTransport(polled, job.url)
        await transport.open([], [wanted])
        for number in range(job.pollers):
            plan = Plan(lease=timedelta(seconds=job.lease))
            consumer = await transport.subscribe(polled.subscription(wanted), plan)
            name = f"{os.getpid()}-{place}-{number}"
            loops.append(poll(consumer, job, log, name))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.gather(*loops)


async def poll(consumer: Consumer, job: Job, log: Log, name: str) -> None:
    """Handle what comes, for ever."""
    while True:
        try:
            batch = await consumer.receive(job.limit, _BYTES, timedelta(seconds=1))
            for delivery in await consumer.begin(batch):
                log.write("begin", delivery.message.key, name)
                await asyncio.sleep(random.uniform(0, job.hold))
                log.write("end", delivery.message.key, name)
                assert await consumer.settle([Settlement(delivery)]) == ["done"]
        except PostroadError as error:
            if not error.transient:
                raise
            await asyncio.sleep(0.1)


if __name__ == "__main__":
    asyncio.run(run(msgspec.json.decode(sys.argv[1], type=Job)))
