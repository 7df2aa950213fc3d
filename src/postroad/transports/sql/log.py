"""What a transport and its consumers share: the database, the clock, and who waits for news."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from typing import TypeVar

from postroad.core.clock import Clock
from postroad.errors import ClosedError
from postroad.storage.connection import Connection
from postroad.storage.database import Database
from postroad.storage.place import Place
from postroad.storage.statements import load
from postroad.transports.sql.append import Appender
from postroad.transports.sql.rows import Origins

R = TypeVar("R")
_NEXT_DUE = load("log")["next_due"]


class Listener:
    """Somebody who waits for messages.

    Attributes:
        event: set when something may have arrived.
        tidy: set when members or topics may have come or gone.
        sure: set beside it when this process itself wrote to a topic that is read.
    """

    def __init__(self, reads: Callable[[str], bool]) -> None:
        self.reads = reads
        self.event = asyncio.Event()
        self.tidy = asyncio.Event()
        self.sure = False

    def clear(self) -> None:
        """Nothing is known from here on."""
        self.event.clear()
        self.sure = False

    def tell(self) -> None:
        """There is something."""
        self.sure = True
        self.event.set()


class Log:
    """The open road of one transport."""

    def __init__(self, clock: Clock, place: Place) -> None:
        self.clock = place.clock or clock
        self.place = place
        self.origins = Origins()
        self.appender = Appender(self.origins, one_writer=place.one_writer)
        self.listeners: set[Listener] = set()
        self._database: Database | None = None
        self._was_open = False

    def opened(self, database: Database) -> None:
        """From now on it can be used."""
        self._database = database
        self._was_open = True

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
            if self._was_open:
                raise ClosedError(f"the {self.place.dialect} road was closed")
            raise ClosedError(f"the {self.place.dialect} road is not open: await its open() first")
        return self._database

    def write(
        self, operation: Callable[[Connection], R], *, scope: str = "", durable: bool = True
    ) -> asyncio.Future[R]:
        """See `Database.write`."""
        return self.database.write(operation, scope=scope, durable=durable)

    def read(self, function: Callable[[Connection], R]) -> asyncio.Future[R]:
        """See `Database.read`."""
        return self.database.read(function)

    def peek(self, function: Callable[[Connection], R]) -> asyncio.Future[R]:
        """See `Database.peek`."""
        return self.database.peek(function)

    def scan(self, function: Callable[[Connection], R]) -> asyncio.Future[R]:
        """See `Database.scan`."""
        return self.database.scan(function)

    def changed(self, topics: Collection[str] | None) -> None:
        """Somebody else has committed something on these topics; None is anything."""
        if topics is None:
            self.wake()
            return
        # Not sure: others who were told the same may have taken it by now.
        for listener in self.listeners:
            if any(map(listener.reads, topics)):
                listener.event.set()

    def wake(self) -> None:
        """Something may have arrived: whoever waits looks again."""
        for listener in self.listeners:
            listener.event.set()
            listener.tidy.set()

    def arrived(self, topics: Iterable[str]) -> None:
        """Messages were written to these topics."""
        for listener in self.listeners:
            if not listener.sure and any(map(listener.reads, topics)):
                listener.tell()

    async def promoted(self) -> None:
        """Let every scheduled message that is due take its place before something is counted."""
        while await self.read(self._due):
            await self.write(self._promote)

    def _due(self, connection: Connection) -> bool:
        due = connection.execute(_NEXT_DUE).fetchone()[0]
        return due is not None and due <= self.clock.now_us()

    def _promote(self, connection: Connection) -> bool:
        return self.appender.promote(connection, self.clock.now_us())

    async def pause(self, event: asyncio.Event, seconds: float, *, fresh: bool = False) -> bool:
        """Wait until the event is set, for so many seconds at most; whether it is. `fresh`: see
        `Watch.enter`."""
        watcher = self.database.watcher
        watcher.enter(fresh=fresh)
        # Not a callback that sets the event: whoever waits could not tell it from news.
        news = asyncio.ensure_future(event.wait())
        alarm = asyncio.ensure_future(self.clock.sleep(max(seconds, 0)))
        try:
            await asyncio.wait((news, alarm), return_when=asyncio.FIRST_COMPLETED)
            return event.is_set()
        finally:
            news.cancel()
            alarm.cancel()
            watcher.leave()
