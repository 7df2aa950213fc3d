"""What wakes another process's consumer: NOTIFY within milliseconds, else a look now and then."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from postroad.core.delivery import Settlement
from postroad.core.notices import Disconnected, Reconnected
from postroad.core.transport import Plan
from postroad.transports.sql import SqlTransport
from tests.integration.servers_road import group, opened, running, said, with_options
from tests.services.harness.sql import Database

NOTIFIED = 0.5
"""Seconds; nothing but a notification comes so soon where looking is a minute away."""
LOOKED = 4.0
"""Seconds; the longest look is after one and a quarter, and then it is read twice."""
RARELY = {"poll": "60s"}
LISTENING = (
    "FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%' "
    "AND pid <> pg_backend_pid()"
)

PUBLISHER = """
import asyncio, sys, time
from tests.integration.servers_road import message, opened, publish

async def main(url):
    async with opened(url) as transport:
        await publish(transport, message(0))
        print("ready", flush=True)
        n = 0
        while await asyncio.to_thread(sys.stdin.readline):
            n += 1
            await publish(transport, message(n))
            print(time.monotonic(), flush=True)

asyncio.run(main(sys.argv[1]))
"""


class Idle:
    """A consumer that waits, and a publisher in another process."""

    def __init__(
        self, transport: SqlTransport, consumer: Any, publisher: subprocess.Popen[str]
    ) -> None:
        self.transport = transport
        self._consumer = consumer
        self._publisher = publisher

    async def delay(self) -> float:
        """Seconds from a commit of the other process to its message here."""
        receiving = asyncio.ensure_future(self.receive())
        await asyncio.sleep(0.3)  # it is idle by now
        assert self._publisher.stdin is not None
        self._publisher.stdin.write("go\n")
        self._publisher.stdin.flush()
        published = float(await said(self._publisher))
        return await receiving - published

    async def receive(self) -> float:
        got = await self._consumer.receive(10, 1 << 30, timedelta(seconds=20))
        now = time.monotonic()
        assert await self._consumer.settle([Settlement(one) for one in got]) == ["done"]
        return now


@asynccontextmanager
async def idle(url: str, **plan: Any) -> AsyncIterator[Idle]:
    subscription = group(order="key") if plan.get("ordered") else group()
    async with opened(url, subscription) as transport:
        with running(PUBLISHER, url) as publisher:
            assert await said(publisher) == "ready"
            consumer = await transport.subscribe(subscription, Plan(**plan))
            found = Idle(transport, consumer, publisher)
            await found.receive()
            yield found


async def listening(database: Database, number: int) -> None:
    async with asyncio.timeout(20):
        while len(database.query(f"SELECT pid {LISTENING}")) != number:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("ordered", [False, True])
async def test_notify_wakes_an_idle_consumer(postgresql_database: Database, ordered: bool) -> None:
    async with idle(with_options(postgresql_database.url, **RARELY), ordered=ordered) as consumer:
        await listening(postgresql_database, 1)
        delays = [await consumer.delay() for _ in range(5)]
        assert max(delays) < NOTIFIED


async def test_without_notify_it_looks(postgresql_database: Database) -> None:
    async with idle(with_options(postgresql_database.url, notify="off")) as consumer:
        assert postgresql_database.query(f"SELECT pid {LISTENING}") == []
        for _ in range(3):
            assert await consumer.delay() < LOOKED


async def test_mariadb_looks(mariadb_database: Database) -> None:
    async with idle(mariadb_database.url) as consumer:
        for _ in range(3):
            assert await consumer.delay() < LOOKED


async def test_a_lost_listener_is_replaced(postgresql_database: Database) -> None:
    """Until then it looks; what came meanwhile is found, and the loss is told."""
    async with idle(with_options(postgresql_database.url, **RARELY)) as consumer:
        notices = consumer.transport.notices()
        await listening(postgresql_database, 1)
        for _ in range(2):
            postgresql_database.query(f"SELECT pg_terminate_backend(pid) {LISTENING}")
            assert await consumer.delay() < LOOKED
            await listening(postgresql_database, 1)
            assert isinstance(await asyncio.wait_for(anext(notices), 10), Disconnected)
            assert isinstance(await asyncio.wait_for(anext(notices), 10), Reconnected)
            assert await consumer.delay() < NOTIFIED


async def test_while_nobody_can_listen_it_looks(postgresql_database: Database) -> None:
    """The server takes no new connection, so that the lost listener finds no place."""
    database = postgresql_database

    def administer(statement: str) -> None:
        database.service.query(database.server_url, statement)

    async with idle(with_options(database.url, **RARELY)) as consumer:
        await listening(database, 1)
        await consumer.delay()  # by now it has every connection that it needs
        administer(f"ALTER DATABASE {database.name} ALLOW_CONNECTIONS false")
        here = LISTENING.replace("current_database()", f"'{database.name}'")
        administer(f"SELECT pg_terminate_backend(pid) {here}")
        delays = [await consumer.delay() for _ in range(3)]
        assert max(delays) < LOOKED
        administer(f"ALTER DATABASE {database.name} ALLOW_CONNECTIONS true")
        await listening(database, 1)
        assert await consumer.delay() < NOTIFIED
