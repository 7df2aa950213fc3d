"""Noticing the commits of other processes, cheaply."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable

from postroad.errors import StorageError
from postroad.storage.connection import Connection

_FIRST = 0.005
_LONGEST = 0.05
_GROWTH = 1.2


class Watcher:
    """Calls `changed` from its own thread whenever another connection has committed.

    It polls SQLite's `data_version`, every 5 ms at first and up to every 50 ms while nothing
    happens, and only while somebody waits.
    """

    def __init__(
        self, connect: Callable[[], Connection], changed: Callable[[frozenset[str] | None], None]
    ) -> None:
        self._connect = connect
        self._changed = changed
        self._waiters = 0
        self._wanted = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="postroad-watcher", daemon=True)
        self._thread.start()

    def enter(self, *, fresh: bool = True) -> None:
        """Somebody waits from now on: what it costs to look, and how often, is the same."""
        self._waiters += 1
        self._wanted.set()

    def leave(self) -> None:
        """One fewer waits."""
        self._waiters -= 1
        if not self._waiters:
            self._wanted.clear()

    def stop(self) -> None:
        """End the thread. Blocks for at most one poll."""
        self._stopped.set()
        self._wanted.set()
        self._thread.join()

    def _run(self) -> None:
        connection: Connection | None = None
        seen, pause = -1, _FIRST
        while True:
            self._wanted.wait()
            if self._stopped.wait(pause):
                break
            try:
                if connection is None:
                    connection = self._connect()
                version = connection.execute("PRAGMA data_version").fetchone()[0]
            except (sqlite3.Error, StorageError):
                pause = _LONGEST  # the waiters ask the database themselves now and then
                continue
            pause = _FIRST if version != seen else min(pause * _GROWTH, _LONGEST)
            if version != seen:
                seen = version
                self._changed(None)
        if connection is not None:
            connection.close()
