"""One SQLite file: how connections are opened, and how a transaction begins."""

from __future__ import annotations

import os
import random
import sqlite3
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from postroad.errors import StorageBusyError, StorageError
from postroad.storage.connection import Connection
from postroad.storage.migrations import check, migrate, recheck
from postroad.storage.place import Changed, Connected
from postroad.storage.sqlite.errors import denied, is_busy, mapped
from postroad.storage.sqlite.watcher import Watcher
from postroad.storage.statements import Dialect, Statement

_CACHE_KIB = 32 * 1024
_WAL_PAGES = 4000
"""Pages in the write-ahead log before a commit carries them over: 16 MiB at 4 KiB a page."""
_WAL_BYTES_KEPT = 64 << 20


_RISK = {
    "full": "a power cut loses nothing acknowledged; the loss of the disk loses everything",
    "normal": (
        "a power cut may lose the last commits; a crash of the process loses nothing; the loss of "
        "the disk loses everything"
    ),
}


class SqliteConnection(sqlite3.Connection):
    """A `Connection` that remembers what it read inside its write transactions.

    Its memo is emptied when another connection has committed, and when a transaction of our own
    is rolled back.
    """

    memo: dict[Any, Any]
    seen: int
    relaxed: bool
    dialect: Dialect = "sqlite"
    broken: bool = False

    def execute(  # type: ignore[override]
        self, statement: Statement | str, parameters: Sequence[Any] = (), /
    ) -> sqlite3.Cursor:
        """See `Connection.execute`."""
        sql = statement if isinstance(statement, str) else statement.sqlite
        return super().execute(sql, parameters)

    def executemany(  # type: ignore[override]
        self, statement: Statement | str, rows: Iterable[Sequence[Any]], /
    ) -> sqlite3.Cursor:
        """See `Connection.executemany`."""
        sql = statement if isinstance(statement, str) else statement.sqlite
        return super().executemany(sql, rows)

    def defer(self, statement: Statement, parameters: Sequence[Any] = (), /) -> None:
        """See `Connection.defer`."""
        super().execute(statement.sqlite, parameters)

    def insert(self, statement: Statement, parameters: Sequence[Any], /) -> int:
        """See `Connection.insert`."""
        return int(self.execute(statement, parameters).lastrowid or 0)

    def insert_many(self, statement: Statement, rows: Sequence[Sequence[Any]], /) -> None:
        """See `Connection.insert_many`."""
        self.executemany(statement, rows)

    def spelled(self, statement: str, /) -> str:
        """See `Connection.spelled`."""
        return statement

    def define(self, statement: str, /) -> None:
        """See `Connection.define`."""
        self.execute(statement)

    def next_fence(self) -> int:
        """See `Connection.next_fence`."""
        self.execute("UPDATE postroad_fence SET value = value + 1")
        return int(self.execute("SELECT value FROM postroad_fence").fetchone()[0])

    def lock(self, name: str, /) -> None:
        """The one write lock is held already."""

    def announce(self, topic: str, /) -> None:
        """Others see that the file has changed."""

    def commit(self) -> None:
        """See `Connection.commit`."""
        self.execute("COMMIT")

    def abandon(self) -> None:
        """See `Connection.abandon`."""
        self.memo.clear()
        if self.in_transaction:
            self.rollback()

    def fresh(self, path: Path) -> None:
        """If another connection has committed, empty the memo and see whether the tables are
        still those we know. Call it inside the transaction.

        Raises:
            StorageVersionError: a newer Postroad has migrated the file meanwhile.
        """
        version: int = self.execute("PRAGMA data_version").fetchone()[0]
        if version != self.seen:
            self.memo.clear()
            recheck(self, str(path))
            self.seen = version


