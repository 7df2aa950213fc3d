"""Transactions of handlers: a bounded number at once, each on a thread with its own connection."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from postroad.errors import StorageBusyError, StorageError, StorageUnavailableError
from postroad.storage.connection import Connection
from postroad.storage.place import Place
from postroad.storage.turn import Turn
from postroad.storage.worker import Worker

if TYPE_CHECKING:
    from asyncio import Future

R = TypeVar("R")
S = TypeVar("S")
_LONGEST_PAUSE = 0.25
"""Seconds between two tries to open a transaction at the most."""


class Transactions:
    """A pool of them over one place. On a place with one writer at a time it is one, which takes
    turns with everything else that this process writes there; elsewhere as many as `Place.pool`.

    Threads and connections are made on first use. Belongs to one event loop.
    """

    def __init__(
        self,
        place: Place,
        turn: Turn,
        loop: asyncio.AbstractEventLoop,
        usable: Callable[[], None],
    ) -> None:
        """`turn` is the process's turn at the write lock, where there is only one; `usable` raises
        once the database was closed."""
        self.place = place
        self.usable = usable
        self.size = 1 if place.one_writer else place.pool
        self._turn = turn if place.one_writer else None
        self._loop = loop
        self._slots = asyncio.Semaphore(self.size)
        self._idle: deque[Worker] = deque()
        self._workers: list[Worker] = []

    async def open(self, first: Callable[[Connection], R]) -> OpenTransaction[R]:
        """Wait for a place in the pool, begin, and run `first` inside. It may run twice, if the
        database undid it the first time, so it changes nothing but the database.

        What `first` raises undoes the transaction and passes on. Cancellable: nothing stays open.

        Raises:
            StorageError: it cannot be opened.
            ClosedError: the database was closed.
        """
        await self._slots.acquire()
        try:
            self.usable()
        except BaseException:
            self._slots.release()
            raise
        worker = self._idle.popleft() if self._idle else self._made()
        deadline, pause = time.monotonic() + self.place.busy, 0.005
        while True:
            try:
                connection, value = await self._opened(worker, first)
            except StorageUnavailableError:
                # An idle connection may have been lost long ago; the next try makes a new one.
                if time.monotonic() > deadline:
                    self._give_back(worker)
                    raise
            except asyncio.CancelledError:
                raise  # `_undo` gives it back
            except BaseException:
                self._give_back(worker)
                raise
            else:
                return OpenTransaction(self, worker, connection, value)
            try:
                await asyncio.sleep(random.uniform(pause / 2, pause))
            except asyncio.CancelledError:
                self._give_back(worker)
                raise
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _opened(
        self, worker: Worker, first: Callable[[Connection], R]
    ) -> tuple[Connection, R]:
        opening = worker.submit(lambda connection: (connection, self._begin(connection, first)))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(lambda done: self._undo(worker, done))
            raise

    def stop(self) -> None:
        """Run what is queued, undo what is open, end the threads. Blocks."""
        for worker in self._workers:
            worker.stop()

    def gone(self) -> None:
        """One ended with the database: let who waits for its place find out."""
        self._slots.release()

    def lost(self) -> StorageUnavailableError:
        """The error for a transaction whose connection is gone."""
        return StorageUnavailableError(
            f"{self.place.name}: the connection was lost before the commit; nothing of the "
            "handler's transaction was kept"
        )

    def _made(self) -> Worker:
        worker = Worker(self.place, self._loop, f"handlers-{len(self._workers) + 1}")
        self._workers.append(worker)
        return worker

    def _give_back(self, worker: Worker) -> None:
        """The worker is free, or is as soon as it has done what it was given. One that may still
        be busy is taken last; what it is given next begins without another round over the loop."""
        self._idle.append(worker)
        self._slots.release()

    def _undo(self, worker: Worker, opening: Future[Any]) -> None:
        """Whoever opened it was cancelled while it opened."""
        if opening.cancelled() or opening.exception() is not None:
            self._give_back(worker)
            return
        self.ending(worker, lambda connection: self._end(connection, commit=False))

    def ending(self, worker: Worker, end: Callable[[Connection], R]) -> Future[R]:
        """Let a worker end its transaction, and give it back."""
        ended = worker.submit(end)
        ended.add_done_callback(_seen)
        self._give_back(worker)
        return ended

    # ------------------------------------------------ on the transaction's thread

    def _begin(self, connection: Connection, first: Callable[[Connection], R]) -> R:
        if self._turn is not None and not self._turn.take(self.place.busy):
            raise StorageBusyError(f"{self.place.name}: the writer is stuck; try again")
        try:
            return self._with_patience(connection, first)
        except BaseException:
            if self._turn is not None:
                self._turn.leave()
            raise

    def _with_patience(self, connection: Connection, first: Callable[[Connection], R]) -> R:
        """Nothing of the handler's has happened yet: a victim of others begins again."""
        deadline, pause = time.monotonic() + self.place.busy, 0.005
        while True:
            try:
                self.place.begin(connection, "", durable=True)
                return first(connection)
            except self.place.failure as error:
                self._abandon(connection)
                if connection.broken:
                    raise self.lost() from error  # only another connection helps; see `open`
                if not self.place.again(error) or time.monotonic() > deadline:
                    raise
            except BaseException:
                self._abandon(connection)
                raise
            time.sleep(random.uniform(pause / 2, pause))
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _end(self, connection: Connection, *, commit: bool) -> None:
        try:
            if commit:
                self._commit(connection)
        finally:
            try:
                self._abandon(connection)
            finally:
                if self._turn is not None:
                    self._turn.leave()

    def _commit(self, connection: Connection) -> None:
        try:
            connection.commit()
        except self.place.failure as error:
            raise self.place.mapped(error, committing=True) from error

    def _abandon(self, connection: Connection) -> None:
        if connection.in_transaction or connection.broken:
            connection.abandon()


