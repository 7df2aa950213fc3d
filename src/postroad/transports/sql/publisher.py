"""Publishing from many tasks: what is asked for while a commit runs goes into the next one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, TypeAlias

from postroad.core.delivery import Receipt
from postroad.core.message import Message
from postroad.core.topic import Topic
from postroad.errors import ClosedError, PublishError, StorageError, StorageRefusedError
from postroad.storage.connection import Connection
from postroad.transports.sql.log import Log

_Call: TypeAlias = tuple[Sequence[tuple[Topic[Any], Message]], "asyncio.Future[Sequence[Receipt]]"]


class Publisher:
    """Gathers publish calls, so that a thousand tasks cost one operation and not a thousand."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._calls: deque[_Call] = deque()
        self._asked = False

    async def publish(self, messages: Sequence[tuple[Topic[Any], Message]]) -> Sequence[Receipt]:
        """See `Transport.publish`. A call is accepted as a whole or not at all."""
        if not messages:
            return ()
        self._log.database.usable()
        future: asyncio.Future[Sequence[Receipt]] = asyncio.get_running_loop().create_future()
        # In this order: an operation that has not begun yet is sure to see the call.
        self._calls.append((messages, future))
        if not self._asked:
            self._asked = True
            self._flush()
        return await future

    def _flush(self) -> None:
        """Hand the list over; what arrives until the writer begins still goes along."""
        flush = _Flush(self)
        try:
            self._log.database.post(flush, flush)
        except ClosedError as error:
            flush.set_exception(error)

    def take(self) -> list[_Call]:
        """Everything that waits to be written."""
        self._asked = False
        calls = []
        while self._calls:
            calls.append(self._calls.popleft())
        return calls

    def append(self, connection: Connection, calls: Sequence[_Call]) -> list[Sequence[Receipt]]:
        """Write the calls, in the writer's transaction."""
        now = self._log.clock.now_us()
        appender = self._log.appender
        if len(calls) == 1:
            return [appender.append(connection, calls[0][0], now)]
        receipts = appender.append(connection, [pair for call in calls for pair in call[0]], now)
        answers: list[Sequence[Receipt]] = []
        start = 0
        for messages, _ in calls:
            answers.append(receipts[start : start + len(messages)])
            start += len(messages)
        return answers

    def answer(self, calls: Sequence[_Call], answers: Sequence[Sequence[Receipt]]) -> None:
        """Tell those who wait that they are committed."""
        for (_, future), receipts in zip(calls, answers, strict=True):
            if not future.done():
                future.set_result(receipts)
        self._log.arrived({topic.name for messages, _ in calls for topic, _ in messages})

    def fail(self, calls: list[_Call], error: Exception) -> None:
        """Tell those who wait that they are not; one bad call does not make the others suffer."""
        if len(calls) > 1 and _is_of_one(error):
            for call in calls:
                flush = _Flush(self, call)
                try:
                    self._log.database.post(flush, flush)
                except ClosedError as closed:
                    flush.set_exception(closed)
            return
        for messages, future in calls:
            if not future.done():
                future.set_exception(_failure(len(messages), error))


class _Flush:
    """One operation of the writer and its completion: the calls that it takes along."""

    def __init__(self, publisher: Publisher, *calls: _Call) -> None:
        self._publisher = publisher
        self._calls = list(calls)

    def __call__(self, connection: Connection) -> list[Sequence[Receipt]]:
        # The second time, after a rollback, it is the same calls again.
        if not self._calls:
            self._calls = self._publisher.take()
        return self._publisher.append(connection, self._calls)

    def done(self) -> bool:
        return False

    def set_result(self, result: list[Sequence[Receipt]], /) -> None:
        self._publisher.answer(self._calls, result)

    def set_exception(self, exception: Exception, /) -> None:
        # The writer may have failed before it began: those who wait are still listed.
        self._publisher.fail(self._calls or self._publisher.take(), exception)


def _is_of_one(error: Exception) -> bool:
    """Whether one message may be to blame, so that the others are to be tried without it."""
    if isinstance(error, StorageRefusedError):
        return True  # a value that the database cannot hold
    return not isinstance(error, StorageError | ClosedError)


def _failure(number: int, error: Exception) -> Exception:
    if isinstance(error, ClosedError):
        return error
    causes = dict.fromkeys(range(number), error)
    if type(error) is StorageError:  # a failed disk: nobody knows what it kept
        return PublishError(unknown=causes)
    return PublishError(failed=causes)
