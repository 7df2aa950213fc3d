"""The parts of polling a table: declaration, rows as messages, statements, timetable."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroad import Postroad
from postroad.core.external import ExternalSource
from postroad.core.filters import Exact
from postroad.core.flow import Shed
from postroad.core.message import Message
from postroad.core.subscription import Subscription
from postroad.core.topic import Topic
from postroad.errors import DeclarationError, NotSupportedError, WrongTypeError
from postroad.storage.statements import Dialect, Statement
from postroad.testing import TestRoad
from postroad.testing.clock import VirtualClock
from postroad.transports.polling import PollingSource
from postroad.transports.polling.rows import (
    instant_us,
    kept,
    key_of,
    kind_of,
    message_bytes,
    payload,
    restored,
    whole_message,
)
from postroad.transports.polling.table import Table
from postroad.transports.polling.timetable import CLAIMS_EVERY, Timetable

NAIVE = datetime.fromisoformat("2026-01-02 03:04:05")
COLUMNS = dict.fromkeys(["id", "status", "worker", "placed"], False)


def source(**changes: Any) -> PollingSource:
    fields: dict[str, Any] = {
        "table": "orders",
        "where": "status = 'ready'",
        "claim": {"status": "taken"},
        "done": {"status": "done"},
        "failed": {"status": "failed"},
    }
    return PollingSource(**(fields | changes))


# ------------------------------------------------------------ the declaration


def test_it_is_a_topic_of_the_tables_name() -> None:
    polled = source()
    assert isinstance(polled, ExternalSource)
    assert not isinstance(Topic("orders", int), ExternalSource)
    assert (polled.topic.name, polled.topic.partition_count) == ("orders", 1)
    assert source(name="orders.ready").topic.name == "orders.ready"
    assert source(table="shop.orders").topic.name == "shop.orders"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"table": 'orders"; DROP TABLE x'}, "no name of a table"),
        ({"table": "a.b.c"}, "schema.name"),
        ({"key": "id --"}, "no name of a table or column"),
        ({"claim": {"status = 1, x": 1}}, "no name of a table or column"),
        ({"columns": ["id", ""]}, "no name of a table or column"),
        ({"order_by": "x" * 64}, "at most 63"),
        ({"claim": {}}, "claim names no column"),
        ({"done": {}}, "done names no column"),
        ({"failed": {}}, "failed names no column"),
        ({"claim": {"id": 1}}, "sets the key"),
        ({"where": " "}, "one SQL condition"),
        ({"where": "1 = 1; DROP TABLE orders"}, "one SQL condition"),
        ({"every": timedelta(0)}, "must be positive"),
        ({"every": "whenever"}, "not a cron line"),
        ({"batch": 0}, "1 … 1000"),
        ({"batch": 1001}, "1 … 1000"),
        ({"jitter": timedelta(seconds=-1)}, "not be negative"),
        ({"name": "not a topic"}, "not a topic name"),
    ],
)
def test_what_cannot_work_is_refused_when_it_is_declared(
    changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(DeclarationError, match=said):
        source(**changes)


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ({"filter": Exact("subject", "x")}, "say it in `where`"),
        ({"shed": Shed("drop-oldest", above=10)}, "would be set to done"),
        ({"start": datetime(2026, 1, 1, tzinfo=UTC)}, "no history to start in"),
    ],
)
def test_wishes_that_would_set_rows_to_done_are_refused(wish: dict[str, Any], said: str) -> None:
    polled = source()
    with pytest.raises(DeclarationError, match=said):
        polled.subscription(Subscription(source=polled.topic, group="g", **wish))


def test_jitter_is_a_tenth_of_an_interval() -> None:
    assert source(every=timedelta(minutes=5)).spread == timedelta(seconds=30)
    assert source(every="0 * * * *").spread == timedelta(seconds=5)
    assert source(jitter=timedelta(0)).spread == timedelta(0)


# ------------------------------------------------------------ rows


class Row(msgspec.Struct):
    id: UUID
    total: Decimal
    paid: bool
    placed: datetime
    note: str | None = None


def test_rows_of_any_driver_fit_a_type() -> None:
    uuid = UUID(int=7)
    expected = Row(uuid, Decimal("9.90"), True, NAIVE)
    decode = source(type=Row).topic.decode
    postgresql = {
        "id": uuid,
        "total": Decimal("9.90"),
        "paid": True,
        "placed": NAIVE,
        "note": None,
    }
    sqlite = {"id": str(uuid), "total": 9.9, "paid": 1, "placed": "2026-01-02 03:04:05"}
    assert decode(payload(postgresql)) == expected
    assert decode(payload(sqlite)) == expected
    with pytest.raises(WrongTypeError):
        decode(payload({**sqlite, "total": "much"}))


def test_what_json_has_no_form_for_is_text() -> None:
    class Point:
        def __str__(self) -> str:
            return "(1,2)"

    row = {"at": date(2026, 1, 2), "raw": b"\x00\xff", "place": Point(), "tags": ["a"]}
    assert msgspec.json.decode(payload(row)) == {
        "at": "2026-01-02",
        "raw": "AP8=",
        "place": "(1,2)",
        "tags": ["a"],
    }


@pytest.mark.parametrize("key", [7, -1, 1 << 62, "", "7", "a'b %s", UUID(int=9)])
def test_a_key_comes_back_as_it_was(key: Any) -> None:
    assert key_of(str(key), kind_of(key)) == key
    assert type(key_of(str(key), kind_of(key))) is type(key)


@pytest.mark.parametrize("key", [None, 1.5, True, b"x", Decimal(1), "x" * 256])
def test_other_keys_are_refused(key: Any) -> None:
    with pytest.raises(NotSupportedError, match="at most 255 characters or UUIDs"):
        kind_of(key)


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(codec="utf-8")),
    st.binary(),
    st.decimals(allow_nan=False, allow_infinity=False),
    st.datetimes(),
    st.datetimes(timezones=st.just(UTC)),
    st.dates(),
    st.times(),
    st.timedeltas(timedelta(days=-30), timedelta(days=30)),
    st.uuids(),
)


@given(st.lists(VALUES, max_size=5))
def test_what_a_claim_overwrites_comes_back_as_it_was(values: list[Any]) -> None:
    assert restored(kept(values)) == values
    assert [type(one) for one in restored(kept(values))] == [type(one) for one in values]


def test_what_cannot_be_put_back_is_refused() -> None:
    with pytest.raises(NotSupportedError, match="claim by columns of"):
        kept([{"a": 1}])


def test_a_whole_message_is_kept() -> None:
    message = Message(
        id="1", type="t", source="s", data=b"\xff", time_us=5, key="k", headers={"a": "ä"}
    )
    assert whole_message(message_bytes(message)) == message


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (datetime.fromisoformat("1970-01-01 00:00:01"), 1_000_000),
        (datetime(1970, 1, 1, 0, 0, 1, 5, tzinfo=UTC), 1_000_005),
        ("1970-01-01 00:00:01", 1_000_000),
        ("1970-01-01T01:00:01+01:00", 1_000_000),
        (1, 1_000_000),
        (1.5, 1_500_000),
        (Decimal("1.5"), 1_500_000),
        (None, None),
        ("yesterday", None),
        (time(1, 2), None),
        (True, None),
    ],
)
def test_instants_of_any_column(value: Any, expected: int | None) -> None:
    assert instant_us(value) == expected


# ------------------------------------------------------------ statements


class Recorder:
    """A connection that remembers what it is asked."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self.asked: list[tuple[str, Sequence[Any]]] = []

    def execute(self, statement: Statement, values: Sequence[Any] = ()) -> Recorder:
        self.asked.append((statement.text(self.dialect, "qmark").sql, values))
        return self

    def fetchall(self) -> list[Any]:
        return []


