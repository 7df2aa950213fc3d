"""Traps of the roads on database servers that were found by trying to fall into them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import msgspec
import psycopg
import pymysql
import pytest

from postroad.core.clock import SystemClock
from postroad.core.delivery import Settlement
from postroad.core.message import Message
from postroad.core.partitioner import partition_of
from postroad.core.topic import Retention, Topic
from postroad.core.transport import Kept, Plan
from postroad.errors import PublishError, StorageError
from postroad.transports.sql import retention
from tests.integration.servers_road import (
    KINDS,
    ONE,
    collect,
    group,
    message,
    opened,
    publish,
    until,
)
from tests.services.harness.sql import Database

LONG = timedelta(seconds=20)
BEYOND_64_BITS = 1 << 70
PREPARED = 12
"""Publishes after which the driver has prepared every statement that it is going to."""
IT_IS_TIME = "UPDATE postroad_scheduled SET due_us = 1"
WAITING = {
    "postgresql": "SELECT pid FROM pg_stat_activity WHERE datname = current_database() "
    "AND wait_event_type = 'Lock'",
    "mysql": "SELECT trx_id FROM information_schema.innodb_trx t "
    "JOIN information_schema.processlist p ON p.id = t.trx_mysql_thread_id "
    "WHERE p.db = database() AND t.trx_state = 'LOCK WAIT'",
}


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest) -> Database:
    found: Database = request.getfixturevalue(f"{request.param}_database")
    return found


class Gate:
    """Where threads are held until it is opened."""

    def __init__(self) -> None:
        self._reached, self._opened = threading.Event(), threading.Event()

    def hold(self) -> None:
        """For the one who is held."""
        self._reached.set()
        assert self._opened.wait(20)

    async def reached(self) -> None:
        """Until somebody is held."""
        assert await asyncio.to_thread(self._reached.wait, 20)

    def open(self) -> None:
        """Nobody is held any more."""
        self._opened.set()


def before(gate: Gate, function: Callable[..., Any]) -> Callable[..., Any]:
    def held(*args: Any) -> Any:
        gate.hold()
        return function(*args)

    return held


def after(gate: Gate, function: Callable[..., Any]) -> Callable[..., Any]:
    def held(*args: Any) -> Any:
        result = function(*args)
        gate.hold()
        return result

    return held


async def done_or_waiting(database: Database, task: asyncio.Future[Any]) -> None:
    """Until a task is done, or one of the road's connections waits for another one's lock."""
    scheme = "postgresql" if database.url.startswith("postgresql") else "mysql"
    async with asyncio.timeout(20):
        while not task.done() and not database.query(WAITING[scheme]):  # noqa: ASYNC110
            await asyncio.sleep(0.2)  # InnoDB tells nothing new to those who ask more often


def delayed(n: int, seconds: float, *, key: str | None = None) -> Message:
    due = SystemClock().now_us() + round(seconds * 1e6)
    return msgspec.structs.replace(message(n, key=key), deliver_at_us=due)


def numbers(deliveries: list[Any]) -> list[int]:
    return [int(one.message.data) for one in deliveries]


@pytest.mark.parametrize("bad", range(1, 9))
async def test_a_statement_that_fails_beside_the_commit_spoils_no_connection(
    postgresql_database: Database, bad: int
) -> None:
    """Whichever of them it is: one is the first that the driver prepares."""
    async with opened(postgresql_database.url, group()) as transport:
        for n in range(1, bad):
            await publish(transport, delayed(n, 3600))
        refused = msgspec.structs.replace(delayed(bad, 3600), expires_at_us=BEYOND_64_BITS)
        with pytest.raises(PublishError):
            await publish(transport, refused)
        for n in range(PREPARED):
            await publish(transport, delayed(n, 3600))
            await publish(transport, message(n))
        consumer = await transport.subscribe(group(), Plan())
        assert numbers(await collect(consumer, PREPARED)) == list(range(PREPARED))
        account = await transport.account(ONE.name, "g")
        assert account.scheduled == bad - 1 + PREPARED


@pytest.mark.parametrize("bad", range(1, 9))
async def test_nor_does_one_of_a_group(postgresql_database: Database, bad: int) -> None:
    """The server refuses the counting that goes along with one acknowledgement."""
    table = "ALTER TABLE postroad_counters"
    async with opened(postgresql_database.url, group()) as transport:
        await publish(transport, *map(message, range(PREPARED)))
        consumer = await transport.subscribe(group(), Plan())
        for _ in range(1, bad):
            await consumer.extend([])  # a commit of the same connection
        got = await consumer.receive(1, 1 << 30, LONG)
        postgresql_database.query(f"{table} ADD CONSTRAINT never CHECK (false) NOT VALID")
        with pytest.raises(StorageError):
            await consumer.settle([Settlement(got[0])])
        postgresql_database.query(f"{table} DROP CONSTRAINT never")
        assert await consumer.settle([Settlement(got[0])]) == ["done"]
        assert numbers(await collect(consumer, PREPARED - 1)) == list(range(1, PREPARED))


async def test_what_is_kept_beside_a_publish_stands_behind_it(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(database.url, group()) as keeper, opened(database.url) as other:
        consumer = await keeper.subscribe(group(), Plan())
        await publish(keeper, message(0))
        await collect(consumer, 1)
        gate, publisher = Gate(), other._publisher
        monkeypatch.setattr(publisher, "append", after(gate, publisher.append))
        publishing = asyncio.ensure_future(publish(other, message(1)))
        await gate.reached()
        kept = [Kept(message=message(2))]
        keeping = asyncio.ensure_future(keeper.keep(ONE, "g", kept, ordered=False, parks=False))
        await done_or_waiting(database, keeping)
        gate.open()
        await asyncio.gather(publishing, keeping)
        got = await collect(consumer, 2, seconds=20)
        assert sorted(numbers(got)) == [1, 2]
        assert len({one.offset for one in got}) == 2
        account = await keeper.account(ONE.name, "g")
        assert (account.accepted, sum(account.outcomes.values())) == (3, 3)


async def test_a_claim_that_nobody_has_comes_back(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Committed, but the connection is lost, and whoever asked for it has been cancelled."""
    lost: Exception = pymysql.err.OperationalError(2013, "lost")
    if database.url.startswith("postgresql"):
        lost = psycopg.OperationalError("lost")
    async with opened(database.url, group()) as transport:
        consumer: Any = await transport.subscribe(group(), Plan(lease=timedelta(minutes=5)))
        await publish(transport, *map(message, range(5)))
        connection: Any = transport._log.database._writer(consumer._scope)._connection
        gate, commit = Gate(), connection.commit

        def committed_and_lost() -> None:
            commit()
            gate.hold()
            connection._lost = True
            raise lost

        monkeypatch.setattr(connection, "commit", committed_and_lost)
        receiving = asyncio.ensure_future(consumer.receive(10, 1 << 30, LONG))
        await gate.reached()
        receiving.cancel()
        await asyncio.wait([receiving])
        gate.open()
        assert sorted(numbers(await collect(consumer, 5, seconds=20))) == list(range(5))
        assert connection.broken


