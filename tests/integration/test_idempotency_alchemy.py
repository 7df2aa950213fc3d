"""SQLAlchemy on SQLite: what `once` inserts first shares the fate of the session."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from postroad.idempotency import unique

TABLE = "CREATE TABLE payments (reference TEXT UNIQUE)"
INSERT = "INSERT INTO payments VALUES (:reference)"


def kept(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return [row[0] for row in connection.execute("SELECT reference FROM payments")]


def test_a_session_that_is_rolled_back_keeps_nothing(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/shop.db")
    with engine.begin() as connection:
        connection.execute(text(TABLE))
    for reference, keeps in (("a", False), ("b", True)):
        with Session(engine) as session:
            with unique.once(session, "payments.reference"):
                session.execute(text(INSERT), {"reference": reference})
            session.commit() if keeps else session.rollback()
    engine.dispose()
    assert kept(tmp_path / "shop.db") == ["b"]


async def test_nor_does_an_asynchronous_one(tmp_path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/shop.db")
    async with engine.begin() as connection:
        await connection.execute(text(TABLE))
    for reference, keeps in (("a", False), ("b", True)):
        async with AsyncSession(engine) as session:
            async with unique.once(session, "payments.reference"):
                await session.execute(text(INSERT), {"reference": reference})
            await (session.commit() if keeps else session.rollback())
    await engine.dispose()
    assert kept(tmp_path / "shop.db") == ["b"]