@pytest.mark.parametrize(
    ("dialect", "table", "lock"),
    [
        ("sqlite", '"shop"."orders"', ""),
        ("postgresql", '"shop"."orders"', "FOR UPDATE SKIP LOCKED"),
        ("mysql", "`shop`.`orders`", "FOR UPDATE SKIP LOCKED"),
    ],
)
def test_rows_are_claimed_past_locks_with_names_quoted_and_values_bound(
    dialect: Dialect, table: str, lock: str
) -> None:
    polled = source(table="shop.orders", where="status = ?", parameters=("a'b",))
    connection: Any = Recorder(dialect)
    made = Table(polled, dialect, COLUMNS)
    made.ready(connection, "t", "g", 7)
    made.take(connection, [1, 2])
    (ready, ready_values), (take, take_values) = connection.asked
    assert ready.rstrip().endswith(f"LIMIT ? {lock}".rstrip())
    assert f"FROM {table} WHERE (status = ?\n) AND NOT EXISTS" in ready
    assert ready_values == ("a'b", "t", "g", 7)
    status = table[0] + "status" + table[0]
    key = table[0] + "id" + table[0]
    assert take == f"UPDATE {table} SET {status} = ? WHERE {table}.{key} IN (?, ?)"
    assert take_values == ("taken", 1, 2)


def test_an_empty_claim_value_is_compared_as_null() -> None:
    polled = source(claim={"status": "taken", "worker": None})
    connection: Any = Recorder("sqlite")
    Table(polled, "sqlite", COLUMNS).claimed(connection, [1])
    ((sql, values),) = connection.asked
    assert sql.rstrip().endswith('("status" = ? AND "worker" IS NULL)')
    assert values == (1, "taken")


