"""A savepoint in the caller's transaction, set as the caller's own library sets one.

An ORM keeps state of its own about a transaction, so SQLAlchemy and Django are asked to do it;
elsewhere it is three statements.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
)
from itertools import count
from typing import Any, NamedTuple

from postroad.storage.joining import AsyncJoined, Joined
from postroad.storage.statements import DIALECTS, Statement

_NUMBERS = count(1)


def savepoint(connection: Any, joined: Joined) -> AbstractContextManager[Any]:
    """Inside it, what fails is undone back to its beginning, and the transaction goes on."""
    if isinstance(connection, str) or hasattr(joined.connection, "in_atomic_block"):
        alias = joined.connection.alias
        atomic: AbstractContextManager[Any] = sys.modules["django.db.transaction"].atomic(alias)
        return atomic
    if callable(begin := getattr(connection, "begin_nested", None)):
        return _nested(joined, begin)
    return _plain(joined)


def async_savepoint(connection: Any, joined: AsyncJoined) -> AbstractAsyncContextManager[Any]:
    """As `savepoint`, for a connection whose calls are awaited."""
    if callable(begin := getattr(connection, "begin_nested", None)):
        return _async_nested(joined, begin)
    return _async_plain(joined)


@contextmanager
def _nested(joined: Joined, begin: Callable[[], Any]) -> Generator[None]:
    joined.open()
    with begin():
        yield


@asynccontextmanager
async def _async_nested(joined: AsyncJoined, begin: Callable[[], Any]) -> AsyncGenerator[None]:
    await joined.open()
    async with begin():
        yield


class _Statements(NamedTuple):
    begin: Statement
    undo: Statement
    end: Statement


def _statements() -> _Statements:
    name = f"postroad_{next(_NUMBERS)}"  # on MySQL a second one of a name replaces the first

    def said(sql: str) -> Statement:
        return Statement("savepoint", dict.fromkeys(DIALECTS, f"{sql} {name}"))

    return _Statements(said("SAVEPOINT"), said("ROLLBACK TO SAVEPOINT"), said("RELEASE SAVEPOINT"))


@contextmanager
def _plain(joined: Joined) -> Generator[None]:
    said = _statements()
    joined.run(said.begin)
    try:
        yield
    except BaseException:
        try:
            joined.run(said.undo)
            joined.run(said.end)
        except Exception:  # noqa: BLE001, S110 - the whole transaction is gone; what failed first says why
            pass
        raise
    joined.run(said.end)


@asynccontextmanager
async def _async_plain(joined: AsyncJoined) -> AsyncGenerator[None]:
    said = _statements()
    await joined.run(said.begin)
    try:
        yield
    except BaseException:
        try:
            await joined.run(said.undo)
            await joined.run(said.end)
        except Exception:  # noqa: BLE001, S110 - the whole transaction is gone; what failed first says why
            pass
        raise
    await joined.run(said.end)
