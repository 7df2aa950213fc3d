"""A handler's own transaction on the road's database: its writes, what it publishes and the
settlement of its delivery are one commit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Protocol, TypeVar

from postroad.core.delivery import Delivery, Settled, Settlement
from postroad.core.message import Message
from postroad.core.topic import Topic
from postroad.errors import ClosedError, LeaseLostError, StorageError
from postroad.storage.connection import Connection
from postroad.transports.sql import sessions
from postroad.transports.sql.log import Log
from postroad.transports.sql.settle import Settling, sort

R = TypeVar("R")


class _Settles(Protocol):
    async def settle_and_publish(
        self, settlements: Sequence[Settlement], messages: Sequence[tuple[Topic[Any], Message]]
    ) -> Sequence[Settled]: ...


class HandlerTransaction:
    """A `Transaction`. It opens at the first statement, and from then on it has the only write
    lock of the database: transactional handlers take turns, and so does everything else that
    writes. Untouched, it costs nothing and settles with the others."""

    def __init__(
        self, log: Log, settling: Settling, consumer: _Settles, delivery: Delivery, source: str
    ) -> None:
        self._log = log
        self._settling = settling
        self._consumer = consumer
        self._delivery = delivery
        self._source = source
        self._outbox: list[tuple[Topic[Any], Message]] = []
        self._open = False
        self._over = False

    async def __aenter__(self) -> HandlerTransaction:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over = True
        if not self._open:
            if kind is None:
                await self._settle_only()
            return
        # The lock must not outlive the handler, even if it is cancelled while it leaves.
        await asyncio.shield(asyncio.ensure_future(self._leave(commit=kind is None)))

    async def _settle_only(self) -> None:
        settlement = Settlement(self._delivery)
        results = await self._consumer.settle_and_publish([settlement], self._outbox)
        if results[0] != "done":
            raise self._lost()

    async def _leave(self, *, commit: bool) -> None:
        database = self._log.database
        try:
            if commit:
                await database.handle(self._commit)
            else:
                await database.handle(lambda c: database.end(c, commit=False))
        finally:
            self._log.handler_turn.release()
        self._log.wake()

    def _commit(self, connection: Connection) -> None:
        database, now = self._log.database, self._log.clock.now_us()
        done = False
        try:
            if not connection.in_transaction:
                raise StorageError(
                    "the handler ended its transaction itself (COMMIT or ROLLBACK): what it wrote "
                    "is no longer tied to its message; leave both to `tx`"
                )
            session = self._delivery.token.session
            answers = sort([Settlement(self._delivery)], session)
            results = self._settling.settle(connection, answers, now, held_lock=True)
            if results[0] != "done":
                raise self._lost()
            self._log.appender.append(connection, self._outbox, now)
            done = True
        finally:
            database.end(connection, commit=done)

    def _lost(self) -> LeaseLostError:
        return LeaseLostError(
            f"{self._delivery.message!r} was held past its lease and belongs to another consumer "
            "now; nothing of its handler's transaction was committed"
        )

    async def _run(self, function: Callable[[Connection], R]) -> R:
        if self._over:
            raise ClosedError("the handler's transaction is over; its `tx` cannot be kept")
        if not self._open:
            await self._begin()
        return await self._log.database.handle(function)

    async def _begin(self) -> None:
        await self._log.handler_turn.acquire()
        opening = self._log.database.handle(self._begin_in)
        try:
            await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(self._undo)
            raise
        except BaseException:
            self._log.handler_turn.release()
            raise
        self._open = True

    def _undo(self, opening: asyncio.Future[None]) -> None:
        """The handler was cancelled while its transaction was opening."""
        if opening.cancelled() or opening.exception() is not None:
            self._log.handler_turn.release()
            return
        database = self._log.database
        closing = database.handle(lambda c: database.end(c, commit=False))
        closing.add_done_callback(lambda _: self._log.handler_turn.release())

    def _begin_in(self, connection: Connection) -> None:
        database = self._log.database
        database.begin(connection)
        session = self._delivery.token.session
        try:
            if sessions.alive(connection, session, self._log.clock.now_us()) is None:
                raise self._lost()
        except BaseException:
            database.end(connection, commit=False)
            raise

    async def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """See `Transaction.execute`."""
        return await self._run(lambda c: c.execute(sql, parameters).rowcount)

    async def execute_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> int:
        """See `Transaction.execute_many`."""
        return await self._run(lambda c: c.executemany(sql, rows).rowcount)

    async def fetch(self, sql: str, parameters: Sequence[Any] = ()) -> Sequence[tuple[Any, ...]]:
        """See `Transaction.fetch`."""
        return await self._run(lambda c: c.execute(sql, parameters).fetchall())

    async def publish(self, topic: Topic[Any], payload: Any) -> None:
        """See `Transaction.publish`."""
        if self._over:
            raise ClosedError("the handler's transaction is over; its `tx` cannot be kept")
        message = payload
        if not isinstance(payload, Message):
            message = topic.envelope(payload, self._log.clock.now_us(), self._source)
        self._outbox.append((topic, message.caused_by(self._delivery.message)))
