"""Connections and locks are bounded: how many, for how long, and what happens at the limit."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from postroad.core.delivery import Settlement
from postroad.core.transport import Plan
from postroad.errors import PostroadError, StorageBusyError, StorageUnavailableError
from postroad.storage.opening import place_of
from tests.integration.outbox_world import connect
from tests.integration.servers_road import (
    KINDS,
    MANY,
    ONE,
    collect,
    group,
    message,
    opened,
    publish,
    running,
    until,
    with_options,
)
from tests.services.harness.sql import Database
from tests.services.plugin import StartServer

POOL = 4
FIXED = 6
"""Publishing, two for groups, reading, scanning, listening (docs/databases.md)."""


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest) -> Database:
    found: Database = request.getfixturevalue(f"{request.param}_database")
    return found


def connections(database: Database) -> int:
    """How many there are to the test's database, without the one that asks."""
    ((number,),) = database.query(
        "SELECT count(*) - 1 FROM pg_stat_activity WHERE datname = current_database()"
        if database.service.name == "postgresql"
        else "SELECT count(*) - 1 FROM information_schema.processlist WHERE db = DATABASE()"
    )
    return int(number or 0)


async def test_a_process_holds_so_many_connections(database: Database) -> None:
    """One road, three groups, and thirty publishers and handlers' transactions at once."""
    names = ("a", "b", "c")
    most = 0
    url = with_options(database.url, pool=str(POOL))
    async with opened(url, *[group(name=name) for name in names]) as transport:
        await publish(transport, *[message(n) for n in range(60)])
        consumers: list[Any] = [
            await transport.subscribe(group(name=name), Plan()) for name in names
        ]

        async def handle(consumer: Any) -> None:
            for _ in range(10):
                (one,) = await consumer.receive(1, 1 << 20, timedelta(seconds=10))
                async with consumer.transaction(one, "/tests") as tx:
                    await tx.execute("SELECT 1")
                    await asyncio.sleep(0.05)

        async def work(consumer: Any) -> None:
            await asyncio.gather(*(handle(consumer) for _ in range(3)))

        async def publishing() -> None:
            for n in range(30):
                await publish(transport, message(n), topic=MANY)
                await transport.lag(ONE.name, "a")
                await transport.account(ONE.name, "a")

        tasks = [asyncio.ensure_future(work(consumer)) for consumer in consumers]
        tasks += [asyncio.ensure_future(publishing()) for _ in range(30)]
        working = asyncio.gather(*tasks)
        while not working.done():
            most = max(most, await asyncio.to_thread(connections, database))
            await asyncio.sleep(0.02)
        await working
    listening = database.service.name == "postgresql"
    assert most <= FIXED + POOL - (not listening)
    assert most > POOL + 2  # it did use them
    await until(lambda: not connections(database))


async def test_a_statement_that_takes_too_long_is_cancelled(database: Database) -> None:
    """By the server, for our error; and the connection goes on."""
    url = with_options(database.url, statement_timeout="1s", busy="3s")
    wait = "SELECT pg_sleep(30)" if database.service.name == "postgresql" else "SELECT SLEEP(30)"
    async with opened(url) as transport:
        started = time.monotonic()
        with pytest.raises(StorageBusyError, match="statement_timeout"):
            await transport._log.read(lambda c: c.execute(wait).fetchall())
        with pytest.raises(StorageBusyError, match="statement_timeout"):
            await transport._log.write(lambda c: c.execute(wait).fetchall())
        assert time.monotonic() - started < 15
        await publish(transport, message(1))
        assert await transport.topics("#")


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("postgresql", marks=pytest.mark.needs_server("postgresql")),
        pytest.param("mariadb", marks=pytest.mark.needs_server("mariadb")),
    ],
)
async def test_a_server_that_is_full_is_survived(kind: str, start_server: StartServer) -> None:
    """Opening and publishing end in our error; a road that waited goes on when there is room."""
    server = await asyncio.to_thread(start_server, kind)
    place_of(server.url).prepare()
    held: list[Any] = []
    url = with_options(server.url, busy="1s")
    async with opened(url) as transport:
        await publish(transport, message(1))
        try:
            await asyncio.to_thread(_take_all, server.url, held)
            with pytest.raises(StorageUnavailableError):
                async with opened(url):
                    raise AssertionError("there was room")
            # What has its connection works on; what needs one more is told.
            await publish(transport, message(2))
            with pytest.raises(StorageUnavailableError):
                await transport.subscribe(group(), Plan())
        finally:
            for connection in held:
                connection.close()
        consumer = await _patiently(transport)
        assert len(await collect(consumer, 2)) == 2


async def _patiently(transport: Any) -> Any:
    async with asyncio.timeout(20):
        while True:
            try:
                return await transport.subscribe(group(), Plan())
            except StorageUnavailableError:
                await asyncio.sleep(0.05)


def _take_all(url: str, held: list[Any]) -> None:
    """Every connection that the server has."""
    import pymysql

    for _ in range(1000):
        try:
            held.append(connect(url))
        except (psycopg.OperationalError, pymysql.MySQLError):
            return
    raise AssertionError("the server has no limit")


STOPPED = """
import sys
from postroad.storage.opening import place_of
from postroad.transports.sql import groups

place = place_of(sys.argv[1])
connection = place.connect()
place.begin(connection, groups.scope("g"), durable=True)
print("holds", flush=True)
sys.stdin.readline()
"""


@contextmanager
def stopped(url: str) -> Iterator[None]:
    """A process that holds a group's lock inside a transaction, and is stopped there."""
    with running(STOPPED, url) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "holds\n"
        os.kill(process.pid, signal.SIGSTOP)
        yield
        os.kill(process.pid, signal.SIGCONT)


async def test_a_process_that_is_stopped_holds_a_lock_for_so_long(database: Database) -> None:
    """The server ends its transaction, and the others go on."""
    url = with_options(database.url, busy="60s")
    async with opened(url, group()) as transport:
        await publish(transport, *[message(n) for n in range(3)])
        consumer = await transport.subscribe(group(), Plan())
        with stopped(with_options(database.url, idle_transaction="2s")):
            started = time.monotonic()
            got = await consumer.receive(10, 1 << 20, timedelta(seconds=30))
            seconds = time.monotonic() - started
            assert len(got) == 3
            assert 1 < seconds < 15
            assert await consumer.settle([Settlement(one) for one in got]) == ["done"] * 3


async def test_who_waits_for_a_stopped_process_is_told(database: Database) -> None:
    """Where `busy` is shorter than the idle limit of transactions, by our error."""
    async with opened(with_options(database.url, busy="1s"), group()) as transport:
        await publish(transport, message(1))
        consumer = await transport.subscribe(group(), Plan())
        with stopped(database.url):
            started = time.monotonic()
            with pytest.raises(StorageBusyError) as caught:
                await consumer.receive(10, 1 << 20, timedelta(seconds=1))
            assert time.monotonic() - started < 10
            assert isinstance(caught.value, PostroadError)
            await publish(transport, message(2))  # publishers need no group's lock
