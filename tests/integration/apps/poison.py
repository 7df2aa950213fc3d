"""A worker that one message kills: `python -m tests.integration.apps.poison URL abort|memory`."""

from __future__ import annotations

import asyncio
import os
import resource
import sys
from datetime import timedelta

import msgspec

from postroad import Postroad, Retry, Topic
from tests.faults.memory_group import VARIABLE, join


class Job(msgspec.Struct):
    number: int
    poison: bool = False


jobs = Topic("jobs.queued", Job)
LEASE = timedelta(milliseconds=500)
RETRY = Retry(attempts=3)


def make(url: str, how: str) -> Postroad:
    road = Postroad(url)

    @road.subscribe(jobs, group="workers", retry=RETRY, lease=LEASE, concurrency=8)
    async def work(job: Job) -> None:
        if job.poison and how == "abort":
            os.abort()
        if job.poison:
            await asyncio.sleep(0)
            kill_for_memory()

    return road


def kill_for_memory() -> None:
    """Eat memory until the kernel's OOM killer ends this process; where there is no memory group,
    to the process's own limit, and end as it would."""
    eaten = []
    try:
        while True:
            eaten.append(bytearray(b"x") * (8 << 20))
    except MemoryError:
        os.kill(os.getpid(), 9)


async def main(url: str, how: str) -> None:
    group = os.environ.get(VARIABLE)
    if how == "memory" and group:
        join(group)
    elif how == "memory":
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    stop = asyncio.Event()
    road = make(url, how)
    async with road:
        running = asyncio.create_task(road.run(stop=stop))
        while True:
            await asyncio.sleep(0.05)
            entries = (await road.audit()).entries
            if running.done() or not any(entry.pending for entry in entries):
                break
        stop.set()
        await running


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
