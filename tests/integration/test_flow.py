"""Rate limits, breakers and shedding, on both roads."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from postroad import Breaker, Postroad, Rate, Retry, Shed, Topic
from postroad.errors import GuaranteeError


class Job(msgspec.Struct):
    number: int


jobs = Topic("jobs.queued", Job)


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path / 'jobs.db'}"


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - others make it true
            await asyncio.sleep(0.005)


async def test_a_consumer_keeps_to_its_rate(url: str) -> None:
    road, seen = Postroad(url), list[float]()

    @road.subscribe(jobs, group="g", rate=Rate(100, burst=5))
    async def work(job: Job) -> None:
        seen.append(time.monotonic())

    async with road.consuming():
        await road.publish_many(jobs, map(Job, range(60)))
        await until(lambda: len(seen) == 60)
    # 5 at once, then 100 a second: the last of 60 cannot start before 0.55 s.
    assert seen[-1] - seen[0] >= 0.5
    assert max(Counter(int((at - seen[0]) * 10) for at in seen).values()) <= 5 + 10 + 2


async def test_a_group_shares_its_rate(url: str) -> None:
    seen: list[float] = []

    def bind(road: Postroad) -> None:
        @road.subscribe(jobs, group="g", rate=Rate(100, burst=5, shared=True))
        async def work(job: Job) -> None:
            seen.append(time.monotonic())

    roads = [Postroad(url)] if url.startswith("memory") else [Postroad(url), Postroad(url)]
    for road in roads:
        bind(road)
    if len(roads) == 1:
        bind(roads[0])
    stop = asyncio.Event()
    for road in roads:
        await road.open()
    running = [asyncio.create_task(road.run(stop=stop)) for road in roads]
    await roads[0].publish_many(jobs, map(Job, range(80)))
    await until(lambda: len(seen) == 80)
    stop.set()
    await asyncio.gather(*running)
    for road in roads:
        await road.close()
    # Two consumers with a rate each would need half of this.
    assert seen[-1] - seen[0] >= 0.6


def test_a_shared_rate_needs_a_group() -> None:
    road = Postroad("memory://")

    @road.subscribe(jobs, group=None, rate=Rate(10, shared=True))
    async def work(job: Job) -> None: ...

    with pytest.raises(GuaranteeError, match="rate"):
        road.check()


@pytest.mark.parametrize("order", ["none", "total"])
async def test_a_breaker_burns_no_attempts(url: str, order: str) -> None:
    road, down, calls, done = Postroad(url), True, 0, set[int]()

    @road.subscribe(
        jobs,
        group="g",
        order=order,  # type: ignore[arg-type]
        concurrency=4,
        retry=Retry(attempts=4, backoff="immediate"),
        breaker=Breaker(on=(ConnectionError,), after=3, pause=timedelta(milliseconds=40)),
    )
    async def work(job: Job) -> None:
        nonlocal calls
        calls += 1
        if down:
            raise ConnectionError("the insurer is down")
        done.add(job.number)

    async with road.consuming():
        await road.publish_many(jobs, map(Job, range(20)))
        await until(lambda: calls >= 8)
        await asyncio.sleep(0.3)
        probes = calls
        assert probes <= 20, "a breaker that is open lets one message through at a time"
        down = False
        await until(lambda: len(done) == 20)
        assert not await road.dead_letters.list(), "nothing died of the downstream's failure"
        (entry,) = (await road.audit()).entries
    assert entry.verdict == "balanced"


async def test_a_message_that_alone_breaks_its_downstream_dies(url: str) -> None:
    road, done = Postroad(url), list[int]()

    @road.subscribe(
        jobs,
        group="g",
        concurrency=1,
        retry=Retry(attempts=3, backoff="immediate"),
        breaker=Breaker(after=5, pause=timedelta(seconds=5)),
    )
    async def work(job: Job) -> None:
        if job.number == 3:
            raise ConnectionError("only ever for this one")
        done.append(job.number)

    async with road.consuming():
        await road.publish_many(jobs, map(Job, range(10)))
        await until(lambda: len(done) == 9)
        async with asyncio.timeout(10):
            while not await road.dead_letters.list():  # noqa: ASYNC110 - others make it true
                await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("shed", "kept"),
    [
        # 1,000 wait, 100 of them may: 900 are up for it, of which 100 have a high priority.
        (Shed("drop-oldest", above=100), range(100, 101)),
        (Shed("drop-low-priority", above=100, below=5), range(200, 201)),
        (Shed("sample", above=100, keep=0.5), range(400, 700)),
    ],
)
async def test_overload_is_shed_and_counted(url: str, shed: Shed, kept: range) -> None:
    road, handled = Postroad(url), 0

    @road.subscribe(jobs, group="g", shed=shed, prefetch=50)
    async def work(job: Job) -> None:
        nonlocal handled
        handled += 1

    async with road:
        await road.publish_many(jobs, map(Job, range(900)))
        high = 9 if shed.policy == "drop-low-priority" else 0
        await road.publish_many(jobs, map(Job, range(100)), priority=high)
        stop = asyncio.Event()
        running = asyncio.create_task(road.run(stop=stop))
        async with asyncio.timeout(20):
            await road.settled()
        stop.set()
        await running
        (entry,) = (await road.audit()).entries
    assert entry.account is not None
    outcomes = entry.account.outcomes
    assert outcomes["handled"] == handled
    assert outcomes["handled"] + outcomes["shed"] == 1000
    assert handled in kept, f"{handled} handled, {outcomes['shed']} shed"
    assert entry.verdict == "balanced"