def test_nothing_is_asked_about_nothing() -> None:
    connection: Any = Recorder("sqlite")
    table = Table(source(), "sqlite", COLUMNS)
    assert table.claimed(connection, []) == set()
    table.finish(connection, [])
    assert connection.asked == []


def test_a_column_that_is_not_there_is_named() -> None:
    with pytest.raises(DeclarationError, match="no column at, state; it has id, status"):
        Table(source(done={"state": 1}, time="at"), "sqlite", COLUMNS)


# ------------------------------------------------------------ the timetable

START = datetime(2026, 1, 1, 12, 30, tzinfo=UTC)


async def test_an_interval_begins_at_once_and_is_jittered() -> None:
    clock = VirtualClock(START)
    table = Timetable(source(every=timedelta(minutes=1), jitter=timedelta(seconds=10)), clock)
    assert table.due() == "table"
    pauses = []
    for _ in range(200):
        table.looked("table", full=False, back_in=None)
        assert table.due() is None
        pauses.append(table.pause())
        await clock.advance(timedelta(seconds=table.pause() + 1e-6))
        assert table.due() == "table"
    assert 55 <= min(pauses) < 57, "ahead by half of the jitter at the most"
    assert 63 < max(pauses) <= 65


async def test_a_full_batch_is_followed_at_once() -> None:
    clock = VirtualClock(START)
    table = Timetable(source(every=timedelta(hours=1)), clock)
    table.looked("table", full=True, back_in=None)
    assert table.due() == "table"
    table.looked("table", full=False, back_in=None)
    assert table.due() is None
    table.looked("claims", full=True, back_in=None)
    assert table.due() == "claims", "only what came back, the table has its time"


async def test_what_comes_back_is_looked_at_when_it_is_due_and_every_five_minutes() -> None:
    clock = VirtualClock(START)
    table = Timetable(source(every=timedelta(hours=10)), clock)
    table.looked("table", full=False, back_in=20.0)
    assert table.pause() == pytest.approx(20)
    table.comes_back(5.0)
    assert table.pause() == pytest.approx(5)
    table.comes_back(9.0)
    assert table.pause() == pytest.approx(5), "the earliest"
    await clock.advance(timedelta(seconds=5))
    assert table.due() == "claims"
    table.looked("claims", full=False, back_in=None)
    assert table.pause() == pytest.approx(CLAIMS_EVERY)
    table.looked("claims", full=False, back_in=4000.0)
    assert table.pause() == pytest.approx(CLAIMS_EVERY)


async def test_a_cron_line_is_followed_by_the_clock_of_the_wall() -> None:
    clock = VirtualClock(START)
    table = Timetable(source(every="0 * * * *", jitter=timedelta(0)), clock)
    assert table.due() == "claims", "what a crash left is looked at first"
    table.looked("claims", full=False, back_in=None)
    assert table.due() is None
    assert table.pause() <= 1.0, "the clock may be set"
    await clock.advance(timedelta(minutes=30))
    assert table.due() == "table"
    table.looked("table", full=False, back_in=None)
    assert table.due() is None
    await clock.advance(timedelta(minutes=59))
    assert table.due() != "table"
    await clock.advance(timedelta(minutes=1))
    assert table.due() == "table"


@pytest.mark.parametrize(
    ("ago", "due"), [(timedelta(minutes=29), False), (timedelta(minutes=31), True)]
)
def test_a_tick_that_was_missed_is_due_at_once(ago: timedelta, due: bool) -> None:
    clock = VirtualClock(START)
    table = Timetable(source(every="0 * * * *"), clock)
    table.missed(clock.now_us() - ago // timedelta(microseconds=1))
    assert (table.due() == "table") is due


# ------------------------------------------------------------ an app that polls, in a test


async def test_a_test_road_takes_rows_as_messages(tmp_path: Path) -> None:
    polled = source(type=dict[str, Any])
    url = f"sqlite:///{tmp_path}/none.db"
    road = Postroad("memory://", database=url)
    seen: list[int] = []

    @road.subscribe(polled, group="shipping")
    async def ship(order: dict[str, Any]) -> None:
        seen.append(order["id"])

    for _ in range(2):
        async with TestRoad(road) as test:
            await test.publish(polled.topic, {"id": 7})
    assert seen == [7, 7]
    assert road.subscriptions[0].transport is not None, "outside it polls as before"
    assert not (tmp_path / "none.db").exists()


async def test_a_road_hands_its_own_database_to_a_source(tmp_path: Path) -> None:
    road = Postroad(f"sqlite:///{tmp_path}/shop.db")

    @road.subscribe(source(), group="shipping")
    async def ship(order: dict[str, Any]) -> None: ...

    with pytest.raises(DeclarationError, match="no such table"):
        await road.open()
    await road.close()
    (contract,) = road.explain()[:1]
    assert contract.gaps == ()
    assert contract.subject == "orders → shipping"
