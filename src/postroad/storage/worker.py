"""A thread with a connection of its own, for reads and for handlers' transactions."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

from postroad.storage.connection import Connection
from postroad.storage.place import Place

R = TypeVar("R")


class Worker:
    """Runs functions on its connection, one after the other, in the order given."""

    def __init__(
        self,
        place: Place,
        loop: asyncio.AbstractEventLoop,
        name: str,
        *,
        read_only: bool = False,
    ) -> None:
        self._place = place
        self._loop = loop
        self._read_only = read_only
        self._queue: SimpleQueue[tuple[Callable[[Connection], Any], asyncio.Future[Any]] | None] = (
            SimpleQueue()
        )
        self._thread = threading.Thread(target=self._run, name=f"postroad-{name}", daemon=True)
        self._thread.start()

    def submit(self, function: Callable[[Connection], R]) -> asyncio.Future[R]:
        """Queue a function."""
        future: asyncio.Future[R] = self._loop.create_future()
        self._queue.put((function, future))
        return future

    def stop(self) -> None:
        """Run what is queued and end. Blocks."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        connection: Connection | None = None
        while (work := self._queue.get()) is not None:
            function, future = work
            value: Any = None
            error: BaseException | None = None
            try:
                if connection is None or connection.broken:
                    connection = self._place.connect(read_only=self._read_only)
                try:
                    value = function(connection)
                except self._place.failure:
                    if not (self._read_only and connection.broken):
                        raise
                    # It was lost while nobody used it; a read can be done again.
                    connection = self._place.connect(read_only=True)
                    value = function(connection)
            except self._place.failure as failure:
                error = self._place.mapped(failure)
                error.__cause__ = failure
            except BaseException as failure:  # noqa: BLE001 - passed on to the one who waits
                error = failure
            try:
                self._loop.call_soon_threadsafe(_resolve, future, value, error)
            except RuntimeError:
                pass  # the loop is closed: nobody waits any more
        if connection is not None:
            connection.close()


def _resolve(future: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)


def snapshot(function: Callable[[Connection], R], place: Place) -> Callable[[Connection], R]:
    """The function with all its reads at one instant of the database, of the version we know."""

    def within(connection: Connection) -> R:
        try:
            place.begin_reading(connection)
            return function(connection)
        finally:
            connection.abandon()

    return within
