"""Publishing with the business transaction: a row in the outbox, on the caller's own connection."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar, Unpack, overload

from postroad.core.clock import Clock, SystemClock
from postroad.core.topic import Options, PublishOptions, Topic
from postroad.delivery.outbox.rows import row_of
from postroad.delivery.outbox.sql import sql_of
from postroad.delivery.outbox.table import OWN, OutboxTable
from postroad.errors import StorageError
from postroad.storage.joining import AsyncJoined, is_missing_table, join

T = TypeVar("T")


class SyncConnection(Protocol):
    """A connection or session whose `commit` returns when it is done."""

    def commit(self) -> None: ...


class AsyncConnection(Protocol):
    """A connection or session whose `commit` is awaited."""

    def commit(self) -> Coroutine[Any, Any, None]: ...


class AsyncpgConnection(Protocol):
    """A connection of asyncpg's, which has no `commit`."""

    def is_in_transaction(self) -> bool: ...


class Outbox:
    """Publishes with the business transaction: what `add` writes is published by a relay if the
    caller's transaction commits, and was never there if it does not.

    Declaring costs no I/O, and one object serves every thread and event loop. The relay is
    `postroad relay`, or runs inside `postroad run`.

    Args:
        table: which table; Postroad's own by default, which `postroad migrate` creates.
        source: CloudEvents `source` of messages whose topic names none.
        clock: time, for tests.
    """

    def __init__(
        self, table: OutboxTable = OWN, *, source: str = "postroad", clock: Clock | None = None
    ) -> None:
        self.table = table
        self._source = source
        self._clock = clock or SystemClock()

    @overload
    def add(
        self,
        connection: AsyncConnection | AsyncpgConnection,
        topic: Topic[T],
        payload: T,
        *,
        aggregate_type: str | None = None,
        **options: Unpack[PublishOptions],
    ) -> Coroutine[Any, Any, str]: ...

    @overload
    def add(
        self,
        connection: SyncConnection | str,
        topic: Topic[T],
        payload: T,
        *,
        aggregate_type: str | None = None,
        **options: Unpack[PublishOptions],
    ) -> str: ...

    def add(
        self,
        connection: Any,
        topic: Topic[T],
        payload: T,
        *,
        aggregate_type: str | None = None,
        **options: Unpack[PublishOptions],
    ) -> str | Coroutine[Any, Any, str]:
        """Add one message to the caller's transaction; returns its id. On an asynchronous
        connection the call is awaited.

        Messages of one key are published in the order in which they were added, as far as their
        transactions say one: two that are open at once have none, unless they wait for each other,
        as two that change the same row do.

        Args:
            connection: see `postroad.storage.joining.ACCEPTED`. It is neither committed nor closed.
            aggregate_type: what the column of this name holds; the topic's name by default.
            options: as for `Postroad.publish`; the key is the aggregate's id.

        Raises:
            PayloadError: the payload does not fit the topic; nothing was written.
            TransactionRequiredError: the connection would commit each statement by itself.
            DeclarationError: the object is nothing that can be joined.
            StorageError: the outbox's table is not in this database.
            Exception: the driver's own, untouched.
        """
        now_us = self._clock.now_us()
        if options:
            chosen = Options(**options)
            message = topic.envelope_with(payload, chosen, now_us, self._source)
        else:
            message = topic.envelope(payload, now_us, self._source)
        row = row_of(message, self.table, topic.name, aggregate_type or topic.name, now_us)
        joined = join(connection)
        if joined.is_async:
            return self._added(joined, row, message.id)
        try:
            joined.run(sql_of(self.table).insert, row)
        except Exception as error:
            self._explain(error)
            raise
        return message.id

    async def _added(self, joined: AsyncJoined, row: tuple[Any, ...], message_id: str) -> str:
        try:
            await joined.run(sql_of(self.table).insert, row)
        except Exception as error:
            self._explain(error)
            raise
        return message_id

    def _explain(self, error: Exception) -> None:
        if is_missing_table(error):
            remedy = (
                "run `postroad migrate` on its URL once"
                if self.table.name == OWN.name
                else "create it, or correct OutboxTable(name=…)"
            )
            raise StorageError(
                f"there is no table {self.table.name} in this database: {remedy}"
            ) from error
