"""The group-committing writer: one thread, and one commit for all that waits."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Protocol, TypeAlias

from postroad.errors import ClosedError, StorageBusyError
from postroad.storage.connection import Connection, Place, begin, connect
from postroad.storage.errors import mapped
from postroad.storage.turn import Turn

Operation: TypeAlias = Callable[[Connection], Any]
"""Runs inside a write transaction. It may run twice (the first time rolled back), so it changes
nothing but the database; what it learns it returns."""


class Completion(Protocol):
    """What an operation's end is told to, on the loop: a future, or something cheaper."""

    def done(self) -> bool:
        """Whether nobody waits any more."""
        ...

    def set_result(self, result: Any, /) -> None:
        """It is committed."""
        ...

    def set_exception(self, exception: Exception, /) -> None:
        """It is not."""
        ...


_Work: TypeAlias = tuple[Operation, Completion, bool]
_Result: TypeAlias = tuple[Completion, Any, BaseException | None]


class Writer:
    """Runs operations in the order given, everything that has gathered in one transaction.

    An operation that raises fails alone: the transaction is rolled back and its operations run
    again, each in its own. A future resolves after the commit.
    """

    def __init__(self, place: Place, turn: Turn, loop: asyncio.AbstractEventLoop) -> None:
        self._place = place
        self._turn = turn
        self._loop = loop
        self._queue: SimpleQueue[_Work | None] = SimpleQueue()
        self._relaxed = False
        self.commits = 0
        self._thread = threading.Thread(target=self._run, name="postroad-writer", daemon=True)
        self._thread.start()

    def submit(self, operation: Operation, *, durable: bool = True) -> asyncio.Future[Any]:
        """Queue an operation. With `durable=False` its commit need not be synced to the disk: a
        power cut may undo it, never reorder it with others."""
        future: asyncio.Future[Any] = self._loop.create_future()
        self._queue.put((operation, future, durable))
        return future

    def post(self, operation: Operation, completion: Completion) -> None:
        """Queue an operation without the cost of a future of its own."""
        self._queue.put((operation, completion, True))

    def stop(self) -> None:
        """Run what is queued, checkpoint, and end. Blocks."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        connection: Connection | None = None
        going = True
        while going:
            works = self._gather()
            if works[-1] is None:
                going = False
                works.pop()
            todo = [work for work in works if work is not None]
            if not todo:
                continue
            results: list[_Result] = []
            try:
                if connection is None:
                    connection = connect(self._place)
                self._commit(connection, todo, results)
            except BaseException as error:  # noqa: BLE001 - whatever it is, somebody waits for it
                results = [(work[1], None, self._own(error)) for work in todo]
            self._answer(results)
        if connection is not None:
            _checkpoint(connection)

    def _gather(self) -> list[_Work | None]:
        works = [self._queue.get()]
        while works[-1] is not None and not self._queue.empty():
            works.append(self._queue.get())
        return works

    def _answer(self, results: list[_Result]) -> None:
        try:
            self._loop.call_soon_threadsafe(_resolve, results)
        except RuntimeError:
            pass  # the loop is closed: nobody waits any more, and what is committed stays so

    def _commit(self, connection: Connection, works: list[_Work], results: list[_Result]) -> None:
        try:
            values = self._transact(connection, works)
        except BaseException as error:  # noqa: BLE001 - passed on to the one who waits
            if len(works) == 1 or isinstance(error, StorageBusyError):
                results.extend((work[1], None, self._own(error)) for work in works)
                return
            for work in works:
                self._commit(connection, [work], results)
            return
        results.extend((work[1], value, None) for work, value in zip(works, values, strict=True))

    def _transact(self, connection: Connection, works: list[_Work]) -> list[Any]:
        self._sync(connection, any(work[2] for work in works))
        if not self._turn.take(self._place.busy):
            raise StorageBusyError(
                f"{self._place.path}: a handler's transaction was open for {self._place.busy:g} s; "
                "keep `tx` short, or raise ?busy= in the URL"
            )
        try:
            begin(connection, self._place)
            values = [work[0](connection) for work in works]
            connection.execute("COMMIT")
        except BaseException:
            connection.abandon()
            raise
        finally:
            self._turn.leave()
        self.commits += 1
        return values

    def _sync(self, connection: Connection, durable: bool) -> None:
        if self._place.durability == "full" and durable is self._relaxed:
            connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._relaxed = not durable

    def _own(self, error: BaseException) -> BaseException:
        return mapped(error, self._place.path) if isinstance(error, sqlite3.Error) else error


def _resolve(results: list[_Result]) -> None:
    for future, value, error in results:
        if future.done():
            continue
        if error is None:
            future.set_result(value)
        elif isinstance(error, Exception):
            future.set_exception(error)
        else:
            future.set_exception(ClosedError(f"the writer was interrupted: {error!r}"))


def _checkpoint(connection: Connection) -> None:
    try:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error:
        pass  # somebody reads; the log is whole and the next one to close carries it over
    connection.close()
