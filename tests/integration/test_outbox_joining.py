"""Joining the caller's transaction on real servers, through every driver."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from operator import itemgetter
from typing import Any
from urllib.parse import urlsplit

import asyncmy
import asyncpg
import psycopg
import pymysql
import pymysql.cursors
import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from postroad import Outbox, OutboxTable, Topic
from postroad.errors import TransactionRequiredError
from postroad.storage.joining import AsyncJoined, Joined, is_missing_table, join
from postroad.storage.opening import place_of
from postroad.storage.statements import Statement
from tests.django_database import django_connection
from tests.integration.outbox_world import query
from tests.services.harness.sql import Database

INSERT = Statement(
    "insert",
    {
        "postgresql": "INSERT INTO notes (number, word, extra) "
        "VALUES (?2, ?1, CAST(CAST(?3 AS text) AS jsonb)) ON CONFLICT (number) DO NOTHING",
        "mysql": "INSERT INTO notes (number, word, extra) VALUES (?2, ?1, ?3)",
    },
)
UPSERT = Statement(
    "upsert",
    {
        "postgresql": INSERT.text("postgresql", "qmark").sql,
        "mysql": "INSERT INTO notes (number, word, extra) VALUES (?2, ?1, ?3) "
        "ON DUPLICATE KEY UPDATE again = again + 1",
    },
)
SELECT = "SELECT number, word, '100%' FROM notes WHERE word = ? FOR UPDATE"
READ = Statement("read", {"postgresql": SELECT, "mysql": SELECT})
DELETE = Statement(
    "delete", dict.fromkeys(("postgresql", "mysql"), "DELETE FROM notes WHERE number > ?")
)
LOST = Statement(
    "lost", dict.fromkeys(("postgresql", "mysql"), "DELETE FROM nowhere WHERE number > ?")
)
TABLE = (
    "CREATE TABLE notes (number BIGINT PRIMARY KEY, word VARCHAR(100), extra {json}, "
    "again INTEGER NOT NULL DEFAULT 0)"
)
BIG = 1 << 50
JSON = '{"a": 1}'

Opened = tuple[Any, Callable[[], Any], Callable[[], Any]]
"""A connection, what commits, what rolls back."""


@pytest.fixture
def postgresql(postgresql_database: Database) -> str:
    with psycopg.connect(postgresql_database.url) as connection:
        connection.execute(TABLE.format(json="jsonb"))
    return postgresql_database.url


@pytest.fixture
def mysql(mariadb_database: Database) -> str:
    with pymysql.connect(**login(mariadb_database.url)) as connection:
        connection.cursor().execute(TABLE.format(json="JSON"))
    return mariadb_database.url


def login(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    return {
        "host": parts.hostname,
        "port": parts.port,
        "user": parts.username,
        "password": parts.password or "",
        "database": parts.path[1:],
    }


def django_login(url: str) -> dict[str, Any]:
    return {name.upper().replace("DATABASE", "NAME"): value for name, value in login(url).items()}


def alchemy(url: str, driver: str) -> str:
    return f"{driver}://{url.partition('://')[2]}"


def words(url: str) -> list[str]:
    if url.startswith("postgresql"):
        with psycopg.connect(url) as connection:
            return [word for (word,) in connection.execute("SELECT word FROM notes")]
    with pymysql.connect(**login(url)) as my, my.cursor() as cursor:
        cursor.execute("SELECT word FROM notes")
        return [word for (word,) in cursor.fetchall()]


@contextmanager
def plain_psycopg(url: str) -> Iterator[Opened]:
    with psycopg.connect(url, row_factory=psycopg.rows.dict_row) as connection:
        yield connection, connection.commit, connection.rollback


@contextmanager
def psycopg_block(url: str) -> Iterator[Opened]:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("BEGIN")
        yield (
            connection,
            lambda: connection.execute("COMMIT"),
            lambda: connection.execute("ROLLBACK"),
        )


@contextmanager
def plain_pymysql(url: str) -> Iterator[Opened]:
    with pymysql.connect(**login(url), cursorclass=pymysql.cursors.DictCursor) as connection:
        yield connection, connection.commit, connection.rollback


@contextmanager
def pymysql_begun(url: str) -> Iterator[Opened]:
    with pymysql.connect(**login(url), autocommit=True) as connection:
        connection.begin()
        yield connection, connection.commit, connection.rollback


@contextmanager
def session(url: str, driver: str) -> Iterator[Opened]:
    engine = sqlalchemy.create_engine(alchemy(url, driver))
    with Session(engine) as session:
        yield session, session.commit, session.rollback
    engine.dispose()


def session_psycopg(url: str) -> Any:
    return session(url, "postgresql+psycopg")


def session_pymysql(url: str) -> Any:
    return session(url, "mysql+pymysql")


def session_mariadb(url: str) -> Any:
    return session(url, "mariadb+pymysql")


@contextmanager
def atomic(engine: str, url: str) -> Iterator[Opened]:
    from django.db import transaction

    with django_connection(engine, **django_login(url)) as connection:
        block = transaction.atomic(using=connection.alias)
        block.__enter__()
        yield (
            connection,
            lambda: block.__exit__(None, None, None),
            lambda: block.__exit__(ValueError, ValueError(), None),
        )


def django_postgresql(url: str) -> Any:
    return atomic("postgresql", url)


def django_mysql(url: str) -> Any:
    # Django's backend asks for mysqlclient, whose place PyMySQL can take.
    pymysql.install_as_MySQLdb()
    sys.modules["MySQLdb"].version_info = (2, 2, 7, "final", 1)  # type: ignore[attr-defined]
    return atomic("mysql", url)


SYNC = [
    ("postgresql", plain_psycopg),
    ("postgresql", psycopg_block),
    ("postgresql", session_psycopg),
    ("postgresql", django_postgresql),
    ("mysql", plain_pymysql),
    ("mysql", pymysql_begun),
    ("mysql", session_pymysql),
    ("mysql", session_mariadb),
    ("mysql", django_mysql),
]


@pytest.mark.parametrize(("server", "opened"), SYNC, ids=[opened.__name__ for _, opened in SYNC])
@pytest.mark.parametrize("commits", [True, False])
def test_a_synchronous_connection_is_joined(
    server: str, opened: Any, commits: bool, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue(server)
    with opened(url) as (connection, commit, rollback):
        joined = join(connection)
        assert isinstance(joined, Joined)
        assert joined.dialect == server
        assert joined.insert_new(INSERT, ("one", 1, JSON))
        assert not joined.insert_new(INSERT, ("one again", 1, JSON))
        assert not joined.insert_new(UPSERT, ("one again", 1, JSON))
        assert joined.insert_new(UPSERT, ("two", BIG, JSON))
        assert joined.run(READ, ("one",)).rows == [(1, "one", "100%")]
        assert joined.run(READ, ("three",)).rows == []
        assert joined.run(DELETE, (1,)).rowcount == 1
        assert words(url) == [], "it committed by itself"
        commit() if commits else rollback()
    assert words(url) == (["one"] if commits else [])


@asynccontextmanager
async def async_psycopg(url: str) -> AsyncIterator[Opened]:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        yield connection, connection.commit, connection.rollback


@asynccontextmanager
async def plain_asyncpg(url: str) -> AsyncIterator[Opened]:
    connection = await asyncpg.connect(url)
    transaction = connection.transaction()
    await transaction.start()
    yield connection, transaction.commit, transaction.rollback
    await connection.close()


@asynccontextmanager
async def pooled_asyncpg(url: str) -> AsyncIterator[Opened]:
    async with (
        asyncpg.create_pool(url, min_size=1, max_size=1) as pool,
        pool.acquire() as connection,
    ):
        transaction = connection.transaction()
        await transaction.start()
        yield connection, transaction.commit, transaction.rollback


@asynccontextmanager
async def plain_asyncmy(url: str) -> AsyncIterator[Opened]:
    async with asyncmy.connect(**login(url)) as connection:
        yield connection, connection.commit, connection.rollback


@asynccontextmanager
async def async_session(url: str, driver: str) -> AsyncIterator[Opened]:
    engine = create_async_engine(alchemy(url, driver))
    async with AsyncSession(engine) as session:
        yield session, session.commit, session.rollback
    await engine.dispose()


def session_asyncpg(url: str) -> Any:
    return async_session(url, "postgresql+asyncpg")


def session_async_psycopg(url: str) -> Any:
    return async_session(url, "postgresql+psycopg")


def session_asyncmy(url: str) -> Any:
    return async_session(url, "mysql+asyncmy")


@asynccontextmanager
async def connection_asyncpg(url: str) -> AsyncIterator[Opened]:
    engine = create_async_engine(alchemy(url, "postgresql+asyncpg"))
    async with engine.connect() as connection:
        yield connection, connection.commit, connection.rollback
    await engine.dispose()


ASYNC = [
    ("postgresql", async_psycopg),
    ("postgresql", plain_asyncpg),
    ("postgresql", pooled_asyncpg),
    ("postgresql", session_asyncpg),
    ("postgresql", session_async_psycopg),
    ("postgresql", connection_asyncpg),
    ("mysql", plain_asyncmy),
    ("mysql", session_asyncmy),
]


@pytest.mark.parametrize(("server", "opened"), ASYNC, ids=[opened.__name__ for _, opened in ASYNC])
@pytest.mark.parametrize("commits", [True, False])
async def test_an_asynchronous_connection_is_joined(
    server: str, opened: Any, commits: bool, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue(server)
    async with opened(url) as (connection, commit, rollback):
        joined = join(connection)
        assert isinstance(joined, AsyncJoined)
        assert joined.dialect == server
        assert await joined.insert_new(INSERT, ("one", 1, JSON))
        assert not await joined.insert_new(INSERT, ("one again", 1, JSON))
        assert not await joined.insert_new(UPSERT, ("one again", 1, JSON))
        assert await joined.insert_new(UPSERT, ("two", BIG, JSON))
        assert (await joined.run(READ, ("one",))).rows == [(1, "one", "100%")]
        assert (await joined.run(READ, ("three",))).rows == []
        assert (await joined.run(DELETE, (1,))).rowcount == 1
        assert words(url) == [], "it committed by itself"
        await (commit() if commits else rollback())
    assert words(url) == (["one"] if commits else [])


def test_autocommit_outside_a_transaction_is_refused(postgresql: str, mysql: str) -> None:
    with (
        psycopg.connect(postgresql, autocommit=True) as connection,
        pytest.raises(TransactionRequiredError, match=r"with connection\.transaction"),
    ):
        join(connection)
    with (
        pymysql.connect(**login(mysql), autocommit=True) as my,
        pytest.raises(TransactionRequiredError, match=r"connection\.begin"),
    ):
        join(my)
    with (
        django_connection("postgresql", **django_login(postgresql)) as django,
        pytest.raises(TransactionRequiredError, match=r"transaction\.atomic"),
    ):
        join(django)


async def test_asynchronous_autocommit_is_refused(postgresql: str, mysql: str) -> None:
    plain = await asyncpg.connect(postgresql)
    with pytest.raises(TransactionRequiredError, match=r"async with connection\.transaction"):
        join(plain)
    await plain.close()
    async with await psycopg.AsyncConnection.connect(postgresql, autocommit=True) as connection:
        with pytest.raises(TransactionRequiredError, match=r"with connection\.transaction"):
            join(connection)
    async with asyncmy.connect(**login(mysql), autocommit=True) as my:
        with pytest.raises(TransactionRequiredError, match=r"await connection\.begin"):
            join(my)
        await my.begin()
        assert join(my).dialect == "mysql"


@pytest.mark.parametrize(("server", "opened"), SYNC, ids=[opened.__name__ for _, opened in SYNC])
def test_a_missing_table_is_told(server: str, opened: Any, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue(server)
    with opened(url) as (connection, _, rollback):
        joined = join(connection)
        assert isinstance(joined, Joined)
        with pytest.raises(Exception, match="nowhere") as raised:
            joined.run(LOST, (1,))
        assert is_missing_table(raised.value)
        rollback()


@pytest.mark.parametrize(("server", "opened"), ASYNC, ids=[opened.__name__ for _, opened in ASYNC])
async def test_a_missing_table_is_told_asynchronously(
    server: str, opened: Any, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue(server)
    async with opened(url) as (connection, _, rollback):
        joined = join(connection)
        assert isinstance(joined, AsyncJoined)
        with pytest.raises(Exception, match="nowhere") as raised:
            await joined.run(LOST, (1,))
        assert is_missing_table(raised.value)
        await rollback()


ORDERS: Topic[dict[str, int]] = Topic("orders.created", dict[str, int], key=itemgetter("number"))
BOOKS = Outbox(OutboxTable.textbook())
TEXTBOOK = {
    "postgresql": "CREATE TABLE outbox (id uuid PRIMARY KEY, aggregate_type text, "
    "aggregate_id text, event_type text, payload jsonb, created_at timestamptz, "
    "processed boolean, processed_at timestamptz)",
    "mysql": "CREATE TABLE outbox (id CHAR(36) PRIMARY KEY, aggregate_type TEXT, "
    "aggregate_id TEXT, event_type TEXT, payload JSON, created_at DATETIME(6), "
    "processed BOOLEAN, processed_at DATETIME(6))",
}


def outboxes(server: str, request: pytest.FixtureRequest) -> str:
    """A database with both tables."""
    url: str = request.getfixturevalue(server)
    place_of(url).prepare()
    query(url, TEXTBOOK[server])
    return url


def rows(url: str) -> list[list[Any]]:
    columns = "aggregate_type, aggregate_id, payload"
    return [
        query(url, "SELECT aggregatetype, aggregateid, payload FROM postroad_outbox ORDER BY 2"),
        [row[:2] for row in query(url, f"SELECT {columns} FROM outbox ORDER BY 2")],
    ]


WANTED = [
    [("orders.created", "1", b'{"number":1}'), ("orders.created", "2", b'{"number":2}')],
    [("orders.created", "1")],
]


@pytest.mark.parametrize(("server", "opened"), SYNC, ids=[opened.__name__ for _, opened in SYNC])
@pytest.mark.parametrize("commits", [True, False])
def test_the_outbox_joins(
    server: str, opened: Any, commits: bool, request: pytest.FixtureRequest
) -> None:
    url = outboxes(server, request)
    with opened(url) as (connection, commit, rollback):
        Outbox().add(connection, ORDERS, {"number": 1})
        Outbox().add(connection, ORDERS, {"number": 2}, headers={"percent": "100%s"})
        BOOKS.add(connection, ORDERS, {"number": 1})
        assert rows(url) == [[], []]
        commit() if commits else rollback()
    assert rows(url) == (WANTED if commits else [[], []])


@pytest.mark.parametrize(("server", "opened"), ASYNC, ids=[opened.__name__ for _, opened in ASYNC])
@pytest.mark.parametrize("commits", [True, False])
async def test_the_outbox_joins_asynchronously(
    server: str, opened: Any, commits: bool, request: pytest.FixtureRequest
) -> None:
    url = outboxes(server, request)
    async with opened(url) as (connection, commit, rollback):
        await Outbox().add(connection, ORDERS, {"number": 1})
        await Outbox().add(connection, ORDERS, {"number": 2}, headers={"percent": "100%s"})
        await BOOKS.add(connection, ORDERS, {"number": 1})
        assert rows(url) == [[], []]
        await (commit() if commits else rollback())
    assert rows(url) == (WANTED if commits else [[], []])
