"""Effectively once on roads that are the business database themselves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from msgspec import Struct

from postroad import Delivery, Postroad, Subscription, Topic, Transaction
from postroad.core.transport import Consumer, Plan, SqlLog
from postroad.errors import DuplicateError, LeaseLostError
from postroad.testing.conformance.waiting import eventually
from postroad.transports.sql import SqlTransport
from tests.integration.business import Business, File, Served, number
from tests.services.harness.sql import Database

GROUP = "books"
WRITE = "INSERT INTO effects VALUES (?)"
WAIT = timedelta(seconds=5)


class Entry(Struct):
    n: int


ENTRIES = Topic("entries", Entry)


class OnRoadTests:
    """What holds on every database."""

    business: Business

    @pytest.fixture(autouse=True)
    def _tables(self, place: Business) -> None:
        self.business = place
        place.query("CREATE TABLE effects (n INTEGER NOT NULL)")

    def effects(self) -> list[int]:
        return sorted(int(n) for (n,) in self.business.query("SELECT n FROM effects"))

    def road(self, **options: Any) -> Postroad:
        """An app whose handler notes what it handles."""
        road = Postroad(self.business.url)

        @road.subscribe(ENTRIES, group=GROUP, delivery="effectively-once", **options)
        async def book(entry: Entry, tx: Transaction) -> None:
            await tx.execute(WRITE, (entry.n,))

        return road

    async def balanced(self, road: Postroad) -> Any:
        [entry] = (await road.audit("entries")).entries
        assert entry.verdict == "balanced"
        assert entry.account is not None
        return entry.account

    async def test_what_was_published_twice_has_one_effect_and_is_accounted_for(self) -> None:
        road = self.road()
        async with road.consuming():
            made = [(ENTRIES, ENTRIES.envelope(Entry(n), 0, "tests")) for n in range(20)]
            await road._publish_entries([*made, *made[:5]])
            await road.settled()
            account = await self.balanced(road)
        assert self.effects() == list(range(20))
        assert (account.accepted, account.outcomes) == (25, {"handled": 25})
        assert number(self.business, "SELECT sum(duplicates) FROM postroad_readers") == 5

    async def test_a_group_that_is_moved_handles_again(self) -> None:
        road = self.road()
        async with road:
            async with road.consuming():
                await road.publish(ENTRIES, Entry(1))
                await road.settled()
            await road.seek("entries", GROUP, "earliest")
            async with road.consuming():
                await road.settled()
        assert self.effects() == [1, 1]

    async def test_old_records_are_removed_while_it_consumes(self) -> None:
        short = timedelta(milliseconds=800)
        road = self.road(lease=timedelta(milliseconds=100), inbox_window=short)
        records = "SELECT count(*) FROM postroad_inbox"
        async with road.consuming():
            await road.publish(ENTRIES, Entry(1))
            await road.settled()
            assert number(self.business, records) == 1
            await eventually(lambda: number(self.business, records) == 0, "its window is over")

    def test_explain_says_where_it_lives(self) -> None:
        terms = {term.subject: term for term in self.road().explain()[0].terms}
        assert (terms["inbox"].asked, terms["inbox"].keeper) == ("7 days", "road")
        assert self.promise in terms["delivery"].detail

    promise: str


class TestSqlite(OnRoadTests):
    promise = "commits with the settlement; the write transaction opens at the first statement"

    @pytest.fixture
    def place(self, tmp_path: Path) -> Business:
        return File(tmp_path / "road.db")


class ServedTests(OnRoadTests):
    """Settled after the commit, in batches: nobody waits for a group's lock with his writes."""

    promise = "is settled after that; up to 10 transactions at once"
    sleep: str

    @asynccontextmanager
    async def consumers(
        self, *leases: timedelta
    ) -> AsyncIterator[tuple[SqlTransport, list[Consumer]]]:
        """A road in two processes' hands, a consumer each."""
        wish = Subscription(source=ENTRIES, group=GROUP, delivery="effectively-once")
        roads = [SqlTransport(self.business.url) for _ in leases]
        found = []
        for road, lease in zip(roads, leases, strict=True):
            await road.open([ENTRIES], [wish])
            found.append(await road.subscribe(wish, Plan(lease=lease)))
        try:
            yield roads[0], found
        finally:
            for road in roads:
                await road.close()

    async def _publish(self, road: SqlTransport, count: int = 1) -> None:
        made = [(ENTRIES, ENTRIES.envelope(Entry(n), 0, "tests")) for n in range(count)]
        await road.publish(made)

    async def _receive(self, consumer: Consumer, limit: int = 1) -> list[Delivery]:
        return list(await consumer.receive(limit, 1 << 20, WAIT))

    async def _handle(
        self, consumer: Consumer, delivery: Delivery, body: Callable[[Any], Awaitable[object]]
    ) -> None:
        async with cast(SqlLog, consumer).transaction(delivery, "tests") as tx:
            await tx.execute(WRITE, (1,))
            await body(tx)

    async def test_commits_are_not_lined_up(self) -> None:
        async with self.consumers(timedelta(seconds=30)) as (road, [consumer]):
            await self._publish(road, 8)
            deliveries = await self._receive(consumer, 8)
            began = time.monotonic()

            async def sleep(tx: Any) -> None:
                await tx.fetch(self.sleep)

            await asyncio.gather(*(self._handle(consumer, one, sleep) for one in deliveries))
            assert time.monotonic() - began < 8 * 0.3 / 2
        assert len(self.effects()) == 8

    async def test_a_kill_between_commit_and_settlement_repeats_no_effect(self) -> None:
        async with self.consumers(timedelta(seconds=30), timedelta(seconds=30)) as (road, found):
            await self._publish(road)
            [delivery] = await self._receive(found[0])
            await self._handle(found[0], delivery, nothing)
            await found[0].close()  # hands back what was not settled
            [again] = await self._receive(found[1])
            with pytest.raises(DuplicateError):
                await self._handle(found[1], again, nothing)
        assert self.effects() == [1]

    async def test_the_lease_is_renewed_while_a_transaction_is_open(self) -> None:
        async with self.consumers(timedelta(seconds=30)) as (road, [consumer]):
            await self._publish(road)
            [delivery] = await self._receive(consumer)

            async def renew(tx: Any) -> None:
                owned = await asyncio.wait_for(consumer.extend([delivery]), 3)
                assert list(owned) == [delivery]

            await self._handle(consumer, delivery, renew)


