"""The transactional outbox and its relay, on every kind of database."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import defaultdict
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from postroad.delivery.outbox.parking import list_parked, unpark
from postroad.delivery.outbox.sharing import scope_of
from postroad.errors import NotFoundError, PayloadTooLargeError, StorageError
from postroad.storage.database import Database
from tests.integration.outbox_world import (
    CANCELLED,
    KINDS,
    ORDERS,
    QUICK,
    Business,
    Heard,
    Order,
    Road,
    connect,
    query,
    run,
    transaction,
    until,
    until_async,
    url_of,
)


@pytest.fixture(params=KINDS)
def business(request: pytest.FixtureRequest, tmp_path: Path) -> Business:
    return Business(url_of(request.param, request, tmp_path))


# ------------------------------------------------------------ adding


async def test_what_was_rolled_back_is_never_published(business: Business) -> None:
    connection = connect(business.url)
    business.outbox.add(connection, ORDERS, Order(1, "ada"))
    connection.rollback()
    connection.close()
    kept = business.add(2)
    road = Road()
    await business.drain(road)
    assert road.ids == kept
    assert query(business.url, "SELECT count(*) FROM postroad_outbox") == [(1,)]


async def test_everything_of_a_message_arrives(business: Business) -> None:
    with transaction(business.url) as connection:
        plain = business.outbox.add(connection, ORDERS, Order(1, "ada"))
        rich = business.outbox.add(
            connection,
            CANCELLED,
            Order(2, "åsa 100% '\"`"),
            id="my-id",
            headers={"tenant": "acme", "X-Odd": "yes"},
            subject="a/b",
            priority=3,
            delay=timedelta(minutes=5),
            expires_in=timedelta(hours=1),
            correlation_id="c",
            causation_id="d",
            traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        )
    road = Road()
    await business.drain(road)
    assert [name for name, _ in road.messages] == ["orders.created", "orders.cancelled"]
    first, second = (message for _, message in road.messages)
    now_us = time.time_ns() // 1000
    assert (first.id, first.type, first.source, first.key) == (
        plain,
        "orders.created",
        "shop",
        "ada",
    )
    assert ORDERS.decode(first.data) == Order(1, "ada")
    assert 0 <= now_us - first.time_us < 60_000_000
    assert (second.id, rich) == ("my-id", "my-id")
    assert second.key == "åsa 100% '\"`"
    assert second.headers == {"tenant": "acme", "X-Odd": "yes"}
    assert (second.subject, second.priority) == ("a/b", 3)
    assert (second.correlation_id, second.causation_id) == ("c", "d")
    assert second.traceparent is not None
    assert second.deliver_at_us is not None
    assert second.expires_at_us is not None
    assert second.deliver_at_us - second.time_us == 300_000_000
    assert second.expires_at_us - second.time_us == 3_600_000_000


def test_a_missing_table_is_named_with_the_remedy(
    request: pytest.FixtureRequest, business: Business
) -> None:
    query(business.url, "DROP TABLE postroad_outbox")
    connection = connect(business.url)
    with pytest.raises(StorageError, match=r"no table postroad_outbox.*postroad migrate"):
        business.outbox.add(connection, ORDERS, Order(1, "ada"))
    connection.close()


async def test_rows_that_others_wrote_are_published(business: Business) -> None:
    """Only what Debezium's router reads is given."""
    query(
        business.url,
        "INSERT INTO postroad_outbox (id, aggregatetype, aggregateid, type, payload) "
        "VALUES ('1', 'orders.created', 'ada', 'OrderCreated', %s)",
        (b"{}",),
    )
    road = Road()
    await business.drain(road)
    ((_, message),) = road.messages
    assert (message.id, message.type, message.key) == ("1", "OrderCreated", "ada")
    assert (message.data, message.source) == (b"{}", "outbox")
    assert abs(message.time_us - time.time_ns() // 1000) < 60_000_000


# ------------------------------------------------------------ the relay


async def test_a_slow_transaction_is_not_skipped(business: Business) -> None:
    """It gets the lower number and commits later, while others are published."""
    if business.url.startswith("sqlite"):
        pytest.skip("one writer at a time: numbers are given in the order of commits")
    road = Road()
    slow = connect(business.url)
    late = business.outbox.add(slow, ORDERS, Order(1, "slow"))
    async with business.at_work(road):
        early = business.add(*range(2, 300), customer="quick")
        await until(lambda: len(road.ids) >= 298)
        assert road.ids == early
        slow.commit()
        slow.close()
        await until(lambda: len(road.ids) == 299)
    assert road.ids[-1] == late


async def test_it_is_woken(business: Business, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what another connection commits: by itself it would not look for a minute."""
    if business.url.startswith("mysql"):
        pytest.skip("nothing tells there: it looks")
    monkeypatch.setattr("postroad.delivery.outbox.relay._FIRST_LOOK", 60.0)
    road = Road()
    async with business.at_work(road, replace(QUICK, idle=timedelta(minutes=5))):
        await asyncio.to_thread(business.add, 0)
        await until(lambda: len(road.ids) == 1)
        for number in range(1, 6):
            began = time.monotonic()
            await asyncio.to_thread(business.add, number)
            await until(lambda count=number + 1: len(road.ids) == count)  # type: ignore[misc]
            assert time.monotonic() - began < 0.5


async def test_a_road_that_is_down_loses_nothing_and_costs_no_attempt(business: Business) -> None:
    road, heard = Road(), Heard()
    road.down = True
    ids = business.add(*range(250))
    async with business.at_work(road, replace(QUICK, attempts=1), heard) as relay:
        await until(lambda: road.calls >= 10)
        assert road.ids == []
        road.down = False
        await until(lambda: len(road.ids) == 250)
    assert road.ids == ids
    assert (heard.rows, relay.figures.parked) == ([], 0)
    assert heard.waits >= 10


async def test_stopping_does_not_wait_for_a_road_that_is_down(business: Business) -> None:
    road = Road()
    road.down = True
    business.add(1)
    patient = replace(QUICK, first_wait=timedelta(minutes=5), longest_wait=timedelta(minutes=5))
    began = time.monotonic()
    async with business.at_work(road, patient):
        await until(lambda: road.calls == 1)
    assert time.monotonic() - began < 5


async def test_what_was_marked_is_published_once(business: Business) -> None:
    ids = business.add(*range(30))
    road = Road()
    await business.drain(road)
    relay = await business.drain(road)
    assert road.ids == ids
    assert relay.figures.published == 0
    assert query(business.url, "SELECT count(*) FROM postroad_outbox WHERE processed_at > 0") == [
        (30,)
    ]


async def test_draining_and_closing_in_one_task(business: Business) -> None:
    ids = business.add(1, 2)
    road = Road()
    async with business.relay(road) as relay:
        await relay.drain()
        await asyncio.wait_for(relay.close(), 10)
    assert road.ids == ids


async def test_several_relays_share_the_work_and_keep_each_order(business: Business) -> None:
    """Also while they come, go and are handed parts of others."""
    roads = [Road() for _ in range(3)]
    together = Road()
    for road in roads:
        road.messages = together.messages
        road.delay = 0.002
    rng = random.Random()
    expected: dict[str, list[str]] = defaultdict(list)

    def produce(rounds: int) -> None:
        for _ in range(rounds):
            customer = f"customer {rng.randrange(50)}"
            topic = rng.choice((ORDERS, CANCELLED))
            expected[customer] += business.add(*range(10), customer=customer, topic=topic)

    settings = replace(QUICK, batch=7, largest=20)
    async with business.at_work(roads[0], settings) as first:
        producing = asyncio.create_task(asyncio.to_thread(produce, 30))
        async with (
            business.at_work(roads[1], settings) as second,
            business.at_work(roads[2], settings) as third,
        ):
            await until(lambda: all(len(one._share.slices) > 9 for one in (first, second, third)))
            await producing
            await asyncio.to_thread(produce, 30)
            await until(lambda: len({message.id for _, message in together.messages}) >= 500)
        await asyncio.to_thread(produce, 10)
        await until(lambda: len({message.id for _, message in together.messages}) == 700)
    found: dict[str, list[str]] = defaultdict(list)
    for _, message in together.messages:
        assert message.key is not None
        found[message.key].append(message.id)
    assert found == expected
    figures = [relay.figures for relay in (first, second, third)]
    assert sum(one.duplicates for one in figures) == 0
    assert sum(one.published for one in figures) == 700
    assert min(one.published for one in figures) > 0


async def test_a_relay_that_is_gone_is_replaced_after_its_lease(business: Business) -> None:
    ids = business.add(*range(10))
    async with business.relay(Road()) as gone:
        await gone._renew()
        road = Road()
        async with business.at_work(road):
            began = time.monotonic()
            await until(lambda: len(road.ids) == 10)
            assert time.monotonic() - began > 0.3
    assert road.ids == ids


async def test_a_relay_that_slept_through_its_lease_only_repeats(business: Business) -> None:
    """Its part went to another one meanwhile. First arrivals stay in order, the others are
    counted."""
    settings = replace(QUICK, batch=5, largest=5, lease=timedelta(milliseconds=500))
    ids = business.add(*range(30))
    together, gate = Road(), asyncio.Event()

    class Stuck(Road):
        async def publish(self, messages: Any) -> None:
            self.calls += 1
            if self.calls == 2:
                await gate.wait()
            await together.publish(messages)

    stuck = Stuck()
    async with business.relay(stuck, settings) as asleep:
        asleep._beat = asyncio.Event().wait  # type: ignore[method-assign,assignment]
        sleeping = asyncio.create_task(asleep.run())
        await until(lambda: stuck.calls == 2)
        async with business.at_work(together, settings):
            await until(lambda: len(together.ids) == 30)
            gate.set()
            await until(lambda: len(together.ids) == 35)
            await until(lambda: asleep.figures.duplicates == 5)
            late = business.add(30)
            await until(lambda: late[0] in together.ids)
        await asleep.close()
        await sleeping
    assert stuck.calls == 2, "it went on after its lease"
    assert list(dict.fromkeys(together.ids)) == ids + late
    assert together.ids[30:35] == ids[5:10]


# ------------------------------------------------------------ poison


async def test_poison_is_parked_and_blocks_nobody(business: Business) -> None:
    road, heard = Road(), Heard()
    first, poison, behind, other = business.add(1, 2, 3) + business.add(4, customer="bob")
    road.bad[poison] = PayloadTooLargeError("a payload of 9 bytes")
    query(
        business.url,
        "INSERT INTO postroad_outbox (id, aggregatetype, aggregateid, type, payload) "
        "VALUES ('lost', 'no.such', '', 't', %s)",
        (b"{}",),
    )
    relay = await business.drain(road, hooks=heard)
    assert road.ids == [first, behind, other]
    reasons = {row.message_id: row.reason for row in heard.rows}
    assert reasons == {poison: "oversized", "lost": "undeclared"}
    depth = await business.depth()
    assert (depth.pending, depth.parked, depth.poison) == (0, 2, 2)
    assert depth.age > timedelta(0)
    assert relay.figures.parked == 2


async def test_what_is_refused_again_and_again_is_parked(business: Business) -> None:
    road, heard = Road(), Heard()
    ids = business.add(*range(5))
    road.bad[ids[2]] = RuntimeError("payload: secret")
    await business.drain(road, replace(QUICK, attempts=3), heard)
    assert road.ids == [*ids[:2], *ids[3:]]
    ((row),) = heard.rows
    assert (row.message_id, row.reason, row.detail) == (ids[2], "attempts", "RuntimeError")
    assert road.calls == 3


async def test_an_aggregate_waits_behind_its_poison_and_goes_on_in_order(
    business: Business,
) -> None:
    settings = replace(QUICK, on_poison="park-key", batch=4)
    road = Road()
    ids = business.add(*range(6))
    road.bad[ids[1]] = PayloadTooLargeError("too large")
    others = business.add(*range(3), customer="bob")
    async with business.at_work(road, settings) as relay:
        await until(lambda: len(road.ids) == 4)
        later = business.add(7, 8)
        more = business.add(9, customer="bob")
        await until(lambda: len(road.ids) == 5)
        assert sorted(road.ids) == sorted([ids[0], *others, *more])
        database = await Database.open(business.place)
        try:
            scope = scope_of(business.table.name)

            async def all_parked() -> bool:  # 1 … 5 and 7, 8
                rows = await database.read(lambda c: list_parked(c, business.table.name))
                return len(rows) == 7

            await until_async(all_parked)
            road.bad.clear()
            # As if looking from the beginning were dear, and all that is parked long ago.
            relay._horizon._next, relay._horizon._floor = math.inf, 1 << 40
            relay._horizon._recent.clear()
            business.add(10)
            with pytest.raises(NotFoundError, match="no row of message 'nobody'"):
                await database.write(
                    lambda c: unpark(c, business.table.name, "nobody"), scope=scope
                )
            await database.write(lambda c: unpark(c, business.table.name, ids[1]), scope=scope)
        finally:
            await database.close()
        await until(lambda: len(road.ids) == 13)
    of_ada = [message.id for _, message in road.messages if message.key == "ada"]
    assert of_ada[:8] == [*ids, *later]


# ------------------------------------------------------------ retention, figures


async def test_old_rows_are_deleted_and_the_rest_stays(business: Business) -> None:
    ids = business.add(*range(2500))
    road = Road()
    settings = replace(QUICK, cleanup=timedelta(milliseconds=50))
    await business.drain(road, settings)
    day = 86_400_000_000
    query(
        business.url,
        "UPDATE postroad_outbox SET processed_at = processed_at - %s WHERE number <= 2200",
        (7 * day,),
    )
    query(business.url, "UPDATE postroad_outbox SET processed_at = NULL WHERE number = 17")
    road.down = True
    async with business.at_work(road, settings) as relay:
        await until(lambda: relay.figures.deleted == 2199)
    left = [row for (row,) in query(business.url, "SELECT number FROM postroad_outbox ORDER BY 1")]
    assert left == [17, *range(2201, 2501)]
    assert len(ids) == 2500


async def test_without_retention_rows_go_at_once(business: Business) -> None:
    business.add(*range(20))
    await business.drain(Road(), replace(QUICK, retention=timedelta(0)))
    assert query(business.url, "SELECT count(*) FROM postroad_outbox") == [(0,)]


async def test_depth_and_age(business: Business) -> None:
    assert (await business.depth()).age == timedelta(0)
    business.add(*range(3))
    query(business.url, "UPDATE postroad_outbox SET created_at = created_at - 60000000")
    depth = await business.depth()
    assert (depth.outbox, depth.pending, depth.parked) == ("postroad_outbox", 3, 0)
    assert timedelta(seconds=60) <= depth.age < timedelta(seconds=90)


@pytest.mark.parametrize("keep", [timedelta(0), timedelta(milliseconds=1)], ids=["none", "short"])
async def test_the_table_does_not_grow_with_what_went_through(
    keep: timedelta, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Given the vacuum that autovacuum does by itself, later."""
    business = Business(url_of("postgresql", request, tmp_path))
    settings = replace(QUICK, retention=keep, cleanup=timedelta(milliseconds=10), batch=1000)

    def size() -> int:
        with connect(business.url) as connection:
            connection.autocommit = True
            run(connection, "VACUUM postroad_outbox")
        ((found,),) = query(business.url, "SELECT pg_total_relation_size('postroad_outbox')")
        return int(found)

    sizes = []
    async with business.at_work(Road(), settings) as relay:
        for turn in range(1, 9):
            await asyncio.to_thread(business.add, *range(2000))
            await until(lambda turn=turn: relay.figures.published == turn * 2000)  # type: ignore[misc]
            await until(
                lambda: query(business.url, "SELECT count(*) FROM postroad_outbox")[0][0] == 0
            )
            sizes.append(await asyncio.to_thread(size))
    assert max(sizes[4:]) <= max(sizes[:4]), sizes
