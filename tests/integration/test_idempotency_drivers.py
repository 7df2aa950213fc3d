"""The pieces that run in the caller's transaction, through every driver and library."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from postroad.errors import DeclarationError, TokenRefusedError, TransactionRequiredError
from postroad.idempotency import guard, processed, tokens, unique
from postroad.storage.joining import Joined, join
from postroad.storage.statements import DIALECTS, Statement
from tests.django_database import django_connection
from tests.integration.idempotency_databases import Kind, prepared
from tests.integration.test_outbox_joining import ASYNC, SYNC, Opened, alchemy, session
from tests.services.harness.sql import Database

HOUR = timedelta(hours=1)
TABLE = (
    "CREATE TABLE payments (id INTEGER NOT NULL PRIMARY KEY, reference VARCHAR(50) NOT NULL, "
    "version INTEGER NOT NULL, CONSTRAINT payments_reference UNIQUE (reference))"
)


def said(sql: str) -> Statement:
    return Statement("test", dict.fromkeys(DIALECTS, sql))


INSERT = said("INSERT INTO payments (id, reference, version) VALUES (?, ?, 1)")
NOTHING_THERE = said("INSERT INTO payments (id, reference, version) VALUES (?, NULL, 1)")
REFERENCES = said("SELECT reference FROM payments ORDER BY id")


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/shop.db"


@pytest.fixture
def postgresql(postgresql_database: Database) -> str:
    return postgresql_database.url


@pytest.fixture
def mysql(mariadb_database: Database) -> str:
    return mariadb_database.url


@pytest.fixture
def kind(server: str, request: pytest.FixtureRequest) -> Kind:
    found = prepared(request.getfixturevalue(server))
    found.script(TABLE)
    return found


@contextmanager
def plain_sqlite3(url: str) -> Iterator[Opened]:
    import sqlite3

    connection = sqlite3.connect(url.removeprefix("sqlite:///"))
    yield connection, connection.commit, connection.rollback
    connection.close()


def session_sqlite(url: str) -> Any:
    return session(url, "sqlite")


@contextmanager
def django_sqlite(url: str) -> Iterator[Opened]:
    from django.db import transaction

    with (
        django_connection("sqlite3", NAME=url.removeprefix("sqlite:///")) as connection,
        transaction.atomic(using=connection.alias),
    ):
        yield connection.alias, lambda: None, lambda: None


@asynccontextmanager
async def plain_aiosqlite(url: str) -> AsyncIterator[Opened]:
    async with aiosqlite.connect(url.removeprefix("sqlite:///")) as connection:
        yield connection, connection.commit, connection.rollback


@asynccontextmanager
async def session_aiosqlite(url: str) -> AsyncIterator[Opened]:
    engine = create_async_engine(alchemy(url, "sqlite+aiosqlite"))
    async with AsyncSession(engine) as session:
        yield session, session.commit, session.rollback
    await engine.dispose()


ALL_SYNC = [
    ("sqlite", plain_sqlite3),
    ("sqlite", session_sqlite),
    ("sqlite", django_sqlite),
    *SYNC,
]
ALL_ASYNC = [("sqlite", plain_aiosqlite), ("sqlite", session_aiosqlite), *ASYNC]


@pytest.mark.parametrize(("server", "opened"), ALL_SYNC, ids=[o.__name__ for _, o in ALL_SYNC])
def test_a_synchronous_connection(kind: Kind, opened: Any) -> None:
    with opened(kind.url) as (connection, commit, _):
        for number in (1, 2):
            with unique.once(connection, "payments_reference") as attempt:
                join(connection).run(INSERT, (number, "a"))
            assert attempt.repeated is (number == 2)
        with pytest.raises(Exception, match=r"(?i)null"), unique.once(connection, "payments_pkey"):
            join(connection).run(NOTHING_THERE, (3,))
        assert processed.first_time(connection, "invoicing", "message-1") is True
        assert processed.first_time(connection, "invoicing", "message-1") is False
        for expected in (True, False):
            changed = guard.by_version(
                connection, "payments", {"reference": "b"}, where={"id": 1}, version=1
            )
            assert changed is expected
        token = tokens.issue(connection, "voucher", valid=HOUR, content=b"\0\xff")
        assert tokens.redeem(connection, "voucher", token) == b"\0\xff"
        with pytest.raises(TokenRefusedError, match="before"):
            tokens.redeem(connection, "voucher", token)
        joined = join(connection)
        assert isinstance(joined, Joined)
        assert [tuple(row) for row in joined.run(REFERENCES).rows] == [("b",)]
        commit()
    assert kind.value("SELECT reference FROM payments") == "b"


@pytest.mark.parametrize(("server", "opened"), ALL_ASYNC, ids=[o.__name__ for _, o in ALL_ASYNC])
async def test_an_asynchronous_connection(kind: Kind, opened: Any) -> None:
    async with opened(kind.url) as (connection, commit, _):
        for number in (1, 2):
            async with unique.once(connection, "payments_reference") as attempt:
                await join(connection).run(INSERT, (number, "a"))  # type: ignore[misc]
            assert attempt.repeated is (number == 2)
        with pytest.raises(Exception, match=r"(?i)null"):
            async with unique.once(connection, "payments_pkey"):
                await join(connection).run(NOTHING_THERE, (3,))  # type: ignore[misc]
        assert await processed.first_time(connection, "invoicing", "message-1") is True
        assert await processed.first_time(connection, "invoicing", "message-1") is False
        for expected in (True, False):
            changed = await guard.by_version(
                connection, "payments", {"reference": "b"}, where={"id": 1}, version=1
            )
            assert changed is expected
        token = await tokens.issue(connection, "voucher", valid=HOUR, content=b"\0\xff")
        assert await tokens.redeem(connection, "voucher", token) == b"\0\xff"
        with pytest.raises(TokenRefusedError, match="before"):
            await tokens.redeem(connection, "voucher", token)
        await commit()
    assert kind.value("SELECT reference FROM payments") == "b"


class Base(DeclarativeBase):
    pass


class Payment(Base):
    __tablename__ = "payments"
    id: Mapped[int] = mapped_column(primary_key=True)
    reference: Mapped[str]
    version: Mapped[int] = mapped_column(default=1)


ORM = [
    ("sqlite", "sqlite", "sqlite+aiosqlite"),
    ("postgresql", "postgresql+psycopg", "postgresql+asyncpg"),
    ("mysql", "mysql+pymysql", "mysql+asyncmy"),
]


@pytest.mark.parametrize(("server", "driver", "_"), ORM)
def test_an_orm_that_writes_when_the_block_ends(kind: Kind, driver: str, _: str) -> None:
    engine = sqlalchemy.create_engine(alchemy(kind.url, driver))
    with Session(engine) as session:
        for number in (1, 2):
            with unique.once(session, "payments_reference") as attempt:
                session.add(Payment(id=number, reference="a"))
            assert attempt.repeated is (number == 2)
        session.add(Payment(id=3, reference="b"))
        session.commit()
    engine.dispose()
    assert kind.value("SELECT count(*) FROM payments") == 2


@pytest.mark.parametrize(("server", "_", "driver"), ORM)
async def test_an_asynchronous_orm(kind: Kind, driver: str, _: str) -> None:
    engine = create_async_engine(alchemy(kind.url, driver))
    async with AsyncSession(engine) as session:
        for number in (1, 2):
            async with unique.once(session, "payments_reference") as attempt:
                session.add(Payment(id=number, reference="a"))
            assert attempt.repeated is (number == 2)
        session.add(Payment(id=3, reference="b"))
        await session.commit()
    await engine.dispose()
    assert kind.value("SELECT count(*) FROM payments") == 2


@pytest.mark.parametrize("server", ["sqlite"])
async def test_an_answer_that_is_not_awaited_is_not_taken_for_a_yes(kind: Kind) -> None:
    async with plain_aiosqlite(kind.url) as (connection, _, _):
        with pytest.raises(TypeError, match="await"):
            assert processed.first_time(connection, "invoicing", "message-1")
        with pytest.raises(DeclarationError, match="async with"), unique.once(connection, "a"):
            pass
    with (
        plain_sqlite3(kind.url) as (plain, _, _),
        pytest.raises(DeclarationError, match="use `with`"),
    ):
        async with unique.once(plain, "a"):
            pass


@pytest.mark.parametrize("server", ["sqlite"])
def test_a_connection_that_commits_by_itself_is_refused(kind: Kind) -> None:
    connection = kind.connect()
    connection.isolation_level = None
    with pytest.raises(TransactionRequiredError):
        processed.first_time(connection, "invoicing", "message-1")
    with pytest.raises(TransactionRequiredError), unique.once(connection, "a"):
        pass
    connection.close()
