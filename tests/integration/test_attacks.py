"""What somebody would try in order to lose, repeat or stop something, on both roads."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from postroad import Batch, Hooks, Later, PartialFailure, Postroad, Retry, Topic, Transaction
from postroad.core.partitioner import partition_of
from postroad.delivery.audit import Entry


class Job(msgspec.Struct):
    number: int


jobs = Topic("jobs.queued", Job)
AT_ONCE = Retry(attempts=2, backoff="immediate")


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path / 'jobs.db'}"


@asynccontextmanager
async def consuming(road: Postroad, numbers: range) -> AsyncIterator[None]:
    """Publish, consume until nothing is pending, run the block, stop."""
    async with asyncio.timeout(30), road.consuming():
        await road.publish_many(jobs, map(Job, numbers))
        await road.settled()
        yield


async def only_entry(road: Postroad) -> Entry:
    (entry,) = (await road.audit("jobs.queued")).entries
    assert entry.verdict == "balanced"
    return entry


class Unprintable(Exception):
    def __str__(self) -> str:
        raise KeyError("no text")


def too_late(job: Job) -> None:
    raise Later(timedelta.max)


def half_a_pair(job: Job) -> None:
    raise FileNotFoundError("report-\udcff.txt")


def unprintable(job: Job) -> None:
    raise Unprintable


def unstorable(job: Job) -> Any:
    return Topic("results.made", dict).message({}, _options(key="\ud800"))


def wrong_result(job: Job) -> Any:
    return job.number > 0


def _options(**options: Any) -> Any:
    from postroad import Options

    return Options(**options)


@pytest.mark.parametrize("attack", [half_a_pair, unprintable, unstorable, wrong_result])
async def test_one_message_cannot_end_its_subscription(
    url: str, attack: Callable[[Job], Any]
) -> None:
    road, calls, handled = Postroad(url), 0, list[int]()

    @road.subscribe(jobs, group="g", retry=AT_ONCE)
    async def work(job: Job) -> Any:
        nonlocal calls
        if job.number == 7:
            calls += 1
            return attack(job)
        handled.append(job.number)
        return None

    async with consuming(road, range(20)):
        (letter,) = await road.dead_letters.list()
        assert (await only_entry(road)).account is not None
    assert sorted(handled) == [number for number in range(20) if number != 7]
    # A wrong result is no bad luck: the handler's effects are not repeated for it.
    wrong = attack in (wrong_result, unstorable)
    assert calls == (1 if wrong else 2)
    assert letter.failures[-1].reason == ("unencodable" if attack is unstorable else "exception")


async def test_later_for_ever_is_waiting(url: str) -> None:
    road, calls = Postroad(url), asyncio.Event()

    @road.subscribe(jobs, group="g", retry=AT_ONCE)
    async def work(job: Job) -> None:
        calls.set()
        too_late(job)

    async with asyncio.timeout(10), road.consuming():
        await road.publish(jobs, Job(1))
        await calls.wait()
        while (entry := (await road.audit("jobs.queued")).entries[0]).pending != 1:  # noqa: ASYNC110 - others make it true
            await asyncio.sleep(0.01)
        assert entry.verdict == "balanced"


class WildCodec:
    content_type = "application/x-wild"

    def encode(self, payload: int) -> bytes:
        return str(payload).encode()

    def decode(self, data: bytes) -> int:
        if data == b"7":
            raise ZeroDivisionError
        return int(data)


@pytest.mark.parametrize("batch", [None, Batch(size=5)])
async def test_a_codec_that_raises_costs_its_message_only(url: str, batch: Batch | None) -> None:
    numbers = Topic("numbers.drawn", int, codec=WildCodec())
    road, handled = Postroad(url), list[int]()

    @road.subscribe(numbers, group="g", batch=batch)
    async def work(found: Any) -> None:
        handled.extend(found if batch else [found])

    async with asyncio.timeout(20), road.consuming():
        await road.publish_many(numbers, range(20))
        await road.settled()
        (letter,) = await road.dead_letters.list()
    assert letter.failures[-1].reason == "undecodable"
    assert sorted(handled) == [number for number in range(20) if number != 7]


@pytest.mark.parametrize("index", [-1, 3])
async def test_an_index_beyond_its_batch_acknowledges_nothing(url: str, index: int) -> None:
    road = Postroad(url)

    @road.subscribe(jobs, group="g", batch=Batch(size=3), retry=AT_ONCE)
    async def work(found: list[Job]) -> None:
        raise PartialFailure({index: ValueError("one too far")})

    async with consuming(road, range(3)):
        assert len(await road.dead_letters.list()) == 3


async def test_no_worker_idles_beside_a_backlog(url: str) -> None:
    road, release, quick = Postroad(url), asyncio.Event(), list[int]()

    @road.subscribe(jobs, group="g", concurrency=10)
    async def work(job: Job) -> None:
        if job.number < 6:
            await release.wait()
        else:
            quick.append(job.number)

    async with asyncio.timeout(20), road.consuming():
        await road.publish_many(jobs, map(Job, range(40)))
        while len(quick) < 34:  # noqa: ASYNC110 - others make it true
            await asyncio.sleep(0.01)
        release.set()
        await road.settled()


async def test_a_busy_database_costs_no_attempt(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    road, handled = Postroad(f"sqlite:///{path}?busy=0.2s"), list[int]()

    @road.subscribe(
        jobs, group="g", delivery="effectively-once", retry=Retry(attempts=1), concurrency=2
    )
    async def work(job: Job, tx: Transaction) -> None:
        await tx.execute("create table if not exists done (number integer)")
        await tx.execute("insert into done values (?)", (job.number,))
        handled.append(job.number)

    async with asyncio.timeout(30), road:
        await road.publish_many(jobs, map(Job, range(3)))
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("begin immediate")
        stop = asyncio.Event()
        running = asyncio.create_task(road.run(stop=stop))
        await asyncio.sleep(1)
        other.execute("rollback")
        await road.settled()
        stop.set()
        await running
        assert not await road.dead_letters.list()
        assert other.execute("select count(*) from done").fetchone() == (3,)
    other.close()


async def test_fire_and_forget_leaves_the_loop_its_turn(url: str) -> None:
    hints = Topic("hints.given", Job, publish="fire-and-forget")
    road, beats, published = Postroad(url), 0, 0

    class Counting(Hooks):
        def published(self, topic: str, count: int) -> None:
            nonlocal published
            published += count

    road.hooks.hooks.append(Counting())

    async def beat() -> None:
        nonlocal beats
        while True:
            beats += 1
            await asyncio.sleep(0)

    async with asyncio.timeout(60):
        async with road:
            heart = asyncio.create_task(beat())
            for number in range(30_000):
                await road.publish(hints, Job(number))
            during = beats
            heart.cancel()
        assert during >= 20
    assert published == 30_000, "what was posted before the close is sent"


async def test_a_task_of_a_transaction_may_publish_after_it(tmp_path: Path) -> None:
    road, seen, tasks = Postroad(f"sqlite:///{tmp_path / 'jobs.db'}"), list[str](), []
    notes = Topic("notes.taken", Job)

    @road.subscribe(jobs, group="g", delivery="effectively-once")
    async def work(job: Job, tx: Transaction) -> None:
        done = asyncio.Event()
        tasks.append((done, asyncio.create_task(afterwards(done))))

    async def afterwards(done: asyncio.Event) -> None:
        await done.wait()
        await road.publish(notes, Job(1))
        seen.append("published")

    async with asyncio.timeout(20), road.consuming():
        await road.publish(jobs, Job(1))
        await road.settled()
        for done, task in tasks:
            done.set()
            await task
    assert seen == ["published"]


async def test_a_tick_that_cannot_be_published_harms_nobody(url: str) -> None:
    road, ticks, handled = Postroad(url), 0, asyncio.Event()
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)

    @road.every(timedelta(milliseconds=20))
    def wrong() -> Any:
        nonlocal ticks
        ticks += 1
        return jobs.message("no job")  # type: ignore[arg-type]

    @road.subscribe(jobs, group="g")
    async def work(job: Job) -> None:
        handled.set()

    async with asyncio.timeout(10), road.consuming():
        while ticks < 3:  # noqa: ASYNC110 - others make it true
            await asyncio.sleep(0.01)
        await road.publish(jobs, Job(1))
        await handled.wait()


@pytest.mark.parametrize(("blocked", "size"), [(1, 1000), (12, 0)])
async def test_blocked_keys_leave_room_for_the_others(url: str, blocked: int, size: int) -> None:
    topic = Topic("parcels.sent", Parcel, key="key")
    road, healthy, down = Postroad(url), set[str](), True

    @road.subscribe(
        topic,
        group="g",
        order="key",
        retry=Retry(attempts=1000, backoff="fixed", first=timedelta(milliseconds=50)),
        prefetch_bytes=64_000,
        prefetch=200,
    )
    async def work(parcel: Parcel) -> None:
        if parcel.key.startswith("ok"):
            healthy.add(parcel.key)
        elif down:
            raise ConnectionError

    pad = "x" * size
    async with asyncio.timeout(30), road.consuming():
        for key in range(blocked):
            await road.publish_many(topic, [Parcel(f"bad-{key}", pad) for _ in range(90)])
        await road.publish_many(topic, [Parcel(f"ok-{n}", pad) for n in range(50)])
        # Keys that share a partition with a blocked one wait once that is full: by design.
        reachable = {f"ok-{n}" for n in range(50)} - shadowed(topic.partition_count, blocked)
        while not reachable <= healthy:  # noqa: ASYNC110 - others make it true
            await asyncio.sleep(0.01)
        down = False
        await road.settled()
    assert len(healthy) == 50


class Parcel(msgspec.Struct):
    key: str
    pad: str


def shadowed(partitions: int, blocked: int) -> set[str]:
    bad = {partition_of(f"bad-{key}", partitions) for key in range(blocked)}
    return {f"ok-{n}" for n in range(50) if partition_of(f"ok-{n}", partitions) in bad}
