"""One database from one event loop: writes in groups, reads beside them, nothing blocks."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import TypeVar
from zlib import crc32

from postroad.errors import ClosedError
from postroad.storage.connection import Connection
from postroad.storage.place import Changed, Connected, Place
from postroad.storage.transactions import Transactions
from postroad.storage.turn import Turn
from postroad.storage.worker import Worker, snapshot
from postroad.storage.writer import Completion, Writer

R = TypeVar("R")
T = TypeVar("T")
_GROUP_WRITERS = 2
"""Threads, with a connection each, for what groups claim and settle."""


class Database:
    """The threads around one database. Belongs to the process and the event loop that opened it.

    A place with one writer at a time has one writing thread. Elsewhere what is published goes
    through one, what a group claims and settles through one of a few others, so that neither waits
    for the other's commits.

    Attributes:
        transactions: those of handlers.
    """

    def __init__(
        self, place: Place, changed: Changed, connected: Connected = lambda _: None
    ) -> None:
        """`changed` is called on the loop after somebody else has committed, while somebody is
        between `watcher.enter()` and `watcher.leave()`; see `Place.watch`."""
        self.place = place
        self._loop = loop = asyncio.get_running_loop()
        self._process = os.getpid()
        self._turn = Turn()
        self._closed = False
        self.writer = Writer(place, self._turn, loop)
        self._writers: dict[int, Writer] = {}
        self._reader = Worker(place, loop, "reader", read_only=True)
        self._scanner = Worker(place, loop, "scanner", read_only=True)
        self.transactions = Transactions(place, self._turn, loop, self.usable)
        self.watcher = place.watch(
            lambda topics: _tell(loop, changed, topics), lambda up: _tell(loop, connected, up)
        )

    @classmethod
    async def open(
        cls,
        place: Place,
        changed: Changed = lambda _: None,
        connected: Connected = lambda _: None,
    ) -> Database:
        """Create or migrate the tables and start the threads. Raises `StorageError`s."""
        await asyncio.to_thread(place.prepare)
        return cls(place, changed, connected)

    @property
    def commits(self) -> int:
        """Write transactions so far."""
        return self.writer.commits + sum(writer.commits for writer in self._writers.values())

    def write(
        self, operation: Callable[[Connection], R], *, scope: str = "", durable: bool = True
    ) -> asyncio.Future[R]:
        """Run an operation in the next write transaction that holds the lock `scope`; see
        `Writer`.

        Cancelling the future does not undo the operation.
        """
        self.usable()
        return self._writer(scope).submit(operation, scope=scope, durable=durable)

    def _writer(self, scope: str) -> Writer:
        if self.place.one_writer or not scope:
            return self.writer
        number = crc32(scope.encode()) % _GROUP_WRITERS
        found = self._writers.get(number)
        if found is None:
            found = self._writers[number] = Writer(self.place, Turn(), self._loop)
        return found

    def post(self, operation: Callable[[Connection], R], completion: Completion) -> None:
        """As `write`; the end is told to `completion`."""
        self.usable()
        self.writer.post(operation, completion)

    def read(self, function: Callable[[Connection], R]) -> asyncio.Future[R]:
        """Run a function on one snapshot. Never waits for writers, nor they for it."""
        self.usable()
        return self._reader.submit(snapshot(function, self.place))

    def peek(self, function: Callable[[Connection], R]) -> asyncio.Future[R]:
        """As `read`, for a single statement, which is of one instant by itself."""
        if self.place.one_writer:
            return self.read(function)
        self.usable()
        return self._reader.submit(function)

    def scan(self, function: Callable[[Connection], R]) -> asyncio.Future[R]:
        """As `read`, for what may take long: a count of millions of rows holds up no reader."""
        self.usable()
        return self._scanner.submit(snapshot(function, self.place))

    def usable(self) -> None:
        """Raises:
        ClosedError: closed, or inherited over a fork.
        """
        if self._closed:
            raise ClosedError(f"{self.place.name} was closed")
        if os.getpid() != self._process:
            raise ClosedError(
                f"{self.place.name} was opened in process {self._process}, this is "
                f"{os.getpid()}: a connection does not survive a fork; open it after forking"
            )

    async def close(self) -> None:
        """Commit what is queued, checkpoint, end the threads. Idempotent."""
        if self._closed or os.getpid() != self._process:
            return
        self._closed = True
        await asyncio.to_thread(self._stop)

    def _stop(self) -> None:
        self.watcher.stop()
        self._reader.stop()
        self._scanner.stop()
        self.transactions.stop()
        for writer in self._writers.values():
            writer.stop()
        self.writer.stop()


def _tell(
    loop: asyncio.AbstractEventLoop,
    told: Callable[[T], None],
    what: T,
) -> None:
    try:
        loop.call_soon_threadsafe(told, what)
    except RuntimeError:
        pass  # the loop is closed: nobody waits any more
