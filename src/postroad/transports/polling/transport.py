"""What a polled table is read from: a `Transport` that cannot be published to, and a `Source`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any
from weakref import WeakSet

from postroad.core.capabilities import Capabilities
from postroad.core.clock import Clock, SystemClock
from postroad.core.delivery import Delivery, Receipt, Start
from postroad.core.message import Message
from postroad.core.notices import Notice, NoticeQueue
from postroad.core.pattern import matches
from postroad.core.reports import DeadLetter, Lag, PartitionLag, TopicInfo
from postroad.core.subscription import Subscription
from postroad.core.topic import Topic
from postroad.core.transport import Consumer, Plan
from postroad.errors import NotFoundError, NotSupportedError, PublishError
from postroad.storage.connection import Connection
from postroad.storage.opening import place_of
from postroad.storage.statements import load
from postroad.transports.polling import letters
from postroad.transports.polling.claims import Claims
from postroad.transports.polling.consumer import PollingConsumer
from postroad.transports.polling.desk import Desk
from postroad.transports.polling.rows import instant_us
from postroad.transports.polling.source import PollingSource
from postroad.transports.polling.timetable import Timetable

_SQL = load("polling")


class PollingTransport:
    """`Transport`, `Source` and `DeadLetters` of one `PollingSource`.

    Args:
        database: the URL of the database that holds the table. Ours beside it is
            `postroad_polled`: who claims which row, until when, and with what history.
        clock: when to look; leases and delays are by the database's.

    Raises:
        InvalidURLError: it names no database.
    """

    def __init__(self, source: PollingSource, database: str, *, clock: Clock | None = None) -> None:
        self.source = source
        self._topic = source.topic.name
        self._desk = Desk(place_of(database), source, clock or SystemClock())
        self._groups: set[str] = set()
        self._consumers: WeakSet[PollingConsumer] = WeakSet()
        self._notices = NoticeQueue()
        self._opening = asyncio.Lock()
        self._closing: asyncio.Future[None] | None = None
        self._capabilities = _capabilities(source, self._desk.risk)

    @property
    def capabilities(self) -> Capabilities:
        """See `Transport.capabilities`."""
        return self._capabilities

    async def open(
        self, topics: Sequence[Topic[Any]], subscriptions: Sequence[Subscription]
    ) -> None:
        """See `Transport.open`. Our own tables are created, the user's is looked at.

        Raises:
            StorageError: the database cannot be used.
            DeclarationError: the table is not as declared.
        """
        async with self._opening:
            if self._closing is not None:
                await asyncio.shield(self._closing)
                self._closing, self._notices = None, NoticeQueue()
            await self._desk.open()
            self._groups.update(one.group for one in subscriptions if one.group is not None)

    async def publish(self, messages: Sequence[tuple[Topic[Any], Message]]) -> Sequence[Receipt]:
        """See `Transport.publish`.

        Raises:
            PublishError: always, unless there is nothing to publish.
        """
        self._desk.usable()
        if not messages:
            return ()
        error = NotSupportedError(
            f"{self.source}: a table is not published to; its rows are written by whoever owns it"
        )
        raise PublishError(failed=dict.fromkeys(range(len(messages)), error))

    # ------------------------------------------------ reading

    async def topics(self, pattern: str) -> Sequence[TopicInfo]:
        """See `Source.topics`."""
        self._desk.usable()
        if pattern != self._topic and not matches(pattern, self._topic):
            return ()
        return (TopicInfo(self._topic, 1, None, sorted(self._groups)),)

    async def subscribe(self, subscription: Subscription, plan: Plan) -> Consumer:
        """See `Source.subscribe`."""
        self._desk.usable()
        if subscription.group is None:
            raise NotSupportedError(f"{subscription}: whoever handles a row takes it; give a group")
        if plan.filter is not None:
            raise NotSupportedError(f"{subscription}: say it in `where` of {self.source}")
        self._groups.add(subscription.group)
        claims = self._claims(subscription.group)
        timetable = Timetable(self.source, self._desk.clock)
        consumer = PollingConsumer(self._desk, claims, timetable, subscription, plan)
        await consumer.join()
        self._consumers.add(consumer)
        return consumer

    def _claims(self, group: str) -> Claims:
        topic = self.source.topic
        source = topic.source or f"urn:postroad:table:{self.source.table}"
        return Claims(self._desk.table, topic.name, group, source)

    async def browse(self, topic: str, start: Start, limit: int) -> Sequence[Delivery]:
        """See `Source.browse`: a table has no log.

        Raises:
            NotSupportedError: always.
        """
        raise NotSupportedError(f"{self.source}: a table has no log to browse; query the table")

    async def seek(self, topic: str, group: str, to: Start) -> None:
        """See `Source.seek`: a table has no log.

        Raises:
            NotSupportedError: always.
        """
        raise NotSupportedError(
            f"{self.source}: a table has no log to move in; set its rows to what `where` asks for"
        )

    async def lag(self, topic: str, group: str) -> Lag:
        """See `Source.lag`. Rows that are ready, claimed, or wait for a retry; their age is known
        if the source names its `time`."""
        self._desk.usable()
        if topic != self._topic or group not in self._groups:
            raise NotFoundError(f"no topic {topic!r} with a group {group!r} on {self.source}")
        messages, oldest = await self._desk.read(lambda c: self._behind(c, group))
        age = timedelta(0) if not messages else None
        oldest_us = instant_us(oldest)
        if messages and oldest_us is not None:
            age = timedelta(microseconds=max(0, self._desk.now_us() - oldest_us))
        return Lag(topic, group, (PartitionLag(0, messages, age),))

    def _behind(self, connection: Connection, group: str) -> tuple[int, Any]:
        place, table = (self._topic, group), self._desk.table
        known = int(connection.execute(_SQL["unsettled"], place).fetchone()[0])
        oldest = None if self.source.time is None else table.oldest(connection, *place)
        return known + table.count_ready(connection, *place), oldest

    # ------------------------------------------------ dead letters

    async def dead_letters(self, topic: str, group: str | None, limit: int) -> Sequence[DeadLetter]:
        """See `DeadLetters.dead_letters`."""
        self._desk.usable()
        if topic != self._topic and not matches(topic, self._topic):
            return ()
        return await self._desk.read(lambda c: letters.listed(c, self._topic, group, limit))

    async def redrive(self, ids: Sequence[str]) -> int:
        """See `DeadLetters.redrive`: their rows become ready again, attempts reset. One whose row
        somebody has changed since stays a dead letter."""
        desk = self._desk
        number = await desk.write(
            lambda c: letters.redrive(c, desk.table, self._topic, ids, desk.now_us())
        )
        for consumer in self._consumers:
            consumer.look_again()
        return number

    async def discard(self, ids: Sequence[str]) -> int:
        """See `DeadLetters.discard`. Their rows stay failed."""
        return await self._desk.write(lambda c: letters.discard(c, self._topic, ids))

    # ------------------------------------------------ the end

    def notices(self) -> AsyncIterator[Notice]:
        """See `Transport.notices`: there are none; this only ends."""
        return aiter(self._notices)

    async def close(self) -> None:
        """See `Transport.close`. Closes the consumers too."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        if self._desk.is_open:
            await asyncio.gather(*(consumer.close() for consumer in list(self._consumers)))
        self._notices.close()
        await self._desk.close()


def _capabilities(source: PollingSource, risk: str) -> Capabilities:
    return Capabilities(
        settling="each",
        order="none",
        backlog="kept",
        durable=True,
        shared=True,
        groups=True,
        history=True,
        lag=source.time is not None,
        redelivery_delay=True,
        attempts=True,
        dead_letters=True,
        lease=True,
        risk=risk,
    )
