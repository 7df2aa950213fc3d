"""The SQL road's arithmetic: rows, shares, runs, partitions, bitmaps."""

from __future__ import annotations

import itertools
import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroad.core.delivery import Delivery, Failure, Position, Settlement
from postroad.core.message import Message
from postroad.storage.migrations import migrations, split
from postroad.storage.sqlite.connection import SqliteConnection
from postroad.transports.sql.append import partition_for
from postroad.transports.sql.places import first_since
from postroad.transports.sql.rows import (
    OFFSET_BITS,
    Origins,
    attempts_in,
    envelope,
    exposed,
    failures_in,
    failures_of,
    message_of,
    place,
)
from postroad.transports.sql.sessions import quota
from postroad.transports.sql.settle import _runs

TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
MAYBE = st.none() | TEXT
MESSAGES = st.builds(
    Message,
    id=TEXT,
    type=TEXT,
    source=TEXT,
    data=st.binary(max_size=8),
    time_us=st.integers(0, 2**53),
    content_type=TEXT,
    schema=MAYBE,
    subject=MAYBE,
    key=MAYBE,
    headers=st.dictionaries(TEXT, TEXT, max_size=2),
    priority=st.integers(0, 9),
    deliver_at_us=st.none() | st.integers(0, 2**53),
    expires_at_us=st.none() | st.integers(0, 2**53),
    correlation_id=MAYBE,
    causation_id=MAYBE,
    traceparent=MAYBE,
)


def database() -> SqliteConnection:
    connection = sqlite3.connect(":memory:", factory=SqliteConnection, isolation_level=None)
    connection.memo = {}
    for script in migrations("sqlite"):
        for statement in split(script):
            connection.execute(statement)
    return connection


@given(MESSAGES)
def test_a_message_survives_its_row(message: Message) -> None:
    connection = database()
    origins = Origins()
    values = (
        message.id,
        origins.id_of(connection, message),
        message.key,
        message.time_us,
        1,
        message.expires_at_us,
        message.data,
        envelope(message),
    )
    connection.execute("INSERT INTO postroad_messages VALUES (0, ?, ?, ?, ?, ?, ?, ?, ?)", values)
    row = connection.execute("SELECT * FROM postroad_messages").fetchone()
    other = Origins()
    other.learn(connection, [row])
    connection.close()
    assert message_of(row, other.by_id[row[2]], message.priority) == message


def test_a_plain_message_has_no_envelope() -> None:
    assert envelope(Message(id="1", type="t", source="s", data=b"", time_us=0)) is None


def test_failures_pile_up() -> None:
    one, two = Failure(reason="a", detail="b"), Failure(reason="c", detail="d", at_us=5)
    message = Message(id="1", type="t", source="s", data=b"", time_us=0)
    fresh = Delivery(message=message, topic="t")
    again = Delivery(message=message, topic="t", attempts=1, failures=(one,))
    failed = Settlement(again, "nack", failure=two)
    assert (attempts_in(failed), failures_of(failures_in(failed))) == (2, (one, two))
    returned = Settlement(again, "nack")
    assert (attempts_in(returned), failures_of(failures_in(returned))) == (1, (one,))
    assert failures_in(Settlement(fresh, "nack")) is None


@given(st.integers(0, 9), st.integers(0, 2**OFFSET_BITS - 1))
def test_an_exposed_offset_leads_back(priority: int, offset: int) -> None:
    position = Position.parse(str(Position(3, exposed(offset, priority))))
    assert place(position) == (priority, offset)


@given(st.integers(1, 64), st.integers(1, 12), st.integers(0, 100))
def test_shares_are_fair_and_cover_everything(partitions: int, size: int, shift: int) -> None:
    members = list(range(10, 10 + size))
    shares = [quota(partitions, members, member, shift) for member in members]
    assert sum(shares) == partitions
    assert max(shares) - min(shares) <= 1


def test_the_larger_shares_are_spread_over_topics() -> None:
    members = [1, 2, 3]
    winners = {
        member for shift in range(3) for member in members if quota(1, members, member, shift)
    }
    assert winners == {1, 2, 3}


@given(st.sets(st.integers(0, 60)))
def test_runs_are_contiguous_and_complete(offsets: set[int]) -> None:
    runs = _runs(list(offsets))
    assert {offset for first, size in runs for offset in range(first, first + size)} == offsets
    assert all(a[0] + a[1] < b[0] for a, b in itertools.pairwise(runs))


@given(st.text(st.characters(codec="utf-8")), st.integers(1, 64))
def test_a_key_has_one_partition(key: str, partitions: int) -> None:
    found = partition_for(key, partitions)
    assert 0 <= found < partitions
    assert found == partition_for(key, partitions)


def test_keys_are_partitioned_as_ever() -> None:
    """A change here would move every key of every database."""
    assert [partition_for(key, 16) for key in ("ada", "grace", "N14228", "")] == [8, 3, 14, 0]


def test_messages_without_key_take_turns() -> None:
    assert {partition_for(None, 4) for _ in range(4)} == {0, 1, 2, 3}


@pytest.mark.parametrize("first", [0, 3])
def test_an_instant_is_found_by_halving(first: int) -> None:
    connection = database()
    times = [10, 20, 20, 30, 40, 40, 50]
    for offset, time_us in enumerate(times):
        if offset >= first:
            values = (7 << OFFSET_BITS | offset, str(offset), 0, 0, time_us, b"")
            connection.execute(
                "INSERT INTO postroad_messages VALUES (?, ?, ?, NULL, ?, ?, NULL, ?, NULL)", values
            )
    for instant in range(5, 60):
        expected = next((i for i, t in enumerate(times) if t >= instant and i >= first), 7)
        assert first_since(connection, 7, first, 7, instant) == expected
    connection.close()
