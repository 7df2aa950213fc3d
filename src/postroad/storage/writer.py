"""The group-committing writer: one thread, and one commit for all that waits."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Protocol, TypeAlias

from postroad.errors import ClosedError, StorageBusyError, StorageError, StorageUnavailableError
from postroad.storage.connection import Connection
from postroad.storage.place import Place
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


@dataclass(slots=True, frozen=True)
class _Work:
    operation: Operation
    completion: Completion
    scope: str
    durable: bool


_Result: TypeAlias = tuple[Completion, Any, BaseException | None]
_LONGEST_PAUSE = 0.25
"""Seconds between two tries of a transaction at the most."""


class Writer:
    """Runs operations in the order given: everything that has gathered in one transaction, where
    the place has one writer at a time; elsewhere what has gathered of one scope.

    An operation that raises fails alone: the transaction is rolled back and its operations run
    again, each in its own. A future resolves after the commit.
    """

    def __init__(self, place: Place, turn: Turn, loop: asyncio.AbstractEventLoop) -> None:
        self._place = place
        self._turn = turn
        self._loop = loop
        self._queue: SimpleQueue[_Work | None] = SimpleQueue()
        self._connection: Connection | None = None
        self.commits = 0
        self._thread = threading.Thread(target=self._run, name="postroad-writer", daemon=True)
        self._thread.start()

    def submit(
        self, operation: Operation, *, scope: str = "", durable: bool = True
    ) -> asyncio.Future[Any]:
        """Queue an operation that needs the lock `scope`. With `durable=False` its commit need not
        be synced to the disk: a power cut may undo it, never reorder it with others."""
        future: asyncio.Future[Any] = self._loop.create_future()
        self._queue.put(_Work(operation, future, scope, durable))
        return future

    def post(self, operation: Operation, completion: Completion) -> None:
        """Queue an operation without the cost of a future of its own."""
        self._queue.put(_Work(operation, completion, "", True))

    def stop(self) -> None:
        """Run what is queued and end. Blocks."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        going = True
        while going:
            works = self._gather()
            if works[-1] is None:
                going = False
                works.pop()
            for todo in self._together([work for work in works if work is not None]):
                results: list[_Result] = []
                self._commit(todo, results)
                self._answer(results)
        if self._connection is not None:
            self._place.last(self._connection)

    def _gather(self) -> list[_Work | None]:
        works = [self._queue.get()]
        while works[-1] is not None and not self._queue.empty():
            works.append(self._queue.get())
        return works

    def _together(self, works: list[_Work]) -> list[list[_Work]]:
        """What shares a transaction. Without a scope an operation takes its locks as it goes, and
        two in one transaction might take them in an order in which others wait for each other."""
        if self._place.one_writer:
            return [works] if works else []
        groups: list[list[_Work]] = []
        for work in works:
            if work.scope and groups and groups[-1][0].scope == work.scope:
                groups[-1].append(work)
            else:
                groups.append([work])
        return groups

    def _answer(self, results: list[_Result]) -> None:
        try:
            self._loop.call_soon_threadsafe(_resolve, results)
        except RuntimeError:
            pass  # the loop is closed: nobody waits any more, and what is committed stays so

    def _commit(self, works: list[_Work], results: list[_Result]) -> None:
        try:
            values = self._transact(works)
        except BaseException as error:  # noqa: BLE001 - passed on to the one who waits
            if len(works) == 1 or _is_of_all(error):
                results.extend((work.completion, None, self._own(error)) for work in works)
                return
            for work in works:
                self._commit([work], results)
            return
        results.extend(
            (work.completion, value, None) for work, value in zip(works, values, strict=True)
        )

    def _transact(self, works: list[_Work]) -> list[Any]:
        if not self._turn.take(self._place.busy):
            raise StorageBusyError(
                f"{self._place.name}: a handler's transaction was open for {self._place.busy:g} s; "
                "keep `tx` short, or raise ?busy= in the URL"
            )
        try:
            return self._with_patience(works)
        finally:
            self._turn.leave()

    def _with_patience(self, works: list[_Work]) -> list[Any]:
        """Run them, again and again while that can help: what ends before its commit has done
        nothing yet."""
        deadline, pause = time.monotonic() + self._place.busy, 0.005
        while True:
            try:
                return self._once(works)
            except (self._place.failure, StorageUnavailableError) as error:
                lost = isinstance(error, StorageUnavailableError)
                if not (lost or self._place.again(error)) or time.monotonic() > deadline:
                    raise
            time.sleep(random.uniform(pause / 2, pause))
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _once(self, works: list[_Work]) -> list[Any]:
        connection = self._connected()
        durable = any(work.durable for work in works)
        try:
            self._place.begin(connection, works[0].scope, durable=durable)
            values = [work.operation(connection) for work in works]
            self._end(connection)
        except BaseException:
            connection.abandon()
            raise
        self.commits += 1
        return values

    def _end(self, connection: Connection) -> None:
        try:
            connection.commit()
        except self._place.failure as error:
            if self._place.again(error) and not connection.broken:
                raise  # a victim of others was certainly undone
            raise self._place.mapped(error, committing=True) from error

    def _connected(self) -> Connection:
        if self._connection is None or self._connection.broken:
            self._connection = self._place.connect()
        return self._connection

    def _own(self, error: BaseException) -> BaseException:
        if not isinstance(error, self._place.failure):
            return error
        own = self._place.mapped(error)
        own.__cause__ = error
        return own


def _is_of_all(error: BaseException) -> bool:
    """Whether running them one by one is of no use; or no option, since they may be committed."""
    fate_unknown = type(error) is StorageError
    return fate_unknown or isinstance(error, StorageBusyError | StorageUnavailableError)


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
