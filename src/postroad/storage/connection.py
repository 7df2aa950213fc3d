"""Connections to one SQLite file: how they are opened, and how a transaction begins."""

from __future__ import annotations

import os
import random
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from postroad.errors import StorageBusyError
from postroad.storage.errors import denied, is_busy, mapped
from postroad.storage.migrations import check, migrate, recheck

_CACHE_KIB = 32 * 1024
_WAL_PAGES = 4000
"""Pages in the write-ahead log before a commit carries them over: 16 MiB at 4 KiB a page."""
_WAL_BYTES_KEPT = 64 << 20


@dataclass(frozen=True)
class Place:
    """Which file, and how.

    Attributes:
        path: absolute.
        durability: `full` syncs at every commit; `normal` leaves the last commits to the
            operating system, so that only a power cut can lose them.
        busy: seconds to wait for another connection's lock.
    """

    path: Path
    durability: Literal["full", "normal"] = "full"
    busy: float = 5.0


class Connection(sqlite3.Connection):
    """A connection that remembers what it read inside its write transactions.

    `memo` holds facts of the database that only a commit can change: it is emptied when another
    connection has committed, and when a transaction of our own is rolled back.
    """

    memo: dict[Any, Any]
    seen: int

    def fresh(self, path: Path) -> None:
        """If another connection has committed, empty the memo and see whether the tables are
        still those we know. Call it inside the transaction.

        Raises:
            StorageVersionError: a newer Postroad has migrated the file meanwhile.
        """
        version: int = self.execute("PRAGMA data_version").fetchone()[0]
        if version != self.seen:
            self.memo.clear()
            recheck(self, path)
            self.seen = version

    def abandon(self) -> None:
        """Roll back whatever is open, and forget what was read in it."""
        self.memo.clear()
        if self.in_transaction:
            self.rollback()


def connect(place: Place, *, read_only: bool = False) -> Connection:
    """Open a connection for the calling thread. Nothing is written.

    Raises:
        StorageError: the file cannot be opened.
    """
    try:
        connection = sqlite3.connect(
            place.path,
            timeout=0,
            isolation_level=None,
            factory=Connection,
            cached_statements=256,
        )
    except sqlite3.Error as error:
        raise mapped(error, place.path) from error
    connection.memo, connection.seen = {}, -1
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


def _configure(connection: Connection, place: Place, read_only: bool) -> None:
    level = "FULL" if place.durability == "full" else "NORMAL"
    connection.execute(f"PRAGMA synchronous = {level}")
    connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    connection.execute(f"PRAGMA wal_autocheckpoint = {_WAL_PAGES}")
    connection.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES_KEPT}")
    if read_only:
        connection.execute("PRAGMA query_only = ON")
        # A reader meets a lock only while the log is recovered after a crash.
        connection.execute(f"PRAGMA busy_timeout = {int(place.busy * 1000)}")


def prepare(place: Place) -> None:
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


def _prepare(connection: Connection, place: Place) -> None:
    outdated = check(connection, place.path)
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
        migrate(connection, place.path)
        connection.execute("COMMIT")
    except BaseException:
        connection.abandon()
        raise


def begin(connection: Connection, place: Place) -> None:
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


def _with_patience(place: Place, action: Any) -> None:
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
