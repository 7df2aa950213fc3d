"""Effectively-once against at-least-once, both with the same business write: one UPDATE and one
INSERT for each message, in a transaction of the handler's."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import psycopg

from benchmarks.subjects import postgresql
from benchmarks.subjects.order import TOPIC, OrderCreated, orders
from benchmarks.subjects.road import Counter, time_to_settle
from postroad import Postroad, Transaction

CONCURRENCY = 10
"""Handlers at once, each with a connection: the default of `?pool=`."""
_ACCOUNTS = 10_000
_TABLES = (
    "CREATE TABLE accounts (number bigint PRIMARY KEY, cents bigint NOT NULL)",
    "CREATE TABLE entries (order_id bigint, customer text, cents bigint)",
    f"INSERT INTO accounts SELECT n, 0 FROM generate_series(0, {_ACCOUNTS - 1}) n",
)
_UPDATE = "UPDATE accounts SET cents = cents + $1 WHERE number = $2"
_INSERT = "INSERT INTO entries (order_id, customer, cents) VALUES ($1, $2, $3)"


def at_least_once(figure: str, server: str, count: int) -> Mapping[str, float]:
    """The handler writes through a pool of psycopg connections of its own."""

    async def run(url: str) -> Mapping[str, float]:
        counter = Counter(count)
        road = Postroad(url, hooks=counter)
        pool: asyncio.LifoQueue[psycopg.AsyncConnection[Any]] = asyncio.LifoQueue()
        for _ in range(CONCURRENCY):
            connection = await psycopg.AsyncConnection.connect(
                url, cursor_factory=psycopg.AsyncRawCursor
            )
            pool.put_nowait(connection)

        @road.subscribe(TOPIC, group="bank", start="earliest", concurrency=CONCURRENCY)
        async def handler(order: OrderCreated) -> None:
            connection = await pool.get()
            try:
                async with connection.transaction():
                    number = order.order_id % _ACCOUNTS
                    await connection.execute(_UPDATE, (order.cents, number))
                    values = (order.order_id, order.customer, order.cents)
                    await connection.execute(_INSERT, values)
            finally:
                pool.put_nowait(connection)

        found = await _measured(figure, url, road, counter, count)
        while not pool.empty():
            await pool.get_nowait().close()
        return found

    return _with_tables(server, run)


def effectively_once(figure: str, server: str, count: int) -> Mapping[str, float]:
    """The handler writes through `tx`, and the road's database has the inbox."""

    async def run(url: str) -> Mapping[str, float]:
        counter = Counter(count)
        road = Postroad(url, hooks=counter)

        @road.subscribe(
            TOPIC,
            group="bank",
            start="earliest",
            concurrency=CONCURRENCY,
            delivery="effectively-once",
        )
        async def handler(order: OrderCreated, tx: Transaction) -> None:
            number = order.order_id % _ACCOUNTS
            await tx.execute(_UPDATE, (order.cents, number))
            values = (order.order_id, order.customer, order.cents)
            await tx.execute(_INSERT, values)

        return await _measured(figure, url, road, counter, count)

    return _with_tables(server, run)


def effectively_once_beside(figure: str, server: str, count: int) -> Mapping[str, float]:
    """As `effectively_once`, with the road in another database of the server."""

    async def run(url: str) -> Mapping[str, float]:
        with postgresql.database(server) as elsewhere:
            counter = Counter(count)
            road = Postroad(elsewhere, database=url, hooks=counter)

            @road.subscribe(
                TOPIC,
                group="bank",
                start="earliest",
                concurrency=CONCURRENCY,
                delivery="effectively-once",
            )
            async def handler(order: OrderCreated, tx: Transaction) -> None:
                number = order.order_id % _ACCOUNTS
                await tx.execute(_UPDATE, (order.cents, number))
                values = (order.order_id, order.customer, order.cents)
                await tx.execute(_INSERT, values)

            return await _measured(figure, url, road, counter, count)

    return _with_tables(server, run)


def _with_tables(server: str, run: Any) -> Mapping[str, float]:
    with postgresql.database(server) as url:
        with psycopg.connect(url, autocommit=True) as connection:
            for statement in _TABLES:
                connection.execute(statement)
        found: Mapping[str, float] = asyncio.run(run(url))
    return found


async def _measured(
    figure: str, url: str, road: Postroad, counter: Counter, count: int
) -> Mapping[str, float]:
    async with road:
        await road.publish_many(TOPIC, orders(count))
        await asyncio.to_thread(postgresql.settled, url)
        seconds = await time_to_settle(road, counter)
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT count(*) FROM entries").fetchone()
    if row is None or row[0] != count:
        raise RuntimeError(f"{row} effects of {count} messages")
    return {figure: count / seconds}
