"""Bad input: each has a clear error of our own, and nothing is lost or changed by it."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from postroad import Batch, Postroad, Retention, Topic, Transaction, app
from postroad.core.delivery import Settlement
from postroad.core.transport import (
    AtomicSettle,
    Audited,
    Cancels,
    DeadLetters,
    OnceTokens,
    Source,
    SqlLog,
)
from postroad.errors import (
    DeclarationError,
    GuaranteeError,
    HandlerTypeError,
    InvalidURLError,
    MissingExtraError,
    PostroadError,
    PublishError,
    StorageBusyError,
    StorageCorruptError,
    StorageError,
    StoragePermissionError,
    UnknownTransportError,
)

SECOND = timedelta(seconds=1)


class Order(Struct):
    id: int
    customer: str = "ada"


class Invoice(Struct):
    id: int


def make_topic(**settings: Any) -> Topic[Order]:
    return Topic("orders", Order, key="customer", **settings)


def make_road(path: Path, query: str = "") -> tuple[Postroad, Topic[Order]]:
    topic = make_topic()
    road = Postroad(f"sqlite:///{path}{query}")

    @road.subscribe(topic, group="g", start="earliest")
    async def handle(order: Order) -> None: ...

    return road, topic


@asynccontextmanager
async def filled(path: Path, query: str = "", count: int = 500) -> AsyncIterator[Postroad]:
    road, topic = make_road(path, query)
    async with road:
        await road.publish_many(topic, [Order(n, "x" * 50) for n in range(count)])
        yield road


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    """No file in the folder is changed, made or removed."""
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    yield
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


# --- URLs ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "",
        "shop.db",
        "sqlite:",
        "sqlite:shop.db",
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite://host/shop.db",
        "sqlite://[::1/shop.db",
        "sqlite:///a%00b.db",
        "sqlite:///shop.db?durable=full",
        "sqlite:///shop.db?durability=maybe",
        "sqlite:///shop.db?busy=soon",
        "memory://host",
        "memory://?capacity=none",
        "memory://?capacity=1&capacity=2",
        "memory://?when_full=explode",
    ],
)
def test_a_wrong_url_is_refused_with_one_that_works(url: str) -> None:
    with pytest.raises(InvalidURLError, match=r"memory://|sqlite:///|full or normal|5s"):
        Postroad(url)


def test_an_unknown_scheme_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(UnknownTransportError, match=r"kafkaesque://.*memory://, sqlite:///"):
        Postroad("kafkaesque://host/topic")


@pytest.fixture
def no_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A road whose module imports a client library that is not installed."""
    (tmp_path / "road_without_driver.py").write_text("import no_such_driver\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    roads = {**app.TRANSPORTS, "redis+stream": ("road_without_driver", "Streams", "redis")}
    monkeypatch.setattr(app, "TRANSPORTS", roads)


@pytest.mark.usefixtures("no_driver")
def test_a_missing_extra_is_told_with_the_pip_command() -> None:
    with pytest.raises(MissingExtraError) as caught:
        Postroad("redis+stream://localhost")
    assert str(caught.value) == (
        "redis+stream:// needs no_such_driver: pip install 'postroad[redis]'"
    )


@pytest.mark.usefixtures("no_driver")
def test_a_missing_extra_does_not_stand_in_the_way_of_other_roads() -> None:
    assert set(app.catalog()) == {"memory://", "sqlite://", "postgresql://", "mysql://"}


# --- handlers --------------------------------------------------------------------------------


async def takes_another(order: Invoice) -> None: ...
async def takes_nothing() -> None: ...
async def takes_more(order: Order, database: str) -> None: ...
async def takes_unknown(order: Ordr) -> None: ...  # type: ignore[name-defined]  # noqa: F821
async def takes_one(order: Order) -> None: ...


@pytest.mark.parametrize(
    ("handler", "options", "told"),
    [
        (takes_another, {}, "takes Invoice, but topic 'orders' carries Order"),
        (takes_nothing, {}, "takes no parameter"),
        (takes_more, {}, "takes 'database', which nobody fills"),
        (takes_unknown, {}, "cannot be resolved"),
        (takes_one, {"batch": Batch()}, "annotate it as list[Order]"),
    ],
)
def test_a_handler_that_does_not_fit_is_refused_as_it_is_declared(
    handler: Callable[..., Any], options: dict[str, Any], told: str
) -> None:
    road = Postroad("memory://")
    with pytest.raises(HandlerTypeError) as caught:
        road.subscribe(make_topic(), group="g", **options)(handler)
    assert told in str(caught.value)
    assert handler.__name__ in str(caught.value)
    assert not road.subscriptions


# --- guarantees ------------------------------------------------------------------------------


async def test_an_impossible_guarantee_names_all_gaps_and_the_roads_that_could() -> None:
    road = Postroad("memory://")

    @road.subscribe(make_topic(), group="payment", start="earliest", delivery="effectively-once")
    async def charge(order: Order, tx: Transaction) -> None: ...

    with pytest.raises(GuaranteeError) as caught:
        await road.open()
    assert caught.value.roads == ("sqlite://", "postgresql://", "mysql://")
    start, delivery = caught.value.gaps
    assert start.startswith("start earliest: this road keeps no history")
    assert delivery.startswith("delivery effectively-once: needs a business database")
    assert "orders → payment" in str(caught.value)
    assert str(caught.value).endswith("Roads that could: sqlite://, postgresql://, mysql://")


async def test_what_no_road_can_is_told_as_that_and_nothing_is_created(tmp_path: Path) -> None:
    road = Postroad(f"sqlite:///{tmp_path}/shop.db")

    @road.subscribe(
        make_topic(), group="g", order="total", delivery="effectively-once", timeout=SECOND
    )
    def handle(order: Order) -> None: ...

    with pytest.raises(GuaranteeError, match="No road of this version") as caught:
        await road.open()
    assert [gap.split()[0] for gap in caught.value.gaps] == ["delivery", "order", "timeout"]
    assert listing(tmp_path) == []


async def test_a_topics_own_wishes_are_checked_too() -> None:
    road = Postroad("memory://")
    topic = make_topic(retention=Retention(age=SECOND, size=10))

    @road.subscribe(topic, group="g")
    async def handle(order: Order) -> None: ...

    with pytest.raises(GuaranteeError, match="retention age") as caught:
        await road.open()
    assert len(caught.value.gaps) == 2
    assert caught.value.roads == ("sqlite://", "postgresql://", "mysql://")
    assert [term.keeper for term in road.explain()[-1].terms] == ["road", "nobody", "nobody"]


# --- a locked database -----------------------------------------------------------------------


@contextmanager
def locked(path: Path) -> Iterator[None]:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


async def test_opening_a_locked_database_fails_after_the_busy_time(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    async with filled(path):
        pass
    road, _ = make_road(path, "?busy=100ms")
    with locked(path), pytest.raises(StorageBusyError, match=r"locked.*\?busy=") as caught:
        await road.open()
    assert caught.value.transient
    await road.close()


async def test_publishing_to_a_locked_database_fails_and_works_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    async with filled(path, "?busy=100ms") as road:
        topic: Any = road.topics["orders"]
        with locked(path), pytest.raises(PublishError) as caught:
            await road.publish(topic, Order(1))
        assert isinstance(caught.value.failed[0], StorageBusyError)
        await road.publish(topic, Order(2))
        [entry] = (await road.audit()).entries
        assert (entry.verdict, entry.pending) == ("balanced", 501)


async def test_consumers_wait_out_a_lock(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    async with filled(path, "?busy=50ms", count=20) as road:
        with locked(path):
            running = asyncio.create_task(_run_until_done(road))
            await asyncio.sleep(0.3)
            assert not running.done()
        await asyncio.wait_for(running, 20)


async def _run_until_done(road: Postroad) -> None:
    async with road.consuming():
        while (await road.audit()).entries[0].pending:  # noqa: ASYNC110 - others make it true
            await asyncio.sleep(0.01)


# --- a corrupt database, and other files -----------------------------------------------------


async def _damaged_road(path: Path, damage: Callable[[bytes], bytes]) -> Postroad:
    async with filled(path, count=3000):
        pass
    _rewrite(path, damage)
    return make_road(path)[0]


def _rewrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def _torn(whole: bytes) -> bytes:
    return whole[: len(whole) * 6 // 10]


def _scribbled(whole: bytes) -> bytes:
    return whole[:4096] + b"\xa5" * 8192 + whole[12288:]


def _text(whole: bytes) -> bytes:
    return b"id,customer\n1,ada\n" * 500


def _archive(whole: bytes) -> bytes:
    return b"PK\x03\x04" + bytes(range(256)) * 40


@pytest.mark.parametrize("damage", [_torn, _scribbled, _text, _archive])
async def test_a_file_that_is_no_sound_database_is_refused_and_left_alone(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    road = await _damaged_road(tmp_path / "shop.db", damage)
    with unchanged(tmp_path), pytest.raises(StorageCorruptError, match=r"Restore it from a copy"):
        await road.open()
    await road.close()


async def test_another_programs_database_keeps_what_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "books.db"
    with closing(sqlite3.connect(path)) as books, books:
        books.execute("CREATE TABLE books (title TEXT)")
        books.execute("INSERT INTO books VALUES ('Emma')")
    async with filled(path):
        pass
    with closing(sqlite3.connect(path)) as books:
        assert books.execute("SELECT title FROM books").fetchall() == [("Emma",)]


# --- places where nothing can be written -----------------------------------------------------


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("", "is a folder"),
        ("missing/shop.db", "does not exist; create it first"),
        ("file.txt/shop.db", "file.txt"),
    ],
)
async def test_a_place_where_no_file_can_be_is_told(tmp_path: Path, place: str, told: str) -> None:
    (tmp_path / "file.txt").write_text("a file\n")
    road, _ = make_road(tmp_path / place)
    with unchanged(tmp_path), pytest.raises(StoragePermissionError, match=told):
        await road.open()
    await road.close()


@pytest.mark.parametrize("place", ["/dev/null", "/proc/shop.db"])
async def test_a_place_that_keeps_nothing_is_refused(place: str) -> None:
    road, _ = make_road(Path(place))
    with pytest.raises(StorageError, match=place):
        await road.open()
    await road.close()


_OPEN_AS_NOBODY = """
import asyncio, os, sys
from postroad import Postroad, PostroadError

async def use(url):
    async with Postroad(url):
        pass

asyncio.run(use(sys.argv[1]))
if os.geteuid() == 0:  # whom no permission binds
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    asyncio.run(use(sys.argv[2]))
except PostroadError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("modes", [(0o444, 0o777), (0o666, 0o555)], ids=["file", "folder"])
async def test_without_the_right_to_write_opening_fails_at_once(modes: tuple[int, int]) -> None:
    # Not below tmp_path, where only its owner may go.
    with tempfile.TemporaryDirectory() as name:
        async with filled(Path(name, "shop.db")):
            pass
        folder = Path(name)
        _protect(folder, *modes)
        with unchanged(folder):
            told = await asyncio.to_thread(_open_as_nobody, folder)
        _protect(folder, 0o666, 0o777)
    assert told.startswith("StoragePermissionError")
    assert "needs to read and write" in told


def _protect(folder: Path, file_mode: int, folder_mode: int) -> None:
    for path in folder.iterdir():
        path.chmod(file_mode)
    folder.chmod(folder_mode)


def _open_as_nobody(folder: Path) -> str:
    with tempfile.TemporaryDirectory() as own:
        urls = [f"sqlite:///{own}/own.db", f"sqlite:///{folder}/shop.db"]
        command = [sys.executable, "-c", _OPEN_AS_NOBODY, *urls]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout


# --- drivers' errors -------------------------------------------------------------------------


async def test_no_drivers_error_passes_whatever_is_asked_of_a_broken_road(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    async with filled(path) as road:
        transport, topic = road._transport, road.topics["orders"]
        assert isinstance(transport, Source)
        assert isinstance(transport, Audited)
        assert isinstance(transport, Cancels)
        assert isinstance(transport, DeadLetters)
        assert isinstance(transport, OnceTokens)
        message = topic.envelope(Order(1), 0, "test")
        subscription = road.subscriptions[0].subscription
        plan = road.explain()[0].plan
        consumer = await transport.subscribe(subscription, plan)
        assert isinstance(consumer, AtomicSettle)
        assert isinstance(consumer, SqlLog)
        held = await consumer.receive(10, 1 << 20, SECOND)
        answers = [Settlement(delivery) for delivery in held]
        _drop_everything(path)
        for asked in (
            lambda: transport.publish([(topic, message)]),
            lambda: transport.publish_once("token", [(topic, message)]),
            lambda: transport.open([make_topic()], [subscription]),
            lambda: transport.subscribe(subscription, plan),
            lambda: transport.topics("#"),
            lambda: transport.browse("orders", "earliest", 10),
            lambda: transport.seek("orders", "g", "earliest"),
            lambda: transport.lag("orders", "g"),
            lambda: transport.account("orders", "g"),
            lambda: transport.groups("#"),
            lambda: transport.dead_letters("#", None, 10),
            lambda: transport.redrive(["1"]),
            lambda: transport.discard(["1"]),
            lambda: transport.cancel("1"),
            lambda: consumer.receive(10, 1 << 20, SECOND),
            lambda: consumer.extend(held),
            lambda: consumer.settle_and_publish(answers, [(topic, message)]),
            lambda: _write_in(consumer.transaction(held[0], "test")),
        ):
            with pytest.raises(PostroadError) as caught:
                await asyncio.wait_for(asked(), 10)
            assert not isinstance(caught.value, DeclarationError)
        # A failed write whose effect nobody can tell is no error: the message may come again.
        assert set(await consumer.settle(answers)) == {"unknown"}
        await consumer.close()


async def _write_in(transaction: AbstractAsyncContextManager[Transaction]) -> None:
    async with transaction as tx:
        await tx.execute("INSERT INTO nowhere VALUES (1)")


def _drop_everything(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA foreign_keys = OFF")
        tables = database.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        ).fetchall()
        for (name,) in tables:
            database.execute(f'DROP TABLE "{name}"')
