"""Declaring, checking, wiring: what a road says before and while it is used."""

from __future__ import annotations

import asyncio
import gc
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from postroad import Hooks, Postroad, Retention, Topic, Transaction
from postroad.app import TRANSPORTS, catalog, connect, mask
from postroad.core.clock import SystemClock
from postroad.errors import (
    ClosedError,
    DeclarationError,
    GuaranteeError,
    HandlerTypeError,
    InvalidURLError,
    MissingExtraError,
    NotSupportedError,
    StorageCorruptError,
    StorageError,
    UnknownTransportError,
)


class Job(Struct):
    n: int


class Other(Struct):
    n: int


def jobs(name: str = "jobs", **settings: Any) -> Topic[Job]:
    return Topic(name, Job, **settings)


async def nothing(job: Job) -> None: ...


@pytest.fixture
def road() -> Postroad:
    return Postroad("memory://")


# ------------------------------------------------------------------ URLs


@pytest.mark.parametrize("url", ["", "shop.db", "memory", "memory:", "://", "memory://host"])
def test_what_is_no_url_of_a_road(url: str) -> None:
    with pytest.raises((InvalidURLError, UnknownTransportError)):
        Postroad(url)


def test_an_unknown_scheme_lists_the_known_ones() -> None:
    with pytest.raises(UnknownTransportError) as caught:
        Postroad("carrier-pigeon://loft")
    assert all(scheme in str(caught.value) for scheme in TRANSPORTS)


def test_a_missing_client_library_names_the_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = {**TRANSPORTS, "pigeon": ("no_such_library_of_ours", "Pigeon", "pigeon")}
    monkeypatch.setattr("postroad.app.TRANSPORTS", missing)
    with pytest.raises(MissingExtraError, match=r"pip install 'postroad\[pigeon\]'"):
        connect("pigeon://loft", SystemClock())
    assert set(catalog()) == {f"{scheme}://" for scheme in TRANSPORTS}


def test_a_password_is_never_shown() -> None:
    assert mask("amqp://ada:secret@host/v?x=1") == "amqp://ada:***@host/v?x=1"
    assert mask("sqlite:///shop.db") == "sqlite:///shop.db"
    with pytest.raises(UnknownTransportError) as caught:
        Postroad("pigeon://ada:hunter2@loft")
    assert "hunter2" not in str(caught.value)


# ------------------------------------------------------------------ declaring


def test_declaring_costs_no_io(tmp_path: Path) -> None:
    road = Postroad(f"sqlite:///{tmp_path}/x.db")
    road.subscribe(jobs(), group="g")(nothing)
    road.check()
    assert road.explain()
    assert list(tmp_path.iterdir()) == []


def test_a_handler_is_checked_when_it_is_declared(road: Postroad) -> None:
    async def wrong(other: Other) -> None: ...

    with pytest.raises(HandlerTypeError):
        road.subscribe(jobs(), group="g")(wrong)
    assert road.subscriptions == []


def test_a_topic_is_declared_once(road: Postroad) -> None:
    road.subscribe(jobs(), group="g")(nothing)
    with pytest.raises(DeclarationError, match="twice"):
        road.subscribe(jobs(), group="h")(nothing)


def test_schedules_need_names_of_their_own(road: Postroad) -> None:
    def tick() -> None: ...

    assert road.every(timedelta(seconds=1))(tick) is tick
    with pytest.raises(DeclarationError, match="name="):
        road.every(timedelta(seconds=2))(tick)
    road.every("*/5 * * * *", name="another")(tick)


async def test_impossible_wishes_are_refused_before_anything_is_created() -> None:
    road = Postroad("memory://")

    async def book(job: Job, tx: Transaction) -> None: ...

    road.subscribe(jobs(), group="g", delivery="effectively-once")(book)
    with pytest.raises(GuaranteeError) as caught:
        await road.open()
    assert caught.value.roads
    assert "memory://" not in caught.value.roads
    with pytest.raises(ClosedError):
        await road.topic_infos()


def test_explaining_shows_gaps_and_raises_nothing(road: Postroad) -> None:
    topic = jobs(retention=Retention(age=timedelta(days=1)))
    road.subscribe(topic, group="g", start="earliest")(nothing)
    gaps = [contract.gaps for contract in road.explain()]
    assert [len(found) for found in gaps] == [1, 1]
    with pytest.raises(GuaranteeError):
        road.check()


