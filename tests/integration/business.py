"""Business databases for tests of the inbox: a file, and a database on a server."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tests.services.harness.sql import Database


class Business(Protocol):
    """A database beside the road, as the test looks into it."""

    @property
    def url(self) -> str: ...

    def query(self, statement: str) -> Sequence[tuple[Any, ...]]:
        """Run one statement and commit it; its rows, as text."""
        ...


@dataclass
class File:
    """On SQLite."""

    path: Path

    @property
    def url(self) -> str:
        return f"sqlite:///{self.path}"

    def query(self, statement: str) -> Sequence[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.path, isolation_level=None, timeout=10)) as connection:
            rows = connection.execute(statement).fetchall()
        return [tuple(None if value is None else str(value) for value in row) for row in rows]


@dataclass
class Served:
    """On a server."""

    database: Database

    @property
    def url(self) -> str:
        return self.database.url

    def query(self, statement: str) -> Sequence[tuple[Any, ...]]:
        return self.database.query(statement)


def number(business: Business, statement: str) -> int:
    """The one number that a query brings."""
    [(value,)] = business.query(statement)
    return int(value or 0)
