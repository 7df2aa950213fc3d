"""Polling of a business table, on each kind of database: claims, answers, leases, and what others
do to the rows meanwhile."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from msgspec import Struct

from postroad import (
    DeadLetter,
    Discard,
    Lag,
    Postroad,
    Reject,
    Retry,
    Topic,
    Transaction,
)
from postroad.core.delivery import Failure
from postroad.errors import (
    DeclarationError,
    GuaranteeError,
    NotFoundError,
    NotSupportedError,
    PublishError,
    StoragePermissionError,
)
from postroad.testing.conformance import eventually
from tests.integration.idempotency_databases import Kind, prepared
from tests.integration.polling_shop import (
    ORDERS,
    answer,
    fill,
    fill_from,
    join,
    keys,
    nothing,
    polling,
    rows,
    source,
    statuses,
    take,
    update,
)
from tests.services.harness.sql import Database

SAID = Failure(reason="exception", detail="no", at_us=1)


class Order(Struct):
    id: int
    customer: str
    total: Decimal


class Suite:
    """What holds on every database."""

    @pytest.fixture
    def kind(self) -> Kind:
        raise NotImplementedError  # a base class: each database below names itself

    @pytest.fixture(autouse=True)
    def _tables(self, kind: Kind) -> None:
        kind.script(ORDERS)

    # ------------------------------------------------------------ claims and answers

    async def test_a_ready_row_is_claimed_and_done(self, kind: Kind) -> None:
        fill(kind, 3)
        update(kind, "UPDATE orders SET status = ? WHERE id = 2", "new")
        async with polling(kind) as transport:
            consumer = await join(transport)
            held = await take(consumer, 2)
            assert statuses(kind) == {1: "shipping", 2: "new", 3: "shipping"}
            assert await answer(consumer, held) == ["done", "done"]
            assert statuses(kind) == {1: "shipped", 2: "new", 3: "shipped"}
            assert await nothing(consumer)
        assert rows(kind, "SELECT number FROM postroad_polled") == [], "nothing is left of it"

    async def test_the_row_is_the_payload_as_it_was_before_the_claim(self, kind: Kind) -> None:
        fill(kind, 1)
        async with polling(kind, source(time="placed")) as transport:
            consumer = await join(transport)
            (first,) = await take(consumer, 1)
            await answer(consumer, [first], "nack")
            (second,) = await take(consumer, 1)
            for delivery in (first, second):
                payload = transport.source.topic.decode(delivery.message.data)
                assert payload["status"] == "ready_to_ship"
                assert payload["customer"] == "customer 1"
                assert Decimal(str(payload["total"])) == Decimal("9.90")
                assert abs(delivery.message.time.timestamp() - payload["placed"]) < 1e-5
            assert first.message.id == second.message.id, "it is the same round of the row"
            await answer(consumer, [second])
            update(kind, "UPDATE orders SET status = ?", "ready_to_ship")
            (third,) = await take(consumer, 1)
            assert third.message.id != first.message.id, "and this is another one"
            assert third.message.key == "1"

    async def test_what_is_given_back_is_as_it_was_and_comes_when_due(self, kind: Kind) -> None:
        fill(kind, 2)
        claim = {"status": "shipping", "worker": "me"}
        async with polling(kind, source(claim=claim)) as transport:
            consumer = await join(transport)
            held = await take(consumer, 2)
            assert rows(kind, "SELECT worker FROM orders") == [("me",), ("me",)]
            began = time.monotonic()
            wait = timedelta(seconds=0.5)
            await answer(consumer, held[:1], "nack", delay=wait, failure=SAID)
            assert rows(kind, "SELECT status, worker FROM orders WHERE id = 1") == [
                ("ready_to_ship", None)
            ]
            (again,) = await take(consumer, 1)
            assert time.monotonic() - began >= 0.49
            assert (again.attempts, again.failures, again.deliveries) == (1, (SAID,), 2)
            assert await answer(consumer, [again, held[1]]) == ["done", "done"]
            assert statuses(kind) == {1: "shipped", 2: "shipped"}

    async def test_a_dead_row_is_failed_and_can_be_redriven(self, kind: Kind) -> None:
        fill(kind, 2)
        async with polling(kind, source(every=timedelta(minutes=10))) as transport:
            consumer = await join(transport)
            held = await take(consumer, 2)
            assert await answer(consumer, held, "reject", failure=SAID) == ["done", "done"]
            assert statuses(kind) == {1: "stuck", 2: "stuck"}
            letters = await transport.dead_letters("orders", "shipping", 10)
            assert [letter.message for letter in letters] == [one.message for one in held]
            assert all(letter.failures == (SAID,) for letter in letters)
            assert await transport.redrive([letters[0].id]) == 1
            (again,) = await take(consumer, 1)
            assert again.attempts == 0
            assert again.message.key == "1"
            await answer(consumer, [again])
            assert await transport.discard([letters[1].id]) == 1
            assert statuses(kind) == {1: "shipped", 2: "stuck"}
            assert await transport.dead_letters("#", None, 10) == []

    async def test_a_dead_row_that_is_made_ready_by_hand_is_a_dead_letter_no_more(
        self, kind: Kind
    ) -> None:
        fill(kind, 1)
        async with polling(kind) as transport:
            consumer = await join(transport)
            await answer(consumer, await take(consumer, 1), "reject", failure=SAID)
            update(kind, "UPDATE orders SET status = ?", "ready_to_ship")
            (again,) = await take(consumer, 1)
            assert (again.attempts, again.failures) == (0, ())
            assert await transport.dead_letters("#", None, 10) == []
            await answer(consumer, [again])

    async def test_a_dead_row_that_was_changed_is_not_redriven(self, kind: Kind) -> None:
        fill(kind, 1)
        async with polling(kind) as transport:
            consumer = await join(transport)
            await answer(consumer, await take(consumer, 1), "reject", failure=SAID)
            update(kind, "UPDATE orders SET status = ?", "cancelled")
            (letter,) = await transport.dead_letters("#", None, 10)
            assert await transport.redrive([letter.id]) == 0
            assert statuses(kind) == {1: "cancelled"}

    # ------------------------------------------------------------ what others do meanwhile

    @pytest.mark.parametrize("action", ["ack", "nack", "reject"])
    async def test_a_row_that_somebody_changed_is_left_as_it_is(
        self, kind: Kind, action: str
    ) -> None:
        fill(kind, 2)
        async with polling(kind) as transport:
            consumer = await join(transport)
            held = sorted(await take(consumer, 2), key=lambda one: one.message.key or "")
            update(kind, "UPDATE orders SET status = ? WHERE id = 1", "cancelled")
            assert await answer(consumer, held, action, failure=SAID) == ["stale", "done"]
            assert statuses(kind)[1] == "cancelled"
            known = rows(kind, "SELECT row_key FROM postroad_polled WHERE row_key = '1'")
            assert known == [], "nothing is kept of what is somebody else's"

    async def test_a_row_that_was_deleted_is_stale(self, kind: Kind) -> None:
        fill(kind, 2)
        async with polling(kind) as transport:
            consumer = await join(transport)
            held = sorted(await take(consumer, 2), key=lambda one: one.message.key or "")
            update(kind, "DELETE FROM orders WHERE id = 1")
            assert await answer(consumer, held) == ["stale", "done"]

    async def test_a_row_made_ready_while_it_is_held_waits_for_its_holder(self, kind: Kind) -> None:
        fill(kind, 1)
        async with polling(kind) as transport, polling(kind, source(batch=1)) as other:
            consumer, second = await join(transport), await join(other)
            held = await take(consumer, 1)
            update(kind, "UPDATE orders SET status = ?", "ready_to_ship")
            assert await nothing(second), "its holder is still at it"
            fill_from(kind, 2, 1)
            assert keys(await take(second, 1)) == [2], "nor does it stand in the way of others"
            assert await answer(consumer, held) == ["stale"], "it was not to be shipped by us"
            assert keys(await take(second, 1)) == [1]

    async def test_a_waiting_row_that_is_not_ready_any_more_is_forgotten(self, kind: Kind) -> None:
        fill(kind, 1)
        async with polling(kind) as transport:
            consumer = await join(transport)
            held = await take(consumer, 1)
            await answer(consumer, held, "nack", delay=timedelta(seconds=0.2), failure=SAID)
            update(kind, "UPDATE orders SET status = ?", "cancelled")
            assert await nothing(consumer, 0.6)
            assert rows(kind, "SELECT number FROM postroad_polled") == []
            assert statuses(kind) == {1: "cancelled"}

    # ------------------------------------------------------------ leases

    async def test_a_lease_that_ends_gives_the_row_to_another(self, kind: Kind) -> None:
        fill(kind, 3)
        async with polling(kind) as transport, polling(kind) as other:
            zombie, heir = await join(transport, lease=0.5), await join(other)
            held = await take(zombie, 3)
            began = time.monotonic()
            again = await take(heir, 3)
            assert time.monotonic() - began >= 0.3, "not before the lease ends"
            assert [one.starts for one in again] == [1, 1, 1], "they may have killed their worker"
            decode = transport.source.topic.decode
            seen = {decode(one.message.data)["status"] for one in again}
            assert seen == {"ready_to_ship"}, "as before the claim, which still stands"
            for action in ("ack", "nack", "reject"):
                assert await answer(zombie, held, action, failure=SAID) == ["stale"] * 3
                assert set(statuses(kind).values()) == {"shipping"}
            assert list(await zombie.extend(held)) == []
            assert list(await zombie.begin(held)) == []
            assert await answer(heir, again) == ["done"] * 3
            assert await answer(zombie, held, "nack") == ["stale"] * 3
            assert set(statuses(kind).values()) == {"shipped"}

    async def test_suspects_of_a_crash_come_in_parts_that_halve(self, kind: Kind) -> None:
        fill(kind, 8)
        async with polling(kind, source(batch=8)) as transport:
            sizes = []
            for _ in range(4):
                dying = await join(transport, lease=0.3)
                held = await dying.receive(8, 1 << 20, timedelta(seconds=10))
                await dying.begin(held)
                sizes.append(len(held))
                await eventually(lambda: _all_over(kind), "the leases to end")
            assert sizes == [8, 4, 2, 1]
            (alone,) = await take(await join(transport), 1)
            assert (alone.starts, alone.alone) == (4, 1), "the last time it was alone"

    async def test_an_answer_to_an_earlier_delivery_is_stale(self, kind: Kind) -> None:
        fill(kind, 1)
        async with polling(kind) as transport:
            consumer = await join(transport)
            before = await take(consumer, 1)
            await answer(consumer, before, "nack")
            after = await take(consumer, 1)
            assert (after[0].fence or 0) > (before[0].fence or 0)
            for action in ("ack", "nack", "reject"):
                assert await answer(consumer, before, action, failure=SAID) == ["stale"]
                assert statuses(kind) == {1: "shipping"}
            assert list(await consumer.begin(before)) == []
            assert list(await consumer.extend(before)) == []
            assert await answer(consumer, after) == ["done"]

    async def test_extending_keeps_rows(self, kind: Kind) -> None:
        fill(kind, 2)
        async with polling(kind) as transport, polling(kind) as other:
            holder, second = await join(transport, lease=0.6), await join(other)
            held = await take(holder, 2)
            end = time.monotonic() + 1.5
            while time.monotonic() < end:
                assert len(await holder.extend(held)) == 2
                assert await nothing(second, 0.1)
            assert await answer(holder, held) == ["done", "done"]

    async def test_closing_hands_back_what_is_held(self, kind: Kind) -> None:
        fill(kind, 3)
        async with polling(kind) as transport:
            consumer = await join(transport)
            held = await take(consumer, 3)
            await answer(consumer, held[:1])
            await consumer.close()
            assert sorted(statuses(kind).values()) == ["ready_to_ship"] * 2 + ["shipped"]
            again = await take(await join(transport), 2)
            assert all((one.attempts, one.starts) == (0, 0) for one in again)

    # ------------------------------------------------------------ names, keys, values

    async def test_keys_of_text_and_names_that_need_quotes(self, kind: Kind) -> None:
        quote = "`" if kind.name == "mysql" else '"'
        table, key, state = (f"{quote}{name}{quote}" for name in ("Order", "key", "group"))
        kind.script(
            f"CREATE TABLE {table} ({key} VARCHAR(40) NOT NULL PRIMARY KEY, {state} VARCHAR(40))"
        )
        names = ["a'b", "ünï 😀", "%s ? $1", "1"]
        for name in names:
            update(kind, f"INSERT INTO {table} ({key}, {state}) VALUES (?, ?)", name, "it's")
        polled = source(
            table="Order",
            key="key",
            where=f"{state} = ? -- ready",
            parameters=("it's",),
            claim={"group": "'; DROP TABLE x; --"},
            done={"group": "%s"},
            failed={"group": "failed"},
        )
        async with polling(kind, polled) as transport:
            consumer = await join(transport)
            held = await take(consumer, 4)
            assert sorted(one.message.key or "" for one in held) == sorted(names)
            assert await answer(consumer, held[:2]) == ["done", "done"]
            await answer(consumer, held[2:], "nack")
            assert sorted(rows(kind, f"SELECT {state} FROM {table}")) == [
                ("%s",),
                ("%s",),
                ("it's",),
                ("it's",),
            ]
            assert await answer(consumer, await take(consumer, 2)) == ["done", "done"]

    async def test_columns_can_be_chosen_and_typed(self, kind: Kind) -> None:
        fill(kind, 1)
        polled = source(columns=["id", "customer", "total"], type=Order, time="placed")
        async with polling(kind, polled) as transport:
            (delivery,) = await take(await join(transport), 1)
            assert polled.topic.decode(delivery.message.data) == Order(
                1, "customer 1", Decimal("9.90")
            )
            assert b"status" not in delivery.message.data

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"table": "no_such_table"}, "no such table"),
            ({"claim": {"state": "x"}}, "no column state; it has id, customer"),
            ({"where": "status = "}, "does not understand `where`"),
            ({"where": "no_such = 1"}, "does not understand `where`"),
        ],
    )
    async def test_what_is_not_as_declared_is_said_at_open(
        self, kind: Kind, changes: dict[str, Any], said: str
    ) -> None:
        with pytest.raises(DeclarationError, match=said):
            async with polling(kind, source(**changes)):
                pass

    async def test_a_claim_that_leaves_rows_ready_is_refused(self, kind: Kind) -> None:
        fill(kind, 1)
        async with polling(kind, source(claim={"worker": "me"})) as transport:
            with pytest.raises(DeclarationError, match="again and again"):
                await take(await join(transport), 1)
        assert rows(kind, "SELECT status, worker FROM orders") == [("ready_to_ship", None)]

    # ------------------------------------------------------------ questions

    async def test_lag_counts_rows_and_their_age(self, kind: Kind) -> None:
        async with polling(kind, source(time="placed")) as transport:
            assert (await transport.lag("orders", "shipping")).messages == 0
            fill(kind, 5)
            update(kind, "UPDATE orders SET placed = ? WHERE id = 3", time.time() - 3600)
            consumer = await join(transport)
            held = await take(consumer, 2)
            lag = await transport.lag("orders", "shipping")
            assert lag.messages == 5
            assert timedelta(hours=1) <= (lag.age or timedelta(0)) < timedelta(hours=1, minutes=1)
            assert 3 in keys(held), "the oldest goes first"
            await answer(consumer, [*held, *await take(consumer, 3)])
            done = await transport.lag("orders", "shipping")
            assert (done.messages, done.age) == (0, timedelta(0))
            with pytest.raises(NotFoundError):
                await transport.lag("orders", "nobody")
        async with polling(kind) as transport:
            fill_from(kind, 99, 1)
            lag = await transport.lag("orders", "shipping")
            assert (lag.messages, lag.age) == (1, None), "no time, no age"

    async def test_it_cannot_be_published_to(self, kind: Kind) -> None:
        async with polling(kind) as transport:
            topic = transport.source.topic
            with pytest.raises(PublishError) as caught:
                await transport.publish([(topic, topic.envelope({}, 1, "urn:test"))])
            assert isinstance(caught.value.failed[0], NotSupportedError)
            assert not transport.capabilities.browse
            with pytest.raises(NotSupportedError):
                await transport.browse("orders", "earliest", 1)

    # ------------------------------------------------------------ the whole engine over it

    async def test_a_road_handles_rows(self, kind: Kind) -> None:
        fill(kind, 40)
        road = Postroad("memory://", database=kind.url)
        shipped = Topic("orders.shipped", int)
        told: list[int] = []
        tries: list[int] = []

        @road.subscribe(
            source(type=Order),
            group="shipping",
            concurrency=4,
            retry=Retry(attempts=3, first=timedelta(milliseconds=20)),
        )
        async def ship(order: Order) -> Any:
            tries.append(order.id)
            if order.id == 7:
                raise Reject("no such address")
            if order.id == 8:
                raise ValueError("every time")
            if order.id == 9 and tries.count(9) < 3:
                raise ValueError("the first two times")
            if order.id == 10:
                raise Discard
            return shipped.message(order.id)

        @road.subscribe(shipped, group="mail")
        async def tell(number: int) -> None:
            told.append(number)

        async with road, road.consuming():
            await eventually(lambda: _settled(kind), "all rows settled")
            await eventually(lambda: len(told) == 37, "results published")
            letters = await road.dead_letters.list("orders")
            assert sorted(_reasons(letters)) == [(7, 1, "rejected"), (8, 3, "exception")]
            assert _lag_of(await road.lag("orders")) == 0
        assert sorted(told) == [n for n in range(1, 41) if n not in (7, 8, 10)]
        assert (tries.count(8), tries.count(9), tries.count(10)) == (3, 3, 1)
        found = statuses(kind)
        assert (found[7], found[8], found[9], found[10]) == ("stuck", "stuck", "shipped", "shipped")

    async def test_a_drain_hands_back_what_has_not_begun(self, kind: Kind) -> None:
        fill(kind, 30)
        road = Postroad("memory://", database=kind.url)
        begun: list[int] = []
        go_on = asyncio.Event()

        @road.subscribe(source(), group="shipping", concurrency=2)
        async def ship(order: dict[str, Any]) -> None:
            begun.append(order["id"])
            await go_on.wait()

        async with road:
            stop = asyncio.Event()
            running = asyncio.create_task(road.run(stop=stop))
            await eventually(lambda: len(begun) == 2, "two handlers to begin")
            stop.set()
            await eventually(
                lambda: list(statuses(kind).values()).count("ready_to_ship") == 28,
                "what has not begun to go back",
            )
            go_on.set()
            await running
        assert {n for n, status in statuses(kind).items() if status == "shipped"} == set(begun)
        assert len(begun) == 2

    async def test_effectively_once_with_the_business_database(self, kind: Kind) -> None:
        kind.script("CREATE TABLE parcels (order_id INTEGER NOT NULL)")
        fill(kind, 20)
        road = Postroad("memory://", database=kind.url)
        calls: list[int] = []

        @road.subscribe(
            source(),
            group="shipping",
            delivery="effectively-once",
            retry=Retry(attempts=5, first=timedelta(milliseconds=10)),
        )
        async def ship(order: dict[str, Any], tx: Transaction) -> None:
            calls.append(order["id"])
            await tx.execute(f"INSERT INTO parcels (order_id) VALUES ({order['id']})")
            if calls.count(order["id"]) == 1 and order["id"] % 2:
                raise ValueError("rolled back")

        async with road, road.consuming():
            await eventually(lambda: _settled(kind), "all rows settled")
        assert sorted(rows(kind, "SELECT order_id FROM parcels")) == [(n,) for n in range(1, 21)]
        assert len(calls) == 30

    async def test_what_makes_no_sense_over_a_table_is_refused(self, kind: Kind) -> None:
        road = Postroad("memory://", database=kind.url)
        polled = source()

        @road.subscribe(polled, group="shipping")
        async def ship(order: dict[str, Any]) -> None: ...

        with pytest.raises(DeclarationError, match="takes what is ready there already"):
            road.subscribe(polled, group="invoicing")(ship)

        lone = Postroad("memory://")
        with pytest.raises(DeclarationError, match=r"PollingSource\(…, database=…\)"):
            lone.subscribe(source(), group="shipping")

        ordered = Postroad("memory://", database=kind.url)
        ordered.subscribe(source(), group=None)(ship)
        with pytest.raises(GuaranteeError, match="named groups only"):
            ordered.check()


def _all_over(kind: Kind) -> bool:
    now = time.time_ns() // 1000
    (latest,) = rows(kind, "SELECT MAX(until_us) FROM postroad_polled")[0]
    return bool(latest < now)


def _settled(kind: Kind) -> bool:
    return set(statuses(kind).values()) <= {"shipped", "stuck"}


def _reasons(letters: Any) -> list[tuple[int, int, str]]:
    found: list[DeadLetter] = list(letters)
    return [
        (int(one.message.key or 0), len(one.failures), one.failures[-1].reason) for one in found
    ]


def _lag_of(found: Any) -> int:
    lags: list[Lag] = [lag for lag in found if lag.topic == "orders"]
    return sum(lag.messages or 0 for lag in lags)


class TestSqlite(Suite):
    @pytest.fixture
    def kind(self, tmp_path: Path) -> Kind:
        return prepared(f"sqlite:///{tmp_path}/shop.db")


class Servers(Suite):
    """What needs several transactions at once."""

    async def test_a_row_that_somebody_has_locked_is_passed_by(self, kind: Kind) -> None:
        fill(kind, 3)
        async with polling(kind) as transport:
            consumer = await join(transport)
            with suppress(_Stop), kind.transaction() as connection:
                kind.execute(connection, "SELECT id FROM orders WHERE id = 2 FOR UPDATE")
                assert keys(await take(consumer, 2)) == [1, 3], "nobody waits for the lock"
                assert await nothing(consumer)
                raise _Stop
            assert keys(await take(consumer, 1)) == [2]

    async def test_keys_of_uuids(self, kind: Kind) -> None:
        kind.script("CREATE TABLE parcels (id UUID NOT NULL PRIMARY KEY, status VARCHAR(20))")
        ids = [str(UUID(int=n << 64 | n)) for n in (1, 2, 3)]
        for one in ids:
            update(kind, "INSERT INTO parcels (id, status) VALUES (?, ?)", one, "ready")
        polled = source(
            table="parcels",
            where="status = 'ready'",
            claim={"status": "taken"},
            done={"status": "done"},
            failed={"status": "failed"},
        )
        async with polling(kind, polled) as transport:
            dying = await join(transport, lease=0.3)
            held = await take(dying, 3)
            again = await take(await join(transport), 3)
            assert sorted(one.message.key or "" for one in again) == ids
            assert await answer(dying, held) == ["stale"] * 3

    async def test_instants_that_a_claim_overwrites_are_put_back(self, kind: Kind) -> None:
        stamp = "TIMESTAMP(6) NULL" if kind.name == "mysql" else "timestamptz"
        kind.script(f"CREATE TABLE jobs (id INTEGER PRIMARY KEY, status INTEGER, at {stamp})")
        update(kind, "INSERT INTO jobs VALUES (1, 0, ?)", "2026-01-02 03:04:05.000006")
        before = rows(kind, "SELECT at FROM jobs")
        polled = source(
            table="jobs",
            where="status = 0",
            claim={"status": 1, "at": datetime(2030, 1, 1, tzinfo=UTC)},
            done={"status": 2},
            failed={"status": 3},
        )
        async with polling(kind, polled) as transport:
            consumer = await join(transport)
            held = await take(consumer, 1)
            assert rows(kind, "SELECT at FROM jobs") != before
            assert await answer(consumer, held, "nack") == ["done"]
            assert rows(kind, "SELECT at FROM jobs") == before


class _Stop(Exception):
    """Ends a transaction."""


class TestPostgresql(Servers):
    @pytest.fixture
    def kind(self, postgresql_database: Database) -> Kind:
        return prepared(postgresql_database.url)

    async def test_types_of_ones_own_are_read_as_text_and_put_back(self, kind: Kind) -> None:
        kind.script(
            "CREATE SCHEMA depot",
            "CREATE TYPE depot.state AS ENUM ('ready', 'taken', 'done', 'failed')",
            "CREATE DOMAIN depot.weight AS integer CHECK (VALUE > 0)",
            """CREATE TABLE depot."Boxes" (
                id bigint PRIMARY KEY, state depot.state, seen depot.state[], kg depot.weight,
                content jsonb
            )""",
            """INSERT INTO depot."Boxes" VALUES (1, 'ready', '{ready,done}', 3, '{"a": [1]}')""",
        )
        polled = source(
            table="depot.Boxes",
            where="state = ?",
            parameters=("ready",),
            claim={"state": "taken"},
            done={"state": "done"},
            failed={"state": "failed"},
        )
        async with polling(kind, polled) as transport:
            consumer = await join(transport)
            held = await take(consumer, 1)
            assert polled.topic.decode(held[0].message.data) == {
                "id": 1,
                "state": "ready",
                "seen": "{ready,done}",
                "kg": 3,
                "content": {"a": [1]},
            }
            assert await answer(consumer, held, "nack") == ["done"]
            assert rows(kind, 'SELECT state FROM depot."Boxes"') == [("ready",)]
            assert await answer(consumer, await take(consumer, 1)) == ["done"]
            assert rows(kind, 'SELECT state FROM depot."Boxes"') == [("done",)]

    async def test_a_role_that_may_little_can_poll(
        self, kind: Kind, postgresql_database: Database
    ) -> None:
        fill(kind, 2)
        kind.script("CREATE TABLE others AS SELECT * FROM orders")
        url = postgresql_database.add_role(
            "GRANT SELECT, UPDATE ON orders TO {role}",
            "GRANT SELECT, INSERT, UPDATE, DELETE ON postroad_polled, postroad_polls TO {role}",
            "GRANT SELECT ON postroad_meta TO {role}",
        )
        async with polling(replace(kind, url=url)) as transport:
            consumer = await join(transport)
            held = await take(consumer, 2)
            await answer(consumer, held[:1], "reject", failure=SAID)
            assert await answer(consumer, held[1:]) == ["done"]
        with pytest.raises(StoragePermissionError):
            async with polling(replace(kind, url=url), source(table="others")):
                pass


class TestMariadb(Servers):
    @pytest.fixture
    def kind(self, mariadb_database: Database) -> Kind:
        return prepared(mariadb_database.url)