# ------------------------------------------------------------------ observers


class Told(Hooks):
    def __init__(self) -> None:
        self.errors: list[str] = []

    def observer_failed(self, topic: str, observer: str, error: Exception) -> None:
        self.errors.append(f"{topic} {error}")


async def test_observers_get_the_object_and_their_errors_reach_nobody() -> None:
    told = Told()
    road = Postroad("memory://", hooks=told)
    topic = jobs()
    seen: list[Any] = []

    @road.observe(topic)
    def broken(job: Job) -> None:
        raise ValueError("mine")

    @road.observe("jobs")
    async def observer(job: Job) -> None:
        seen.append(job)

    async with road:
        job = Job(1)
        await road.publish(topic, job)
        await road.publish_many(topic, [job, job])
        with pytest.raises(NotSupportedError, match="delayed"):
            await road.publish(topic, job, delay=timedelta(seconds=1))
    assert len(seen) == 3
    assert all(found is job for found in seen)
    assert told.errors == ["jobs mine"] * 3


async def test_an_observing_method_goes_with_its_object(road: Postroad) -> None:
    topic = jobs()
    seen: list[int] = []

    class Screen:
        def show(self, job: Job) -> None:
            seen.append(job.n)

    screen = Screen()
    road.observe(topic)(screen.show)
    async with road:
        await road.publish(topic, Job(1))
        del screen
        gc.collect()
        await road.publish(topic, Job(2))
    assert seen == [1]


async def test_an_observed_topic_still_reaches_its_groups(road: Postroad) -> None:
    topic = jobs()
    observed: list[int] = []
    handled = asyncio.Event()

    @road.observe(topic)
    def observer(job: Job) -> None:
        observed.append(job.n)

    @road.subscribe(topic, group="g")
    async def handler(job: Job) -> None:
        handled.set()

    async with road, road.consuming():
        await road.publish(topic, Job(1))
        await asyncio.wait_for(handled.wait(), 5)
    assert observed == [1]


def test_observers_belong_to_one_process(tmp_path: Path) -> None:
    road = Postroad(f"sqlite:///{tmp_path}/x.db")
    with pytest.raises(DeclarationError, match="group=None"):
        road.observe(jobs())(nothing)
    with pytest.raises(NotSupportedError):
        _ = Postroad("memory://").sync


# ------------------------------------------------------------------ life


async def test_consuming_inside_an_open_road_leaves_it_open(road: Postroad) -> None:
    topic = jobs()
    road.subscribe(topic, group="g")(nothing)
    async with road:
        async with road.consuming():
            await road.publish(topic, Job(1))
        await road.publish(topic, Job(2))
    with pytest.raises(ClosedError):
        await road.publish(topic, Job(3))


async def test_consuming_opens_and_closes_a_road_that_was_not(road: Postroad) -> None:
    topic = jobs()
    async with road.consuming():
        await road.publish(topic, Job(1))
    with pytest.raises(ClosedError):
        await road.publish(topic, Job(2))


async def test_the_blocks_own_error_passes_unwrapped(road: Postroad) -> None:
    road.subscribe(jobs(), group="g")(nothing)

    async def fail() -> None:
        async with road.consuming():
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await fail()


async def test_a_failed_subscription_ends_run_and_block(
    road: Postroad, monkeypatch: pytest.MonkeyPatch
) -> None:
    road.subscribe(jobs(), group="g")(nothing)

    async def broken(*args: Any) -> Any:
        raise StorageCorruptError("gone")

    monkeypatch.setattr(road._transport, "subscribe", broken)
    with pytest.raises(StorageCorruptError):
        await asyncio.wait_for(road.run(), 5)

    async def block() -> None:
        async with road.consuming():
            await asyncio.sleep(60)

    with pytest.raises(StorageCorruptError):
        await asyncio.wait_for(block(), 5)


async def test_a_run_without_work_waits_for_its_stop(road: Postroad) -> None:
    stop = asyncio.Event()
    run = asyncio.create_task(road.run(stop=stop))
    await asyncio.sleep(0.01)
    assert not run.done()
    stop.set()
    await asyncio.wait_for(run, 5)