class TestPostgresql(ServedTests):
    sleep = "SELECT pg_sleep(0.3)"

    @pytest.fixture
    def place(self, postgresql_database: Database) -> Business:
        return Served(postgresql_database)

    async def test_its_work_is_not_taken_away_while_its_transaction_is_open(self) -> None:
        """Paused past its lease, with a transaction open: its work is its own until that ends, and
        then it is a duplicate for the other one. Nobody waits for it meanwhile."""
        short = timedelta(milliseconds=500)
        async with self.consumers(short, timedelta(seconds=30)) as (road, [zombie, other]):
            await self._publish(road, 2)
            [delivery] = await self._receive(zombie)
            taken: list[Delivery] = []

            async def pause(tx: Any) -> None:
                await asyncio.sleep(1.5)  # nobody renews the lease
                taken.extend(await self._receive(other, 2))

            await self._handle(zombie, delivery, pause)
            assert [one.offset for one in taken] == [1], "what is free is handed out meanwhile"
            [again] = await self._receive(other)
            assert again.offset == delivery.offset
            with pytest.raises(DuplicateError):
                await self._handle(other, again, nothing)
            with pytest.raises(LeaseLostError):
                await self._handle(zombie, delivery, nothing)
        assert self.effects() == [1]


class TestMariadb(ServedTests):
    sleep = "SELECT sleep(0.3)"

    @pytest.fixture
    def place(self, mariadb_database: Database) -> Business:
        return Served(mariadb_database)

    async def test_whoever_takes_its_work_away_waits_for_its_record(self) -> None:
        """Paused past its lease, with a transaction open: its message goes out again, and waits
        there, alone, until that transaction ends; then it is a duplicate."""
        short = timedelta(milliseconds=500)
        async with self.consumers(short, timedelta(seconds=30)) as (road, [zombie, other]):
            await self._publish(road)
            [delivery] = await self._receive(zombie)
            second: list[asyncio.Task[None]] = []

            async def pause(tx: Any) -> None:
                await asyncio.sleep(1.5)  # nobody renews the lease
                [again] = await self._receive(other)
                second.append(asyncio.create_task(self._handle(other, again, nothing)))
                await asyncio.sleep(0.3)
                assert not second[0].done()

            await self._handle(zombie, delivery, pause)
            with pytest.raises(DuplicateError):
                await second[0]
            with pytest.raises(LeaseLostError):
                await self._handle(zombie, delivery, nothing)
        assert self.effects() == [1]


async def nothing(tx: Any) -> None: ...
