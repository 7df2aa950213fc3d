"""The three databases of the idempotency tests, and a hundred callers at once on each."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import psycopg
import pymysql

from postroad.storage.opening import place_of

R = TypeVar("R")
DUPLICATES = 100
_DEADLOCK = 1213


@dataclass(frozen=True)
class Kind:
    """A database with our tables in it.

    Attributes:
        url: as `Keys` takes it.
        mark: how its driver writes a parameter.
    """

    url: str
    mark: str

    @property
    def name(self) -> str:
        return self.url.partition(":")[0]

    def connect(self) -> Any:
        """A connection of its driver, which opens a transaction by itself."""
        if self.name == "postgresql":
            return psycopg.connect(self.url)
        if self.name == "mysql":
            return pymysql.connect(**login(self.url))
        return sqlite3.connect(
            self.url.removeprefix("sqlite:///"), timeout=60, isolation_level="IMMEDIATE"
        )

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        """A connection whose transaction is committed at the end, and undone by an exception."""
        with closing(self.connect()) as connection:
            try:
                yield connection
            except BaseException:
                connection.rollback()
                raise
            connection.commit()

    def patiently(self, call: Callable[[], R]) -> R:
        """What a transaction returns; a deadlock's victim is run again, as MySQL demands it."""
        for _ in range(DUPLICATES):
            try:
                return call()
            except pymysql.OperationalError as error:
                if error.args[0] != _DEADLOCK:
                    raise
        raise AssertionError("a deadlock's victim each time")

    def execute(self, connection: Any, text: str, parameters: tuple[Any, ...] = ()) -> Any:
        """Run a statement. Where it has no parameters, it is taken as it is written."""
        cursor = connection.cursor()
        if parameters:
            cursor.execute(text.replace("?", self.mark), parameters)
        else:
            cursor.execute(text)
        return cursor

    def script(self, *statements: str) -> None:
        with self.transaction() as connection:
            for statement in statements:
                self.execute(connection, statement)

    def value(self, text: str) -> Any:
        """The first column of the first row."""
        with self.transaction() as connection:
            return self.execute(connection, text).fetchone()[0]

    def at_once(self, call: Callable[[int], R], number: int = DUPLICATES) -> list[R]:
        """What so many threads return that begin together."""
        barrier = threading.Barrier(number)

        def begin(index: int) -> R:
            barrier.wait(timeout=60)
            return call(index)

        with ThreadPoolExecutor(number) as pool:
            return list(pool.map(begin, range(number)))


def login(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    return {
        "host": parts.hostname,
        "port": parts.port,
        "user": parts.username,
        "password": parts.password or "",
        "database": parts.path[1:],
    }


def prepared(url: str) -> Kind:
    """A database with our tables."""
    place_of(url).prepare()
    return Kind(url, "?" if url.startswith("sqlite") else "%s")