async def test_a_cancelled_run_drains_first(road: Postroad) -> None:
    topic = jobs()
    started, finished = asyncio.Event(), asyncio.Event()

    @road.subscribe(topic, group="g")
    async def handler(job: Job) -> None:
        started.set()
        await asyncio.sleep(0.05)
        finished.set()

    async with road:
        await road.publish(topic, Job(1))
        run = asyncio.create_task(road.run())
        await asyncio.wait_for(started.wait(), 5)
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)
        assert run.cancelled()
        assert finished.is_set()
        assert (await road.audit()).verdict == "balanced"


async def test_a_road_consumes_once_at_a_time() -> None:
    road, seen, stop = Postroad("memory://"), list[int](), asyncio.Event()
    topic = jobs()

    @road.subscribe(topic, group="g")
    async def work(job: Job) -> None:
        seen.append(job.n)

    async with asyncio.timeout(10):
        running = asyncio.create_task(road.run(stop=stop))
        await asyncio.sleep(0)
        with pytest.raises(DeclarationError, match="consumes already"):
            await road.run()
        with pytest.raises(DeclarationError, match="consumes already"):
            async with road.consuming():
                pytest.fail("the block was entered")
        await road.open()
        await road.publish(topic, Job(1))
        await road.settled()
        stop.set()
        await running
        async with road.consuming():
            await road.publish(topic, Job(2))
            await road.settled()
    assert seen == [1, 2], "the first went on, and another may follow it"


# ------------------------------------------------------------------ the business database


def places(road: Postroad) -> tuple[str | None, str | None]:
    """(the database beside the road, the road as a database), by name."""
    inbox, business = road._inbox, road._business
    beside = None if inbox is None else inbox.place.name
    return beside, None if business is None else business.name


def test_the_business_database_is_the_roads_own_where_that_is_one(tmp_path: Path) -> None:
    file, other = f"{tmp_path}/a.db", f"{tmp_path}/b.db"
    own = f"sqlite:///{file}"
    assert places(Postroad(own)) == (None, file)
    assert places(Postroad(own, database=f"{own}?durability=normal")) == (None, file)
    assert places(Postroad(own, database=f"sqlite:///{other}")) == (other, file)
    assert places(Postroad("memory://")) == (None, None)
    assert places(Postroad("memory://", database=own)) == (file, None)


def test_on_a_server_another_schema_is_another_database() -> None:
    url = "postgresql://user@127.0.0.1:5432/shop"
    assert places(Postroad(url, database=url))[0] is None
    assert places(Postroad(url, database="postgresql://other@127.0.0.1:5432/shop"))[0] is None
    for other in (f"{url}?schema=books", "postgresql://user@127.0.0.1:5432/books"):
        assert places(Postroad(url, database=other))[0] is not None


@pytest.mark.parametrize("url", ["redis://localhost", "shop.db", "memory://", "sqlite://"])
def test_a_database_that_is_none_is_refused_at_once(url: str) -> None:
    with pytest.raises(InvalidURLError):
        Postroad("memory://", database=url)


async def test_the_database_is_opened_and_closed_with_the_road(tmp_path: Path) -> None:
    file = tmp_path / "shop.db"
    road = Postroad("memory://", database=f"sqlite:///{file}")
    assert not file.exists()
    assert road._inbox is not None
    async with road:
        assert file.exists()
        await road._inbox.database.read(lambda c: c.execute("SELECT 1").fetchone())
    with pytest.raises(ClosedError):
        _ = road._inbox.database


async def test_a_database_that_cannot_be_opened_closes_what_was(tmp_path: Path) -> None:
    road = Postroad("memory://", database=f"sqlite:///{tmp_path}/no/such/folder/shop.db")
    with pytest.raises(StorageError, match="does not exist"):
        await road.open()
    with pytest.raises(ClosedError):
        await road.publish(jobs(), Job(1))


async def test_a_road_that_cannot_be_opened_keeps_no_database_open(tmp_path: Path) -> None:
    (tmp_path / "road.db").write_bytes(b"no database at all, but long enough to be read" * 20)
    road = Postroad(f"sqlite:///{tmp_path}/road.db", database=f"sqlite:///{tmp_path}/shop.db")
    with pytest.raises(StorageCorruptError):
        await road.open()
    assert road._inbox is not None
    with pytest.raises(ClosedError):
        _ = road._inbox.database
