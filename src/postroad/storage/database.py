"""One SQLite file from one event loop: writes in groups, reads beside them, nothing blocks."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import TypeVar

from postroad.errors import ClosedError, StorageBusyError
from postroad.storage.connection import Connection, Place, begin, prepare
from postroad.storage.turn import Turn
from postroad.storage.watcher import Watcher
from postroad.storage.worker import Worker, snapshot
from postroad.storage.writer import Completion, Writer

R = TypeVar("R")


class Database:
    """The threads around one file. Belongs to the process and the event loop that opened it."""

    def __init__(self, place: Place, changed: Callable[[], None]) -> None:
        """`changed` is called on the loop after another connection has committed, while
        somebody is between `watcher.enter()` and `watcher.leave()`."""
        self.place = place
        loop = asyncio.get_running_loop()
        self._process = os.getpid()
        self._turn = Turn()
        self._closed = False
        self.writer = Writer(place, self._turn, loop)
        self._reader = Worker(place, loop, "reader", read_only=True)
        self._scanner = Worker(place, loop, "scanner", read_only=True)
        self.handlers = Worker(place, loop, "handlers")
        self.watcher = Watcher(place, lambda: _tell(loop, changed))

    @classmethod
    async def open(cls, place: Place, changed: Callable[[], None]) -> Database:
        """Create or migrate the file and start the threads. Raises `StorageError`s."""
        await asyncio.to_thread(prepare, place)
        return cls(place, changed)

    def write(
        self, operation: Callable[[Connection], R], *, durable: bool = True
    ) -> asyncio.Future[R]:
        """Run an operation in the next write transaction; see `Writer`.

        Cancelling the future does not undo the operation.
        """
        self.usable()
        return self.writer.submit(operation, durable=durable)

    def post(self, operation: Callable[[Connection], R], completion: Completion) -> None:
        """As `write`; the end is told to `completion`."""
        self.usable()
        self.writer.post(operation, completion)

    def read(self, function: Callable[[Connection], R]) -> asyncio.Future[R]:
        """Run a function on one snapshot. Never waits for writers, nor they for it."""
        self.usable()
        return self._reader.submit(snapshot(function, self.place.path))

    def scan(self, function: Callable[[Connection], R]) -> asyncio.Future[R]:
        """As `read`, for what may take long: a count of millions of rows holds up no reader."""
        self.usable()
        return self._scanner.submit(snapshot(function, self.place.path))

    def handle(self, function: Callable[[Connection], R]) -> asyncio.Future[R]:
        """Run a function on the connection of handlers' transactions, outside any transaction
        unless `begin` has opened one."""
        self.usable()
        return self.handlers.submit(function)

    def begin(self, connection: Connection) -> None:
        """Open the handlers' write transaction; on their thread. Ends with `end`."""
        if not self._turn.take(self.place.busy):
            raise StorageBusyError(f"{self.place.path}: the writer is stuck; try again")
        try:
            begin(connection, self.place)
        except BaseException:
            self._turn.leave()
            raise

    def end(self, connection: Connection, *, commit: bool) -> None:
        """Close the handlers' write transaction, on their thread."""
        try:
            if commit:
                connection.execute("COMMIT")
        finally:
            try:
                if connection.in_transaction:
                    connection.abandon()
            finally:
                self._turn.leave()

    def usable(self) -> None:
        """Raises:
        ClosedError: closed, or inherited over a fork.
        """
        if self._closed:
            raise ClosedError(f"{self.place.path} was closed")
        if os.getpid() != self._process:
            raise ClosedError(
                f"{self.place.path} was opened in process {self._process}, this is "
                f"{os.getpid()}: SQLite does not survive a fork; open it after forking"
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
        self.handlers.stop()
        self.writer.stop()


def _tell(loop: asyncio.AbstractEventLoop, changed: Callable[[], None]) -> None:
    try:
        loop.call_soon_threadsafe(changed)
    except RuntimeError:
        pass  # the loop is closed: nobody waits any more
