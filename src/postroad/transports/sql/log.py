"""What a transport and its consumers share: the database, the clock, and who waits for news."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from postroad.core.clock import Clock
from postroad.errors import ClosedError
from postroad.storage.connection import Connection
from postroad.storage.database import Database
from postroad.transports.sql.append import Appender
from postroad.transports.sql.rows import Origins

R = TypeVar("R")


class Log:
    """The open road of one transport."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.origins = Origins()
        self.appender = Appender(self.origins)
        self.handler_turn = asyncio.Lock()
        self.listeners: set[asyncio.Event] = set()
        self._database: Database | None = None

    def opened(self, database: Database) -> None:
        """From now on it can be used."""
        self._database = database

    def closed(self) -> Database | None:
        """From now on it cannot; returns what has to be closed."""
        database, self._database = self._database, None
        self.wake()
        return database

    @property
    def database(self) -> Database:
        """The open database.

        Raises:
            ClosedError: not opened yet, or closed.
        """
        if self._database is None:
            raise ClosedError("the sqlite road is not open: await its open() first")
        return self._database

    def write(
        self, operation: Callable[[Connection], R], *, durable: bool = True
    ) -> asyncio.Future[R]:
        """See `Database.write`."""
        return self.database.write(operation, durable=durable)

    def read(self, function: Callable[[Connection], R]) -> asyncio.Future[R]:
        """See `Database.read`."""
        return self.database.read(function)

    def wake(self) -> None:
        """Something may have arrived: whoever waits looks again."""
        for event in self.listeners:
            event.set()

    async def promoted(self) -> None:
        """Let every scheduled message that is due take its place before something is counted."""
        while await self.read(self._due):
            await self.write(self._promote)

    def _due(self, connection: Connection) -> bool:
        due = connection.execute("SELECT min(due_us) FROM postroad_scheduled").fetchone()[0]
        return due is not None and due <= self.clock.now_us()

    def _promote(self, connection: Connection) -> bool:
        return self.appender.promote(connection, self.clock.now_us())

    async def pause(self, event: asyncio.Event, seconds: float) -> None:
        """Wait until the event is set, for so many seconds at most."""
        watcher = self.database.watcher
        watcher.enter()
        timer = asyncio.ensure_future(self.clock.sleep(max(seconds, 0)))
        timer.add_done_callback(lambda _: event.set())
        try:
            await event.wait()
        finally:
            timer.cancel()
            watcher.leave()
