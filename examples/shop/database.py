"""SQLAlchemy's engine and sessions, on the database that the road uses too."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine

from examples.shop import sqlite
from examples.shop.settings import DATABASE_URL

_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+psycopg"}


def _engine(url: str) -> AsyncEngine:
    scheme, _, rest = url.partition("://")
    if scheme not in _DRIVERS:
        raise SystemExit(f"DATABASE_URL begins with {'://, '.join(_DRIVERS)}://, not {scheme}://")
    made = create_async_engine(f"{_DRIVERS[scheme]}://{rest}", pool_pre_ping=True)
    if scheme == "sqlite":
        sqlite.prepare(made.sync_engine)
    return made


engine = _engine(DATABASE_URL)

sessions = async_sessionmaker(engine, expire_on_commit=False)
"""Sessions that write."""

readers = async_sessionmaker(engine.execution_options(isolation_level="AUTOCOMMIT"))
"""Sessions that only read: each statement for itself, and no transaction is held open."""
