"""Noticing what others commit: by NOTIFY within milliseconds, and by looking now and then, since a
notification may be lost with its connection, or never come through a pooler."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import psycopg

from postroad.errors import StorageError
from postroad.storage.place import Changed, Connected
from postroad.storage.poller import Poller
from postroad.storage.postgresql.connection import CHANNEL, PostgresqlConnection

_RETRY = 2.0
"""Seconds between two tries to listen again, at the most."""


class Listener(Poller):
    """A `Watch`. Its connection is opened when somebody waits for the first time. While
    notifications come, it has the waiting look every `poll` seconds; while they do not, as often
    as a `Poller`.
    """

    def __init__(
        self,
        connect: Callable[[], PostgresqlConnection],
        changed: Changed,
        connected: Connected,
        *,
        poll: float,
        is_ours: Callable[[int], bool],
    ) -> None:
        self._connect = connect
        self._connected = connected
        self._is_ours = is_ours
        self._connection: PostgresqlConnection | None = None
        self._lost = False
        self._retry_at = 0.0
        super().__init__(changed, poll=poll)

    def _interval(self) -> float:
        return super()._interval() if self._connection is None else self._poll

    def _listen(self, seconds: float) -> bool:
        if self._connection is None and time.monotonic() >= self._retry_at:
            self._open()
        if self._connection is None:
            return super()._listen(seconds)
        try:
            payloads = self._connection.notifications(seconds, self._is_ours)
        except psycopg.Error:
            self._end()
            self._lost = True
            self._connected(False)
            return False
        if payloads:
            topics = frozenset(line for payload in payloads for line in payload.split("\n"))
            self._changed(None if "" in topics else topics)
        return bool(payloads)

    def _open(self) -> None:
        try:
            self._connection = self._connect()
            self._connection.control(f"LISTEN {CHANNEL}")
        except (psycopg.Error, StorageError):
            self._retry_at = time.monotonic() + random.uniform(_RETRY / 2, _RETRY)
            self._end()
            return
        if self._lost:
            self._lost = False
            self._connected(True)
        self._changed(None)  # whatever came while nobody listened

    def _end(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
