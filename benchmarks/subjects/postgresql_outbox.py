"""The outbox on PostgreSQL: what a row more in the caller's transaction costs, and how fast a relay
empties it into another road."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from zlib import crc32

import asyncpg
import psycopg

from benchmarks.subjects import postgresql
from benchmarks.subjects.order import TOPIC, encoded, orders
from benchmarks.subjects.stopwatch import Stopwatch
from postroad import Outbox, Postroad
from postroad.core.clock import SystemClock
from postroad.core.message import new_id
from postroad.storage.database import Database
from postroad.storage.opening import place_of

_COLUMNS = "id, aggregatetype, aggregateid, type, payload, source, headers, slice, created_at"
_INSERT = f"INSERT INTO postroad_outbox ({_COLUMNS}) VALUES "
_PSYCOPG = _INSERT + "(%s, %s, %s, %s, %s, %s, %s, %s, %s)"
_ASYNCPG = _INSERT + "($1, $2, $3, $4, $5, $6, $7, $8, $9)"
_SLICES = 32
_Row = tuple[Any, ...]


def rows(count: int) -> list[_Row]:
    """Rows as `Outbox.add` writes them."""
    now, made = SystemClock().now_us(), []
    for data in encoded(count):
        id_ = new_id()
        slice_ = crc32(id_.encode()) % _SLICES
        made.append((id_, TOPIC.name, "", TOPIC.name, data, "shop", None, slice_, now))
    return made


async def _migrated(url: str) -> None:
    database = await Database.open(place_of(url), lambda _: None)
    await database.close()


# ------------------------------------------------------------------------------- adding


def insert_psycopg(figure: str, server: str, count: int, size: int) -> Mapping[str, float]:
    """The same row by hand, `size` in a transaction."""
    prepared = rows(count)

    def one(connection: psycopg.Connection[Any], number: int) -> None:
        connection.execute(_PSYCOPG, prepared[number])

    return _psycopg(figure, server, count, size, one)


def add_psycopg(figure: str, server: str, count: int, size: int) -> Mapping[str, float]:
    """`outbox.add`, `size` in a transaction."""
    outbox, payloads = Outbox(source="shop"), orders(count)

    def one(connection: psycopg.Connection[Any], number: int) -> None:
        outbox.add(connection, TOPIC, payloads[number])

    return _psycopg(figure, server, count, size, one)


def _psycopg(
    figure: str,
    server: str,
    count: int,
    size: int,
    one: Callable[[psycopg.Connection[Any], int], None],
) -> Mapping[str, float]:
    with postgresql.database(server) as url:
        asyncio.run(_migrated(url))
        with psycopg.connect(url) as connection:

            def several(numbers: Sequence[int]) -> None:
                for number in numbers:
                    one(connection, number)

            several(range(10))  # the statement is prepared
            connection.rollback()
            postgresql.settled(url)
            with Stopwatch() as watch:
                for start in range(0, count, size):
                    several(range(start, start + size))
                    connection.commit()
            _check(connection.execute("SELECT count(*) FROM postroad_outbox").fetchone(), count)
    return {figure: count / watch.seconds}


def _check(found: Any, count: int) -> None:
    if found is None or found[0] != count:
        raise RuntimeError(f"{found} rows in place of {count}")


def insert_asyncpg(figure: str, server: str, count: int, size: int) -> Mapping[str, float]:
    """The same row by hand with asyncpg, `size` in a transaction."""
    return asyncio.run(_asyncpg(figure, server, count, size, by_hand=True))


def add_asyncpg(figure: str, server: str, count: int, size: int) -> Mapping[str, float]:
    """`outbox.add` with asyncpg, `size` in a transaction."""
    return asyncio.run(_asyncpg(figure, server, count, size, by_hand=False))


async def _asyncpg(
    figure: str, server: str, count: int, size: int, *, by_hand: bool
) -> Mapping[str, float]:
    outbox, payloads, prepared = Outbox(source="shop"), orders(count), rows(count)
    with postgresql.database(server) as url:
        await _migrated(url)
        connection = await asyncpg.connect(url)

        async def several(numbers: Sequence[int]) -> None:
            async with connection.transaction():
                for number in numbers:
                    if by_hand:
                        await connection.execute(_ASYNCPG, *prepared[number])
                    else:
                        await outbox.add(connection, TOPIC, payloads[number])

        await several(range(10))
        await connection.execute("TRUNCATE postroad_outbox")
        await asyncio.to_thread(postgresql.settled, url)
        with Stopwatch() as watch:
            for start in range(0, count, size):
                await several(range(start, start + size))
        _check(await connection.fetchrow("SELECT count(*) FROM postroad_outbox"), count)
        await connection.close()
    return {figure: count / watch.seconds}


# ------------------------------------------------------------------------------- relaying


def relay(figure: str, server: str, count: int) -> Mapping[str, float]:
    """A relay of one process, with its defaults, from the outbox of one database to the road of
    another one, until every row is published and marked."""
    with postgresql.database(server) as business, postgresql.database(server) as target:
        return asyncio.run(_relay(figure, business, target, count))


async def _relay(figure: str, business: str, target: str, count: int) -> Mapping[str, float]:
    await _migrated(business)
    with psycopg.connect(business) as connection:
        copying = f"COPY postroad_outbox ({_COLUMNS}) FROM STDIN"
        with connection.cursor() as cursor, cursor.copy(copying) as copy:
            for row in rows(count):
                copy.write_row(row)
    road = Postroad(target, name="shop")
    road.subscribe(TOPIC, group="all", start="earliest")(_nothing)
    async with road:
        database = await Database.open(place_of(business), lambda _: None)
        await asyncio.to_thread(postgresql.settled, business)
        working = road.relay(database)
        with Stopwatch() as watch:
            await working.drain()
        await working.close()
        await database.close()
        (lag,) = await road.lag(TOPIC.name, "all")
    if working.figures.published != count or lag.messages != count:
        raise RuntimeError(f"{working.figures.published} of {count} relayed, {lag.messages} there")
    return {figure: count / watch.seconds}


async def _nothing(order: Any) -> None:
    """Nobody consumes here."""