@dataclass(frozen=True)
class SqlitePlace:
    """A `Place`: one file.

    Attributes:
        path: absolute.
        durability: `full` syncs at every commit; `normal` leaves the last commits to the
            operating system, so that only a power cut can lose them.
        busy: seconds to wait for another connection's lock.
    """

    path: Path
    durability: Literal["full", "normal"] = "full"
    busy: float = 5.0

    dialect: Dialect = "sqlite"
    one_writer: bool = True
    clock: None = None
    pool: int = 1
    failure: type[Exception] = sqlite3.Error

    @property
    def risk(self) -> str:
        """See `Place.risk`."""
        return _RISK[self.durability]

    @property
    def name(self) -> str:
        """See `Place.name`."""
        return str(self.path)

    def prepare(self) -> None:
        """See `Place.prepare`."""
        prepare(self)

    def connect(self, *, read_only: bool = False) -> SqliteConnection:
        """See `Place.connect`."""
        return connect(self, read_only=read_only)

    def begin(self, connection: Connection, scope: str, *, durable: bool) -> None:
        """See `Place.begin`: there is one lock, for everything."""
        assert isinstance(connection, SqliteConnection)
        if self.durability == "full" and durable is connection.relaxed:
            connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            connection.relaxed = not durable
        begin(connection, self)

    def begin_reading(self, connection: Connection) -> None:
        """See `Place.begin_reading`."""
        assert isinstance(connection, SqliteConnection)
        connection.execute("BEGIN")
        connection.fresh(self.path)

    def mapped(self, error: Exception, *, committing: bool = False) -> StorageError:
        """See `Place.mapped`."""
        assert isinstance(error, sqlite3.Error)
        return mapped(error, self.path)

    def again(self, error: Exception) -> bool:
        """See `Place.again`: a file makes no victims."""
        return False

    def watch(self, changed: Changed, connected: Connected) -> Watcher:
        """See `Place.watch`."""
        return Watcher(lambda: self.connect(read_only=True), changed)

    def last(self, connection: Connection) -> None:
        """See `Place.last`: what is in the write-ahead log is carried over."""
        try:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error:
            pass  # somebody reads; the log is whole and the next one to close carries it over
        connection.close()


def connect(place: SqlitePlace, *, read_only: bool = False) -> SqliteConnection:
    """Open a connection for the calling thread. Nothing is written.

    Raises:
        StorageError: the file cannot be opened.
    """
    try:
        connection = sqlite3.connect(
            place.path,
            timeout=0,
            isolation_level=None,
            factory=SqliteConnection,
            cached_statements=256,
        )
    except sqlite3.Error as error:
        raise mapped(error, place.path) from error
    connection.memo, connection.seen, connection.relaxed = {}, -1, False
    try:
        # Another process may be recovering the log, or just be making it one.
        _with_patience(place, lambda: _configure(connection, place, read_only))
    except sqlite3.Error as error:
        connection.close()
        raise mapped(error, place.path) from error
    except BaseException:
        connection.close()
        raise
    return connection


def _configure(connection: SqliteConnection, place: SqlitePlace, read_only: bool) -> None:
    level = "FULL" if place.durability == "full" else "NORMAL"
    connection.execute(f"PRAGMA synchronous = {level}")
    connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    connection.execute(f"PRAGMA wal_autocheckpoint = {_WAL_PAGES}")
    connection.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES_KEPT}")
    if read_only:
        connection.execute("PRAGMA query_only = ON")
        # A reader meets a lock only while the log is recovered after a crash.
        connection.execute(f"PRAGMA busy_timeout = {int(place.busy * 1000)}")


def prepare(place: SqlitePlace) -> None:
    """Create or migrate the file. Blocks; safe in several processes at once.

    Raises:
        StorageVersionError: written by a newer Postroad; the file is left as it is.
        StorageError: it cannot be opened, read or written.
    """
    # SQLite opens what it may only read, takes its lock, and leaves a log that others cannot use.
    if place.path.exists() and not os.access(place.path, os.W_OK):
        raise denied(place.path)
    connection = connect(place)
    try:
        _with_patience(place, lambda: _prepare(connection, place))
    except sqlite3.Error as error:
        raise mapped(error, place.path) from error
    finally:
        connection.close()


def _prepare(connection: SqliteConnection, place: SqlitePlace) -> None:
    outdated = check(connection, str(place.path))
    mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
    if mode != "wal":
        connection.execute("PRAGMA journal_mode = WAL")
    if not outdated:
        # An ordinary open: find out now, not at the first publish, that we may not write.
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        migrate(connection, str(place.path))
        connection.execute("COMMIT")
    except BaseException:
        connection.abandon()
        raise


def begin(connection: SqliteConnection, place: SqlitePlace) -> None:
    """Begin a write transaction, waiting for the lock up to `place.busy`. Blocks.

    Raises:
        StorageBusyError: another process held the lock all the time.
        StorageVersionError: a newer Postroad has migrated the file since it was opened.
    """
    _with_patience(place, lambda: connection.execute("BEGIN IMMEDIATE"))
    try:
        connection.fresh(place.path)
    except BaseException:
        connection.abandon()
        raise


def _with_patience(place: SqlitePlace, action: Any) -> None:
    deadline = time.monotonic() + place.busy
    pause = 0.0005
    while True:
        try:
            action()
        except sqlite3.Error as error:
            if not is_busy(error):
                raise
            if time.monotonic() >= deadline:
                raise StorageBusyError(
                    f"{place.path} was locked by another process for {place.busy:g} s; try again, "
                    "or raise ?busy= in the URL"
                ) from error
        else:
            return
        # SQLite's own waits grow to 100 ms, and a busy neighbour would win every time.
        time.sleep(random.uniform(pause / 2, pause))
        pause = min(pause * 1.5, 0.005)
