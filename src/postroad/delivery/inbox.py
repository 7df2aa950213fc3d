"""The inbox: effectively once on a road that is not the business database itself.

The handler's writes through `tx` and the record that its message is handled are one commit, in the
business database. The road is told afterwards: whatever happens in between, the message may come
again and finds its record.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any, Protocol, Self

from postroad.core.clock import Clock
from postroad.core.delivery import Delivery
from postroad.core.message import Message
from postroad.core.subscription import Subscription
from postroad.core.terms import Business
from postroad.core.topic import Topic
from postroad.core.transport import Transaction
from postroad.delivery.outbox.rows import row_of
from postroad.delivery.outbox.sql import sql_of
from postroad.delivery.outbox.table import OWN
from postroad.errors import ClosedError, NotSupportedError, PostroadError
from postroad.storage.connection import Connection
from postroad.storage.database import Database
from postroad.storage.handling import DeliveryTransaction, duplicate
from postroad.storage.inbox import Records, forget, known, name_of, record
from postroad.storage.place import Place


class Outgoing(Protocol):
    """What `tx.publish` hands its messages to: the outbox of the business database."""

    def add(self, connection: Connection, messages: Sequence[tuple[Topic[Any], Message]]) -> None:
        """Write them down in the open transaction, to be published once it is committed. Runs on
        a thread of the database."""
        ...


class OwnOutbox:
    """`Outgoing` to Postroad's own outbox table, which a relay publishes from."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def add(self, connection: Connection, messages: Sequence[tuple[Topic[Any], Message]]) -> None:
        """See `Outgoing.add`."""
        insert, now_us = sql_of(OWN).insert, self._clock.now_us()
        for topic, message in messages:
            row = row_of(message, OWN, topic.name, topic.name, now_us)
            connection.execute(insert, row)


class Inbox:
    """The business database of a road: handlers' transactions, and what they have handled.

    Attributes:
        outbox: takes what handlers publish through `tx`; where there is none, that is refused.
        prepare: makes sure that the road has a topic that is published to through `tx`.
        changed: told that somebody has committed something; see `Place.watch`.
    """

    def __init__(self, place: Place, clock: Clock) -> None:
        self.place = place
        self.clock = place.clock or clock
        self.outbox: Outgoing | None = OwnOutbox(self.clock)
        self.prepare: Callable[[Topic[Any]], Awaitable[object]] = _nothing
        self.changed: Callable[[frozenset[str] | None], None] = lambda _: None
        self._database: Database | None = None

    @property
    def business(self) -> Business:
        """What contracts say of it."""
        place = self.place
        return Business(place.name, 1 if place.one_writer else place.pool, self.outbox is not None)

    async def open(self) -> None:
        """Create or migrate our tables. Idempotent. Raises `StorageError`s."""
        if self._database is None:
            self._database = await Database.open(self.place, lambda topics: self.changed(topics))

    async def close(self) -> None:
        """Let go of the database. Idempotent."""
        database, self._database = self._database, None
        if database is not None:
            await database.close()

    @property
    def database(self) -> Database:
        """The open database.

        Raises:
            ClosedError: not opened yet, or closed.
        """
        if self._database is None:
            raise ClosedError(f"{self.place.name}, the road's database, is not open")
        return self._database

    def of(self, subscription: Subscription) -> GroupInbox:
        """The inbox of one subscription."""
        return GroupInbox(self, subscription)

    async def forget(self, topic: str, group: str) -> None:
        """Let a group handle again what it has handled of a topic."""
        await self.database.write(lambda c: forget(c, topic, group))


class GroupInbox:
    """An `SqlLog` for one subscription, beside a road that is none."""

    settles = False

    def __init__(self, inbox: Inbox, subscription: Subscription) -> None:
        self.inbox = inbox
        self.records = Records(
            lambda: inbox.database,
            inbox.clock,
            subscription.group or "",
            subscription.inbox_window,
        )

    def transaction(
        self, delivery: Delivery, source: str
    ) -> AbstractAsyncContextManager[Transaction]:
        """See `SqlLog.transaction`: entering it raises `DuplicateError` too."""
        return InboxTransaction(self, delivery, source)

    async def tidy(self) -> None:
        """Remove old records until cancelled."""
        while True:
            await self.inbox.clock.sleep(self.records.interval)
            with suppress(PostroadError):  # locked or away now: the next round goes on
                await self.records.tidy()


class InboxTransaction(DeliveryTransaction):
    """A delivery's transaction in the business database, with the record that it is handled."""

    def __init__(self, group: GroupInbox, delivery: Delivery, source: str) -> None:
        self._inbox = inbox = group.inbox
        self._records = group.records
        self._name = name_of(delivery.message)
        self._reader = 0
        transactions = inbox.database.transactions
        eager = not inbox.place.one_writer
        super().__init__(transactions, delivery, inbox.clock, source, eager=eager)

    async def __aenter__(self) -> Self:
        self._reader = reader = await self._records.reader(self._delivery.topic)
        if not self._eager:
            # The write lock is taken late, by the first statement; what is known before that
            # need not call the handler at all.
            name = self._name
            if await self._inbox.database.read(lambda c: known(c, reader, name)):
                self._refusal = duplicate(self._delivery)
                await self._count_duplicate()
                raise self._refusal
        return await super().__aenter__()

    def _first(self, connection: Connection) -> None:
        if not record(connection, self._reader, self._name, self._clock.now_us()):
            raise duplicate(self._delivery)

    def _last(self, connection: Connection) -> None:
        if self._published and self._inbox.outbox is not None:
            self._inbox.outbox.add(connection, self._published)

    def _done(self) -> None:
        if self._published:
            self._inbox.changed(None)

    async def _count_duplicate(self) -> None:
        await self._records.count_duplicate(self._reader)

    async def _untouched(self) -> None:
        reader, name, now = self._reader, self._name, self._clock.now_us()
        if not await self._inbox.database.write(lambda c: record(c, reader, name, now)):
            await self._count_duplicate()
            raise duplicate(self._delivery)

    async def publish(self, topic: Topic[Any], payload: Any) -> None:
        """See `Transaction.publish`: through the outbox."""
        if self._inbox.outbox is None:
            raise NotSupportedError(
                f"tx.publish({topic.name!r}) needs an outbox in {self._inbox.place.name}, whose "
                "relay publishes what was committed; run one, or let the road be the database"
            )
        await self._inbox.prepare(topic)
        await super().publish(topic, payload)


async def _nothing(topic: Topic[Any]) -> None: ...
