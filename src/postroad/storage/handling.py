"""A delivery's own transaction: what a road that is the database and an inbox have in common."""

from __future__ import annotations

import asyncio
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import lru_cache
from types import TracebackType
from typing import Any, Self, TypeVar

from postroad.core.clock import Clock
from postroad.core.delivery import Delivery
from postroad.core.message import Message
from postroad.core.sequence import Change
from postroad.core.topic import Topic
from postroad.errors import ClosedError, DuplicateError, LeaseLostError, StorageError
from postroad.storage import sequences
from postroad.storage.connection import Connection
from postroad.storage.statements import NATIVE, Dialect, Text, styled
from postroad.storage.transactions import OpenTransaction, Transactions

R = TypeVar("R")


class DeliveryTransaction(ABC):
    """A `Transaction` around one call of a handler.

    Where there is one writer at a time it opens at the first statement: from then on it has the
    only write lock of the database. Elsewhere it opens before the handler (`eager`), so that of
    two processes that hold the message the second one waits there, with nothing done yet.

    Args:
        source: CloudEvents `source` of what the handler publishes.
        eager: open it on entering.
    """

    def __init__(
        self, pool: Transactions, delivery: Delivery, clock: Clock, source: str, *, eager: bool
    ) -> None:
        self._pool = pool
        self._delivery = delivery
        self._clock = clock
        self._source = source
        self._eager = eager
        self._published: list[tuple[Topic[Any], Message]] = []
        self._open: OpenTransaction[Any] | None = None
        self._opening = asyncio.Lock()
        self._refusal: LeaseLostError | DuplicateError | None = None
        self._over = False

    # ------------------------------------------------ what a kind does in its own way

    @abstractmethod
    def _first(self, connection: Connection) -> None:
        """Runs as the transaction opens, perhaps twice.

        Raises:
            LeaseLostError, DuplicateError: the handler may write nothing for this delivery.
        """

    @abstractmethod
    def _last(self, connection: Connection) -> None:
        """Runs before the commit. Raises as `_first` does."""

    @abstractmethod
    async def _untouched(self) -> None:
        """The handler is done and has neither run a statement nor published. Raises as `_first`
        does."""

    def _done(self) -> None:  # noqa: B027 - most need nothing
        """Called after the commit."""

    @abstractmethod
    async def _count_duplicate(self) -> None:
        """It has turned out that the message was handled before; no transaction is open."""

    # ------------------------------------------------ entering and leaving

    async def __aenter__(self) -> Self:
        if self._eager:
            await self._begin(_nothing)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over = True
        if kind is None or issubclass(kind, Exception):
            self._pass_on(error)
        if kind is None and self._open is None:
            async with self._opening:
                pass  # a task of the handler's may be opening it, and will undo that
            if not self._published:
                await self._untouched()
                return
            await self._begin(_nothing, over=True)
        opened = self._open
        if opened is None:
            return
        if kind is not None:
            await opened.rollback()
            return
        await opened.commit(self._last)
        self._done()

    def _pass_on(self, error: BaseException | None) -> None:
        """Whatever the handler made of a refusal: it holds, and nothing is committed."""
        if self._refusal is not None and error is not self._refusal:
            raise self._refusal from error

    async def _begin(self, function: Callable[[Connection], R], *, over: bool = False) -> R:
        """Open it and run the function inside, in one go; only run that if it is open by now."""
        # A handler's tasks may run their first statements at the same time.
        async with self._opening:
            if self._refusal is not None:
                raise self._refusal
            if self._open is None:
                opened = await self._opened(function)
                if self._over and not over:
                    await opened.rollback()  # its handler went away while it opened
                    raise _over()
                self._open = opened
                return opened.first
            opened = self._open
        if self._over:  # it ended while this waited for it to open
            raise _over()
        return await opened.run(function)

    async def _opened(self, function: Callable[[Connection], R]) -> OpenTransaction[R]:
        def first(connection: Connection) -> R:
            self._first(connection)
            return function(connection)

        try:
            return await self._pool.open(first)
        except (LeaseLostError, DuplicateError) as refusal:
            self._refusal = refusal
            if isinstance(refusal, DuplicateError):
                await self._count_duplicate()
            raise

    async def _run(self, function: Callable[[Connection], R]) -> R:
        if self._over:
            raise _over()
        opened = self._open
        return await (self._begin(function) if opened is None else opened.run(function))

    # ------------------------------------------------ what a handler does with it

    async def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """See `Transaction.execute`."""
        text = self._text(sql)
        return await self._run(lambda c: c.execute(text.sql, text.arranged(parameters)).rowcount)

    async def execute_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> int:
        """See `Transaction.execute_many`."""
        text = self._text(sql)
        arranged = rows if text.order is None else [text.arranged(row) for row in rows]
        return await self._run(lambda c: c.executemany(text.sql, arranged).rowcount)

    async def fetch(self, sql: str, parameters: Sequence[Any] = ()) -> Sequence[tuple[Any, ...]]:
        """See `Transaction.fetch`."""
        text = self._text(sql)
        return await self._run(lambda c: c.execute(text.sql, text.arranged(parameters)).fetchall())

    def _text(self, sql: str) -> Text:
        return _native(sql, self._pool.place.dialect)

    async def advance_sequences(self, group: str, changes: Sequence[Change]) -> None:
        """See `SequencedTransaction.advance_sequences`."""
        await self._run(lambda c: sequences.write(c, group, changes))

    async def publish(self, topic: Topic[Any], payload: Any) -> None:
        """See `Transaction.publish`."""
        if self._over:
            raise _over()
        message = payload
        if not isinstance(payload, Message):
            message = topic.envelope(payload, self._clock.now_us(), self._source)
        self._published.append((topic, message.caused_by(self._delivery.message)))


_ENDS = re.compile(
    r"(?:\s|--[^\n]*\n)*(COMMIT|END|BEGIN|START|ABORT|ROLLBACK(?!\s+(?:\w+\s+)?TO\b))\b",
    re.IGNORECASE,
)
_OWN_STYLE = {"sqlite": "?", "postgresql": "$1", "mysql": "%s"}


@lru_cache(2048)
def _native(sql: str, dialect: Dialect) -> Text:
    """A handler's statement for our connection: what is not in the driver's own style has its
    parameters as `?`, so that it is the same on every database.

    Raises:
        StorageError: it would end the transaction, and with it what ties it to its message.
    """
    ends = _ENDS.match(sql)
    if ends is not None:
        raise StorageError(
            f"{ends[1].upper()} in a handler's transaction, which ends with its message: "
            "leave it to `tx`, return to commit and raise to roll back, or use a savepoint"
        )
    return Text(sql) if _OWN_STYLE[dialect] in sql else styled(sql, NATIVE[dialect])


def _nothing(connection: Connection) -> None: ...


def _over() -> ClosedError:
    return ClosedError("the handler's transaction is over; its `tx` cannot be kept")


def lost(delivery: Delivery) -> LeaseLostError:
    """The refusal of a delivery that another consumer has."""
    return LeaseLostError(
        f"{delivery.message!r} was held past its lease and belongs to another consumer now; "
        "nothing of its handler's transaction was committed"
    )


def duplicate(delivery: Delivery) -> DuplicateError:
    """The refusal of a delivery whose effect is there already."""
    return DuplicateError(
        f"{delivery.message!r} was handled before by group {delivery.group!r}: its effect is in "
        "the database"
    )
