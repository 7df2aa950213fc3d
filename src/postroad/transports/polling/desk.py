"""The database under a polled table: one thread that writes and one that reads, on first use."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import TypeVar

from postroad.core.clock import Clock
from postroad.errors import ClosedError, DeclarationError, StorageError, StorageRefusedError
from postroad.storage.connection import Connection
from postroad.storage.place import Place
from postroad.storage.turn import Turn
from postroad.storage.worker import Worker, snapshot
from postroad.storage.writer import Writer
from postroad.transports.polling.source import PollingSource
from postroad.transports.polling.table import Table, columns_of

R = TypeVar("R")


class Desk:
    """One database and one table of it, from one event loop; two connections at the most.

    Attributes:
        table: the statements over the table, known once it is open.
        clock: time. Instants that others read are the server's, where there is one.
    """

    table: Table

    def __init__(self, place: Place, source: PollingSource, clock: Clock) -> None:
        self.clock = clock
        self._place = place
        self._source = source
        self._writer: Writer | None = None
        self._reader: Worker | None = None
        self._process = os.getpid()

    @property
    def is_open(self) -> bool:
        """Whether it can be used."""
        return self._writer is not None

    @property
    def risk(self) -> str:
        """See `Place.risk`."""
        return self._place.risk

    def now_us(self) -> int:
        """The database's time, in microseconds since the epoch."""
        return (self._place.clock or self.clock).now_us()

    async def open(self) -> None:
        """Create or migrate our tables, and see that the user's is as declared. Idempotent.

        Raises:
            StorageError: the database cannot be used.
            DeclarationError: there is no such table or column, or `where` is no condition.
        """
        if self._writer is not None:
            return
        self._process = os.getpid()
        loop = asyncio.get_running_loop()
        await asyncio.to_thread(self._place.prepare)
        reader = Worker(self._place, loop, "polling-reader", read_only=True)
        try:
            self.table = await reader.submit(snapshot(self._checked, self._place))
        except BaseException:
            await asyncio.to_thread(reader.stop)
            raise
        self._reader = reader
        self._writer = Writer(self._place, Turn(), loop)

    def _checked(self, connection: Connection) -> Table:
        table = Table(self._source, self._place.dialect, columns_of(connection, self._source))
        try:
            table.look(connection, "", "", "", everything=True)
        except self._place.failure as error:
            own = self._place.mapped(error)
            if type(own) not in (StorageError, StorageRefusedError):
                raise own from error
            raise DeclarationError(
                f"{self._source}: the database does not understand `where`, or this role may not "
                "read the table; try it as SELECT … WHERE (where), and see the cause"
            ) from error
        return table

    def write(
        self, operation: Callable[[Connection], R], *, durable: bool = True
    ) -> asyncio.Future[R]:
        """Run an operation in a transaction of its own; see `Writer.submit`."""
        self.usable()
        assert self._writer is not None
        return self._writer.submit(operation, durable=durable)

    def read(self, function: Callable[[Connection], R]) -> asyncio.Future[R]:
        """Run a function on one snapshot."""
        self.usable()
        assert self._reader is not None
        return self._reader.submit(snapshot(function, self._place))

    def usable(self) -> None:
        """Raises:
        ClosedError: not open, or inherited over a fork.
        """
        if self._writer is None:
            raise ClosedError(f"{self._source} is not open")
        if os.getpid() != self._process:
            raise ClosedError(f"{self._source} was opened before a fork; open it after forking")

    async def close(self) -> None:
        """Commit what is queued, end the threads. Idempotent."""
        writer, reader = self._writer, self._reader
        self._writer = self._reader = None
        if writer is None or reader is None or os.getpid() != self._process:
            return
        await asyncio.to_thread(reader.stop)
        await asyncio.to_thread(writer.stop)
