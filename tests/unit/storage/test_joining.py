"""Joining the caller's transaction: every kind of connection to SQLite, and what is refused."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from postroad.errors import DeclarationError, TransactionRequiredError
from postroad.storage.joining import AsyncJoined, Joined, is_missing_table, join
from postroad.storage.sqlite.url import parse
from postroad.storage.statements import Statement
from tests.django_database import django_connection

INSERT = Statement(
    "insert",
    {"sqlite": "INSERT INTO notes (number, word) VALUES (?2, ?1) ON CONFLICT (number) DO NOTHING"},
)
SELECT = Statement("select", {"sqlite": "SELECT number, word, '100%' FROM notes WHERE word = ?"})
DELETE = Statement("delete", {"sqlite": "DELETE FROM notes WHERE number > ?"})
WITH = Statement(
    "with",
    {
        "sqlite": "WITH new (a, b) AS (SELECT ?1, ?2) "
        "INSERT INTO notes (word, number) SELECT a, b FROM new RETURNING number"
    },
)
LOST = Statement("lost", {"sqlite": "INSERT INTO nowhere (number) VALUES (?)"})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "business.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE notes (number INTEGER PRIMARY KEY, word TEXT)")
    connection.close()
    return path


def words(file: Path) -> list[str]:
    connection = sqlite3.connect(file)
    found = [word for (word,) in connection.execute("SELECT word FROM notes ORDER BY number")]
    connection.close()
    return found


# Each opens a connection and yields it with what commits and what rolls back.
Opened = tuple[Any, Callable[[], Any], Callable[[], Any]]


@contextmanager
def plain(file: Path) -> Iterator[Opened]:
    connection = sqlite3.connect(file)
    connection.row_factory = lambda cursor, row: {"a row": "of another shape"}
    yield connection, connection.commit, connection.rollback
    connection.close()


@contextmanager
def begun(file: Path) -> Iterator[Opened]:
    connection = sqlite3.connect(file, isolation_level=None)
    connection.execute("BEGIN")
    yield (
        connection,
        lambda: connection.execute("COMMIT"),
        lambda: connection.execute("ROLLBACK"),
    )
    connection.close()


@contextmanager
def alchemy_connection(file: Path) -> Iterator[Opened]:
    engine = sqlalchemy.create_engine(f"sqlite:///{file}")
    with engine.connect() as connection:
        yield connection, connection.commit, connection.rollback
    engine.dispose()


@contextmanager
def alchemy_session(file: Path) -> Iterator[Opened]:
    engine = sqlalchemy.create_engine(f"sqlite:///{file}")
    with Session(engine) as session:
        yield session, session.commit, session.rollback
    engine.dispose()


@contextmanager
def alchemy_scoped(file: Path) -> Iterator[Opened]:
    engine = sqlalchemy.create_engine(f"sqlite:///{file}")
    session = scoped_session(sessionmaker(engine))
    yield session, session.commit, session.rollback
    session.remove()
    engine.dispose()


@contextmanager
def django_atomic(file: Path) -> Iterator[Opened]:
    from django.db import transaction

    with django_connection("sqlite3", NAME=str(file)) as connection:
        block = transaction.atomic(using=connection.alias)
        block.__enter__()
        yield (
            connection,
            lambda: block.__exit__(None, None, None),
            lambda: block.__exit__(ValueError, ValueError(), None),
        )


@contextmanager
def django_alias(file: Path) -> Iterator[Opened]:
    with django_atomic(file) as (connection, commit, rollback):
        yield connection.alias, commit, rollback


@contextmanager
def ours(file: Path) -> Iterator[Opened]:
    connection = parse(f"sqlite:///{file}").connect()
    connection.execute("BEGIN")
    yield connection, connection.commit, connection.abandon
    connection.close()


SYNC = [plain, begun, alchemy_connection, alchemy_session, alchemy_scoped, django_atomic]
SYNC += [django_alias, ours]


@pytest.mark.parametrize("opened", SYNC, ids=lambda opened: opened.__name__)
@pytest.mark.parametrize("commits", [True, False])
def test_a_synchronous_connection_is_joined(opened: Any, commits: bool, file: Path) -> None:
    with opened(file) as (connection, commit, rollback):
        joined = join(connection)
        assert isinstance(joined, Joined)
        assert (joined.is_async, joined.dialect) == (False, "sqlite")
        assert joined.insert_new(INSERT, ("one", 1))
        assert not joined.insert_new(INSERT, ("one again", 1))
        assert joined.run(WITH, ("two", 2)).rows == [(2,)]
        assert joined.run(SELECT, ("one",)).rows == [(1, "one", "100%")]
        assert joined.run(DELETE, (1,)).rowcount == 1
        assert words(file) == [], "it committed by itself"
        commit() if commits else rollback()
    assert words(file) == (["one"] if commits else [])


@asynccontextmanager
async def aio(file: Path) -> AsyncIterator[Opened]:
    async with aiosqlite.connect(file) as connection:
        connection.row_factory = aiosqlite.Row
        yield connection, connection.commit, connection.rollback


@asynccontextmanager
async def async_connection(file: Path) -> AsyncIterator[Opened]:
    engine = create_async_engine(f"sqlite+aiosqlite:///{file}")
    async with engine.connect() as connection:
        yield connection, connection.commit, connection.rollback
    await engine.dispose()


@asynccontextmanager
async def async_session(file: Path) -> AsyncIterator[Opened]:
    engine = create_async_engine(f"sqlite+aiosqlite:///{file}")
    async with AsyncSession(engine) as session:
        yield session, session.commit, session.rollback
    await engine.dispose()


@pytest.mark.parametrize(
    "opened", [aio, async_connection, async_session], ids=lambda opened: opened.__name__
)
@pytest.mark.parametrize("commits", [True, False])
async def test_an_asynchronous_connection_is_joined(opened: Any, commits: bool, file: Path) -> None:
    async with opened(file) as (connection, commit, rollback):
        joined = join(connection)
        assert isinstance(joined, AsyncJoined)
        assert (joined.is_async, joined.dialect) == (True, "sqlite")
        assert await joined.insert_new(INSERT, ("one", 1))
        assert not await joined.insert_new(INSERT, ("one again", 1))
        assert (await joined.run(WITH, ("two", 2))).rows == [(2,)]
        assert (await joined.run(SELECT, ("one",))).rows == [(1, "one", "100%")]
        assert (await joined.run(DELETE, (1,))).rowcount == 1
        assert await asyncio.to_thread(words, file) == [], "it committed by itself"
        await (commit() if commits else rollback())
    assert words(file) == (["one"] if commits else [])


def test_the_first_statement_opens_the_transaction_whatever_it_begins_with(file: Path) -> None:
    connection = sqlite3.connect(file)
    joined = join(connection)
    assert isinstance(joined, Joined)
    joined.run(WITH, ("one", 1))
    connection.rollback()
    connection.close()
    assert words(file) == []


def test_autocommit_outside_a_transaction_is_refused(file: Path) -> None:
    connection = sqlite3.connect(file, isolation_level=None)
    with pytest.raises(TransactionRequiredError, match="run BEGIN on it first"):
        join(connection)
    connection.close()
    own = parse(f"sqlite:///{file}").connect()
    with pytest.raises(TransactionRequiredError, match="inside the transaction"):
        join(own)
    own.close()


async def test_asynchronous_autocommit_is_refused(file: Path) -> None:
    async with aiosqlite.connect(file, isolation_level=None) as connection:
        with pytest.raises(TransactionRequiredError, match="run BEGIN on it first"):
            join(connection)
    engine = create_async_engine(f"sqlite+aiosqlite:///{file}", isolation_level="AUTOCOMMIT")
    async with AsyncSession(engine) as session:
        joined = join(session)
        assert isinstance(joined, AsyncJoined)
        with pytest.raises(TransactionRequiredError, match="AUTOCOMMIT"):
            await joined.run(INSERT, ("one", 1))
    await engine.dispose()
    assert words(file) == []


def test_sqlalchemy_in_autocommit_is_refused(file: Path) -> None:
    always = sqlalchemy.create_engine(f"sqlite:///{file}", isolation_level="AUTOCOMMIT")
    with always.connect() as connection:
        with pytest.raises(TransactionRequiredError, match="AUTOCOMMIT"):
            join(connection)
        join(connection.execution_options(isolation_level="SERIALIZABLE"))
    always.dispose()
    usual = sqlalchemy.create_engine(f"sqlite:///{file}")
    with usual.connect() as connection:
        now = connection.execution_options(isolation_level="AUTOCOMMIT")
        with pytest.raises(TransactionRequiredError, match="AUTOCOMMIT"):
            join(now)
    usual.dispose()


def test_django_outside_atomic_is_refused(file: Path) -> None:
    with django_connection("sqlite3", NAME=str(file)) as connection:
        with pytest.raises(TransactionRequiredError, match=r"transaction\.atomic"):
            join(connection)
        with pytest.raises(DeclarationError, match=f"no database 'nowhere'.*{connection.alias}"):
            join("nowhere")


def test_what_cannot_be_joined_is_refused_with_what_can() -> None:
    with pytest.raises(DeclarationError, match=r"builtins\.dict is no connection.*AsyncSession"):
        join({})


@pytest.mark.parametrize("opened", SYNC, ids=lambda opened: opened.__name__)
def test_a_missing_table_is_told_from_other_errors(opened: Any, file: Path) -> None:
    with opened(file) as (connection, _, rollback):
        joined = join(connection)
        assert isinstance(joined, Joined)
        with pytest.raises(Exception, match="nowhere") as raised:
            joined.run(LOST, (1,))
        assert is_missing_table(raised.value)
        assert not is_missing_table(ValueError("no table"))
        rollback()
