"""The limit: sqlite3 from the standard library on the very tables of the road, with the rows that
the road writes, made before the clock starts."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.subjects.order import TOPIC, OrderCreated, encoded
from benchmarks.subjects.stopwatch import Stopwatch
from postroad.core.clock import SystemClock
from postroad.core.message import new_id
from postroad.storage.sqlite.connection import SqlitePlace, connect, prepare
from postroad.storage.statements import load
from postroad.transports.sql.rows import OFFSET_BITS
from postroad.transports.sql.topics import ensure_topic

_INSERT = load("log")["append"].sqlite
_CLAIM = 100
_READ = (
    "SELECT position, id, origin, key, time_us, appended_us, expires_at_us, data, envelope "
    "FROM postroad_messages WHERE position >= ? ORDER BY position LIMIT ?"
)
_Row = tuple[Any, ...]


def rows(count: int, stream: int = 1, first: int = 0) -> list[_Row]:
    """Rows as the road writes them: same columns, same kinds of values."""
    now = SystemClock().now_us()
    base, origin = stream << OFFSET_BITS, 0x1234_5678_9ABC
    return [
        (base + first + number, new_id(), origin, None, now, now, None, data, None)
        for number, data in enumerate(encoded(count))
    ]


def open_file(folder: str) -> sqlite3.Connection:
    """A new file with the full schema, opened with the road's own settings (WAL, FULL)."""
    place = SqlitePlace(Path(folder) / "raw.db")
    prepare(place)
    connection = connect(place)
    connection.execute("BEGIN IMMEDIATE")
    ensure_topic(connection, TOPIC, SystemClock().now_us())
    connection.execute("COMMIT")
    return connection


def insert(figure: str, count: int, size: int, folder: str | None = None) -> Mapping[str, float]:
    """Insert rows, `size` a transaction."""
    prepared = rows(count)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        connection = open_file(place)
        with Stopwatch() as watch:
            for start in range(0, count, size):
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany(_INSERT, prepared[start : start + size])
                connection.execute("COMMIT")
        seconds = watch.seconds
        connection.close()
    return {figure: count / seconds}


def lean_consumer(figure: str, count: int, folder: str | None = None) -> Mapping[str, float]:
    """Claim 100 in a thread, decode, call an async handler, ack in the next claim's transaction."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        connection = open_file(place)
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(_INSERT, rows(count))
        connection.execute("COMMIT")
        connection.close()
        seconds = asyncio.run(_consume(Path(place) / "raw.db", count))
    return {figure: count / seconds}


async def _consume(path: Path, count: int) -> float:
    decode = msgspec.json.Decoder(OrderCreated).decode
    handled = 0

    async def handler(order: OrderCreated) -> None:
        nonlocal handled
        handled += 1

    call: Callable[[OrderCreated], Awaitable[None]] = handler
    loop = asyncio.get_running_loop()
    claims = _Claims(path)
    with Stopwatch() as watch:
        while batch := await loop.run_in_executor(None, claims.next):
            for row in batch:
                await call(decode(row[7]))
    seconds = watch.seconds
    if handled != count:
        raise RuntimeError(f"handled {handled} of {count}")
    return seconds


class _Claims:
    """Claims by hand, in two small tables of its own: one transaction acks the last range and
    takes the next. There is one consumer and no failure, which is what makes it lean."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._next = 0
        self._number = 0

    def next(self) -> list[_Row]:
        """The next hundred; on a thread."""
        if self._connection is None:
            self._connection = self._open()
        run = self._connection.execute
        run("BEGIN IMMEDIATE")
        run("DELETE FROM lean_claims WHERE id = ?", (self._number,))
        first = (1 << OFFSET_BITS) + self._next
        found = run(_READ, (first, _CLAIM)).fetchall()
        if found:
            self._number += 1
            run("INSERT INTO lean_claims VALUES (?, ?, ?)", (self._number, first, len(found)))
            self._next += len(found)
            run("UPDATE lean_cursor SET next = ?", (self._next,))
        run("COMMIT")
        return found

    def _open(self) -> sqlite3.Connection:
        # Used by one thread at a time, which need not be the same one.
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA wal_autocheckpoint = 4000")
        connection.execute("PRAGMA cache_size = -32768")
        connection.execute("CREATE TABLE lean_claims (id INTEGER PRIMARY KEY, first, size)")
        connection.execute("CREATE TABLE lean_cursor (next)")
        connection.execute("INSERT INTO lean_cursor VALUES (0)")
        return connection
