"""An outbox table that is there already, of the shape that the books have: unchanged."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from postroad.delivery.outbox import Outbox, OutboxTable
from postroad.errors import EncodeError
from tests.integration.outbox_world import (
    KINDS,
    ORDERS,
    QUICK,
    Business,
    Order,
    Road,
    connect,
    query,
    transaction,
    until,
    url_of,
)

TABLES = {
    "sqlite": "CREATE TABLE outbox (id TEXT PRIMARY KEY, aggregate_type TEXT NOT NULL, "
    "aggregate_id TEXT NOT NULL, event_type TEXT NOT NULL, payload TEXT NOT NULL, "
    "created_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, "
    "processed BOOLEAN NOT NULL DEFAULT FALSE, processed_at TIMESTAMP)",
    "postgresql": "CREATE TABLE outbox (id uuid PRIMARY KEY, aggregate_type varchar(100) NOT NULL, "
    "aggregate_id varchar(100) NOT NULL, event_type varchar(100) NOT NULL, payload jsonb NOT NULL, "
    "created_at timestamptz NOT NULL DEFAULT now(), processed boolean NOT NULL DEFAULT FALSE, "
    "processed_at timestamptz)",
    "mariadb": "CREATE TABLE outbox (id CHAR(36) PRIMARY KEY, "
    "aggregate_type VARCHAR(100) NOT NULL, aggregate_id VARCHAR(100) NOT NULL, "
    "event_type VARCHAR(100) NOT NULL, payload JSON NOT NULL, "
    "created_at TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6), "
    "processed BOOLEAN NOT NULL DEFAULT FALSE, processed_at TIMESTAMP(6) NULL)",
}
INSERT = (
    "INSERT INTO outbox (id, aggregate_type, aggregate_id, event_type, payload) "
    "VALUES (%s, 'order', %s, 'orders.created', %s)"
)


@pytest.fixture(params=KINDS)
def business(request: pytest.FixtureRequest, tmp_path: Path) -> Business:
    made = Business(url_of(request.param, request, tmp_path), OutboxTable.textbook())
    query(made.url, TABLES[request.param])
    query(made.url, "CREATE INDEX outbox_waiting ON outbox (processed, created_at)")
    return made


def theirs(business: Business, count: int, customer: str = "bob") -> list[str]:
    """Rows of a service that knows nothing of us, one transaction each."""
    ids = [str(uuid4()) for _ in range(count)]
    for number, id_ in enumerate(ids):
        payload = json.dumps({"number": number, "customer": customer})
        query(business.url, INSERT, (id_, customer, payload))
    return ids


async def test_rows_of_others_and_ours_are_published_and_marked(business: Business) -> None:
    first = theirs(business, 3)
    road = Road()
    await business.drain(road)  # one second is the resolution of SQLite's CURRENT_TIMESTAMP
    second = business.add(7, customer="ada")
    await business.drain(road)
    assert sorted(road.ids[:3]) == sorted(first)
    assert road.ids[3:] == second
    assert all(UUID(id_) for id_ in second)
    name, message = road.messages[0]
    assert name == "orders.created"
    assert (message.type, message.key, message.source) == ("orders.created", "bob", "outbox")
    assert ORDERS.decode(message.data).customer == "bob"
    assert abs(message.time - datetime.now(UTC)) < timedelta(minutes=1)
    states = query(business.url, "SELECT processed, processed_at IS NOT NULL FROM outbox")
    assert [(bool(done), bool(at)) for done, at in states] == [(True, True)] * 4
    assert query(business.url, "SELECT DISTINCT aggregate_type FROM outbox ORDER BY 1") == [
        ("order",),
        ("orders.created",),
    ]


async def test_the_order_of_an_aggregate_is_that_of_created_at(business: Business) -> None:
    """Also over many batches; ids say nothing."""
    with transaction(business.url) as connection:
        cursor = connection.cursor()
        mark = "?" if business.url.startswith("sqlite") else "%s"
        ids = [str(uuid4()) for _ in range(40)]
        for number, id_ in enumerate(ids):
            cursor.execute(
                "INSERT INTO outbox (id, aggregate_type, aggregate_id, event_type, payload, "
                f"created_at) VALUES ({mark}, 'order', 'a', 'orders.created', '1', {mark})",
                (id_, f"2026-01-01 00:00:{number:02}"),
            )
    road = Road()
    await business.drain(road, replace(QUICK, batch=3, largest=6))
    assert road.ids == ids


async def test_one_relay_is_at_work_and_another_stands_by(business: Business) -> None:
    one, other = Road(), Road()
    async with business.at_work(one) as first:
        await until(lambda: bool(first._share.slices))
        async with business.at_work(other):
            await asyncio.to_thread(theirs, business, 5)
            await until(lambda: len(one.ids) == 5)
            assert other.ids == []
            await first.close()
            await asyncio.to_thread(theirs, business, 2)
            await until(lambda: len(other.ids) == 2)


async def test_poison_is_parked_beside_the_table(business: Business) -> None:
    theirs(business, 2)
    query(business.url, "UPDATE outbox SET event_type = 'no.such'")
    good = theirs(business, 1)
    road = Road()
    relay = await business.drain(road)
    assert road.ids == good
    assert relay.figures.parked == 2
    depth = await business.depth()
    assert (depth.pending, depth.parked) == (0, 2)
    assert depth.age < timedelta(minutes=1)


async def test_old_rows_are_deleted(business: Business) -> None:
    theirs(business, 3)
    await business.drain(Road())
    old = "'2026-01-01 00:00:00'"
    query(business.url, f"UPDATE outbox SET processed_at = {old} WHERE aggregate_id = 'bob'")
    left = theirs(business, 1, "ada")
    settings = replace(QUICK, cleanup=timedelta(milliseconds=50))
    async with business.at_work(Road(), settings) as relay:
        await until(lambda: relay.figures.deleted == 3)
    assert [str(id_) for (id_,) in query(business.url, "SELECT id FROM outbox")] == left


def test_what_is_no_text_is_refused(business: Business) -> None:
    from postroad.core.topic import Topic

    class Raw:
        content_type = "application/octet-stream"

        def encode(self, payload: bytes) -> bytes:
            return payload

        def decode(self, data: bytes) -> bytes:
            return data

    raw: Topic[bytes] = Topic("raw", bytes, codec=Raw())
    connection = connect(business.url)
    with pytest.raises(EncodeError, match=r"outbox\.payload holds json"):
        Outbox(business.table).add(connection, raw, b"\xff")
    connection.close()


async def test_names_are_quoted(tmp_path: Path) -> None:
    table = replace(
        OutboxTable.textbook('my "out"`box', payload_as="text"), id="select", aggregate_id="a b?"
    )
    business = Business(f"sqlite:///{tmp_path}/business.db", table)
    query(
        business.url,
        'CREATE TABLE "my ""out""`box" ("select" TEXT PRIMARY KEY, aggregate_type TEXT, '
        '"a b?" TEXT, event_type TEXT, payload TEXT, created_at TEXT, processed INT, '
        "processed_at TEXT)",
    )
    ids = business.add(1)
    road = Road()
    await business.drain(road)
    assert road.ids == ids
    assert ORDERS.decode(road.messages[0][1].data) == Order(1, "ada")
