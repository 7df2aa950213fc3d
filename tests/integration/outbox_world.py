"""What the tests of the outbox share: a business on any of the databases, and a road to nowhere."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pymysql
import pytest
from msgspec import Struct

from postroad.core.message import Message
from postroad.core.topic import Topic
from postroad.delivery.outbox import Outbox, OutboxTable, Relay, RelaySettings
from postroad.delivery.outbox.parking import Parked
from postroad.delivery.outbox.settings import RelayHooks
from postroad.delivery.outbox.table import OWN
from postroad.errors import PublishError, TransportUnavailableError
from postroad.storage.database import Database
from postroad.storage.opening import place_of
from postroad.storage.place import Place


class Order(Struct):
    number: int
    customer: str


ORDERS: Topic[Order] = Topic("orders.created", Order, key="customer")
CANCELLED: Topic[Order] = Topic("orders.cancelled", Order, key="customer")
TOPICS: dict[str, Topic[Any]] = {topic.name: topic for topic in (ORDERS, CANCELLED)}
QUICK = RelaySettings(
    lease=timedelta(seconds=1),
    idle=timedelta(milliseconds=100),
    first_wait=timedelta(milliseconds=5),
    longest_wait=timedelta(milliseconds=50),
)
KINDS = ("sqlite", "postgresql", "mariadb")
DEADLINE = 20.0


def url_of(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of this kind."""
    if kind == "sqlite":
        return f"sqlite:///{tmp_path}/business.db"
    url: str = request.getfixturevalue(f"{kind}_database").url
    return url


def connect(url: str) -> Any:
    """A connection of the business's own."""
    place = urlsplit(url)
    if place.scheme == "sqlite":
        return sqlite3.connect(place.path[1:])
    if place.scheme == "postgresql":
        return psycopg.connect(url)
    return pymysql.connect(
        host=place.hostname,
        port=place.port or 3306,
        user=place.username,
        password=place.password or "",
        database=place.path[1:],
    )


@contextmanager
def transaction(url: str) -> Iterator[Any]:
    """A business transaction, committed at the end of the block; rolled back by an exception."""
    connection = connect(url)
    try:
        yield connection
        connection.commit()
    finally:
        connection.close()


def run(connection: Any, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
    """SQL of the business's own, with parameters as `%s`."""
    cursor = connection.cursor()
    if isinstance(connection, sqlite3.Connection):
        sql = sql.replace("%s", "?")
    cursor.execute(sql, parameters)
    return list(cursor.fetchall()) if cursor.description else []


def query(url: str, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
    """As `run`, in a transaction of its own."""
    with transaction(url) as connection:
        return run(connection, sql, parameters)


class Road:
    """Takes messages, unless it was told not to."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, Message]] = []
        self.down = False
        self.bad: dict[str, Exception] = {}
        self.calls = 0
        self.delay = 0.0

    async def publish(self, messages: Sequence[tuple[Topic[Any], Message]]) -> None:
        self.calls += 1
        await asyncio.sleep(self.delay)
        if self.down:
            raise TransportUnavailableError("down")
        failed = {i: self.bad[m.id] for i, (_, m) in enumerate(messages) if m.id in self.bad}
        self.messages += [
            (topic.name, message)
            for index, (topic, message) in enumerate(messages)
            if index not in failed
        ]
        if failed:
            raise PublishError(failed=failed)

    @property
    def ids(self) -> list[str]:
        return [message.id for _, message in self.messages]


class Heard(RelayHooks):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.rows: list[Parked] = []
        self.waits = 0

    def parked(self, row: Parked) -> None:
        self.rows.append(row)

    def waiting(self, error: Exception, seconds: float) -> None:
        self.waits += 1


class Business:
    """A database with an outbox, and what publishes from it."""

    def __init__(self, url: str, table: OutboxTable = OWN) -> None:
        self.url = url
        self.table = table
        self.outbox = Outbox(table, source="shop")
        self.place: Place = place_of(url)
        self.place.prepare()

    def add(self, *numbers: int, customer: str = "ada", topic: Topic[Order] = ORDERS) -> list[str]:
        """In one transaction."""
        with transaction(self.url) as connection:
            return [
                self.outbox.add(connection, topic, Order(number, customer)) for number in numbers
            ]

    @asynccontextmanager
    async def relay(
        self, road: Any, settings: RelaySettings = QUICK, hooks: RelayHooks | None = None
    ) -> AsyncIterator[Relay]:
        """A relay, not yet at work."""
        made: list[Relay] = []
        database = await Database.open(self.place, lambda topics: made[0].wake(topics))
        made.append(
            Relay(database, road.publish, TOPICS, table=self.table, settings=settings, hooks=hooks)
        )
        try:
            yield made[0]
        finally:
            await made[0].close()
            await database.close()

    @asynccontextmanager
    async def at_work(
        self, road: Any, settings: RelaySettings = QUICK, hooks: RelayHooks | None = None
    ) -> AsyncIterator[Relay]:
        """A relay at work."""
        async with self.relay(road, settings, hooks) as relay:
            working = asyncio.create_task(relay.run())
            try:
                yield relay
            finally:
                await relay.close()
                await asyncio.wait_for(working, DEADLINE)

    async def drain(
        self, road: Any, settings: RelaySettings = QUICK, hooks: RelayHooks | None = None
    ) -> Relay:
        """What waits is published by a relay of its own."""
        async with self.relay(road, settings, hooks) as relay:
            await asyncio.wait_for(relay.drain(), DEADLINE)
            return relay

    async def depth(self) -> Any:
        async with self.relay(Road()) as relay:
            return await relay.depth()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for it."""

    async def asked() -> bool:
        return condition()

    await until_async(asked)


async def until_async(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait for it."""
    deadline = time.monotonic() + DEADLINE
    while not await condition():
        assert time.monotonic() < deadline, "it never came true"
        await asyncio.sleep(0.005)
