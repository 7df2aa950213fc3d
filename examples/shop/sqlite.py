"""SQLite under SQLAlchemy, beside other writers of the same file.

The driver by itself opens a transaction at the first INSERT, and none at a SAVEPOINT, which then
commits when it is released. So transactions are begun here, and as writers at once: one that first
reads and then wants to write is refused when somebody else has written in between.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Engine, event

_PATIENCE = 30_000
"""Milliseconds for which a writer waits for its turn."""


def prepare(engine: Engine) -> None:
    """Let the engine's transactions begin as they should."""
    event.listen(engine, "connect", _connected)
    event.listen(engine, "begin", _begin)


def _connected(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves
    connection.execute(f"PRAGMA busy_timeout = {_PATIENCE}").close()


def _begin(connection: Connection) -> None:
    if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