class OpenTransaction(Generic[R]):
    """One of the pool's, which somebody has to end: `commit` or `rollback`, exactly once.

    Attributes:
        first: what the function that it was opened with returned.
    """

    def __init__(
        self, pool: Transactions, worker: Worker, connection: Connection, first: R
    ) -> None:
        self._pool = pool
        self._worker = worker
        self._connection = connection
        self._undone = False
        self.first = first

    async def run(self, function: Callable[[Connection], S]) -> S:
        """Run a function inside. Cancelling the call does not stop it: what is done next waits
        until it is done.

        Raises:
            StorageError: in place of the driver's errors.
        """

        def inside(connection: Connection) -> S:
            self._check(connection)
            try:
                return function(connection)
            except self._pool.place.failure as error:
                if connection.broken:
                    raise self._pool.lost() from error
                # Some databases undo the whole transaction of a victim, and would run what
                # follows on its own.
                self._undone = self._undone or self._pool.place.again(error)
                raise

        self._pool.usable()
        return await self._worker.submit(inside)

    async def commit(self, last: Callable[[Connection], S]) -> S:
        """Run `last` inside and commit. What `last` raises undoes everything and passes on.
        Not undone by cancelling the call.

        Raises:
            StorageError: not committed; a plain one (no subclass) is one of unknown fate.
            StorageUnavailableError: the database was lost before the commit.
        """
        return await self._leave(lambda connection: self._commit(connection, last))

    async def rollback(self) -> None:
        """Undo everything. Goes on if the call is cancelled."""
        pool = self._pool
        await self._leave(lambda connection: pool._end(connection, commit=False))

    async def _leave(self, end: Callable[[Connection], S]) -> S:
        try:
            self._pool.usable()
        except BaseException:
            self._pool.gone()  # the thread has ended, and its transaction is undone
            raise
        return await asyncio.shield(self._pool.ending(self._worker, end))

    def _commit(self, connection: Connection, last: Callable[[Connection], S]) -> S:
        done = False
        try:
            self._check(connection)
            value = last(connection)
            done = True
        finally:
            self._pool._end(connection, commit=done)
        return value

    def _check(self, connection: Connection) -> None:
        """The transaction is still open, and on this connection."""
        if connection is not self._connection or connection.broken:
            raise self._pool.lost()
        if self._undone:
            raise StorageBusyError(
                f"{self._pool.place.name} undid the handler's transaction in favour of another "
                "one; let the error pass, and it begins anew"
            )
        if not connection.in_transaction:
            raise StorageError(
                "the handler ended its transaction itself (COMMIT or ROLLBACK): what it wrote is "
                "no longer tied to its message; leave both to `tx`"
            )


def _seen(ending: Future[Any]) -> None:
    """Whoever waited for it may be gone, and a connection that was lost has undone it all the
    same."""
    if not ending.cancelled():
        ending.exception()