async def test_retention_takes_nothing_from_a_group_that_joins_meanwhile(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What every group has read may go; a group that is there in time has all to read."""
    topic: Topic[int] = Topic("servers.consumed", int, retention=Retention(consumed=True))
    async with opened(database.url, group(topic, "g1")) as transport, opened(database.url) as other:
        await publish(transport, *map(message, range(5)), topic=topic)
        await collect(await transport.subscribe(group(topic, "g1"), Plan()), 5)
        gate = Gate()
        monkeypatch.setattr(retention, "_remove", before(gate, retention._remove))
        trimming = asyncio.ensure_future(transport.trim())
        await gate.reached()
        joining = asyncio.ensure_future(other.open([], [group(topic, "g2")]))
        await done_or_waiting(database, joining)
        gate.open()
        await asyncio.gather(trimming, joining)
        account = await other.account(topic.name, "g2")
        assert (account.accepted, account.backlog, account.trimmed) == (0, 0, 0)
        assert await transport.browse(topic.name, "earliest", 9) == []
        await publish(transport, message(5), topic=topic)
        consumer = await other.subscribe(group(topic, "g2"), Plan())
        assert numbers(await collect(consumer, 1)) == [5]


async def test_a_retry_wakes_a_receive_that_waits(database: Database) -> None:
    async with opened(database.url, group()) as transport:
        consumer: Any = await transport.subscribe(group(), Plan())
        for n in range(2):
            await publish(transport, message(n))
            first = await consumer.receive(10, 1 << 30, LONG)
            waiting = asyncio.ensure_future(consumer.receive(10, 1 << 30, LONG))
            await until(lambda: consumer._quiet)
            delay = timedelta(seconds=0.2)
            started = time.monotonic()
            await consumer.settle([Settlement(first[0], action="nack", delay=delay)])
            again = await waiting
            assert 0.1 < time.monotonic() - started < 2
            assert numbers(again) == [n]
            assert await consumer.settle([Settlement(again[0])]) == ["done"]


async def test_a_message_that_another_process_schedules_is_in_time(database: Database) -> None:
    async with opened(database.url, group()) as transport, opened(database.url) as other:
        consumer: Any = await transport.subscribe(group(), Plan())
        for n in range(2):
            waiting = asyncio.ensure_future(consumer.receive(10, 1 << 30, LONG))
            await until(lambda: consumer._quiet)
            started = time.monotonic()
            await publish(other, delayed(n, 0.2))
            got = await waiting
            assert 0.1 < time.monotonic() - started < 4  # without a notification it is looked
            assert numbers(got) == [n]
            assert await consumer.settle([Settlement(got[0])]) == ["done"]


async def test_what_takes_its_place_cannot_be_cancelled_any_more(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(database.url, group()) as transport, opened(database.url) as other:
        gate, appender = Gate(), transport._log.appender
        monkeypatch.setattr(appender, "_take_places", before(gate, appender._take_places))
        [receipt] = await publish(other, delayed(1, 3600))
        assert receipt.recall is not None
        database.query(IT_IS_TIME)
        consumer = await transport.subscribe(group(), Plan())
        receiving = asyncio.ensure_future(collect(consumer, 1))
        await gate.reached()
        cancelling = asyncio.ensure_future(other.cancel(receipt.recall))
        await done_or_waiting(database, cancelling)
        gate.open()
        assert await cancelling is False
        assert numbers(await receiving) == [1]


async def test_what_is_scheduled_goes_to_the_partition_that_its_key_has_now(
    database: Database,
) -> None:
    few: Topic[int] = Topic("servers.grown", int, partitions=2)
    more: Topic[int] = Topic("servers.grown", int, partitions=8)
    key = next(k for k in map(str, range(99)) if partition_of(k, 2) != partition_of(k, 8))
    async with opened(database.url, group(few)) as transport, opened(database.url) as other:
        await publish(transport, message(0, key=key), topic=few)  # it knows of two from now on
        await other.open([more], [])
        await publish(transport, delayed(1, 3600, key=key), topic=few)
        await publish(other, message(2, key=key), topic=more)
        database.query(IT_IS_TIME)
        consumer = await other.subscribe(group(more), Plan())
        got = {int(one.message.data): one.partition for one in await collect(consumer, 3)}
        now = partition_of(key, 8)
        assert got == {0: partition_of(key, 2), 1: now, 2: now}
