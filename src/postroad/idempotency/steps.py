"""One program for the caller's connection, whether its calls are awaited or not.

A program is a generator: it yields statements and is sent what they brought.
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator, Sequence
from typing import Any, Generic, TypeAlias, TypeVar

from postroad.errors import StorageVersionError
from postroad.storage.joining import AsyncJoined, Joined, Result, is_missing_table, join
from postroad.storage.statements import Statement

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
Steps: TypeAlias = Generator[tuple[Statement, Sequence[Any]], Result, R]


class Pending(Generic[R_co]):
    """An answer that has to be awaited, and that cannot be taken for a yes when it is not."""

    def __init__(self, coroutine: Coroutine[Any, Any, R_co]) -> None:
        self._coroutine = coroutine

    def __await__(self) -> Generator[Any, Any, R_co]:
        return self._coroutine.__await__()

    def __bool__(self) -> bool:
        self._coroutine.close()
        raise TypeError("the connection is asynchronous: await the answer before you look at it")


def run(connection: Any, steps: Steps[R]) -> Any:
    """Run a program in the caller's transaction; see `join`.

    Returns its answer, or a `Pending` where the connection is asynchronous.

    Raises:
        StorageVersionError: the database has none of our tables.
    """
    joined = join(connection)
    return Pending(_awaited(joined, steps)) if joined.is_async else _run(joined, steps)


def _run(joined: Joined, steps: Steps[R]) -> R:
    try:
        statement, parameters = next(steps)
        while True:
            statement, parameters = steps.send(joined.run(statement, parameters))
    except StopIteration as end:
        answer: R = end.value
        return answer
    except Exception as error:
        _explain(error)
        raise


async def _awaited(joined: AsyncJoined, steps: Steps[R]) -> R:
    try:
        statement, parameters = next(steps)
        while True:
            statement, parameters = steps.send(await joined.run(statement, parameters))
    except StopIteration as end:
        answer: R = end.value
        return answer
    except Exception as error:
        _explain(error)
        raise


def _explain(error: Exception) -> None:
    if is_missing_table(error):
        raise StorageVersionError(
            "this database lacks tables of Postroad's; create them with `postroad migrate`, or by "
            "opening a road or `Keys` on it once"
        ) from error
