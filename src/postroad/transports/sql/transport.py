"""The sqlite:// road: a durable log with consumer groups in one file, shared by processes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any
from weakref import WeakSet

from postroad.core.capabilities import ANY_DELAY, Capabilities
from postroad.core.clock import Clock, SystemClock
from postroad.core.delivery import Delivery, Receipt, Start
from postroad.core.flow import Rate, draw
from postroad.core.message import PRIORITIES, Message
from postroad.core.notices import Disconnected, Notice, NoticeQueue, Reconnected
from postroad.core.reports import Account, DeadLetter, Lag, TopicInfo
from postroad.core.sequence import Change, LineId, Standing, with_number
from postroad.core.subscription import Subscription
from postroad.core.topic import Topic
from postroad.core.transport import Consumer, Kept, Plan
from postroad.errors import GroupActiveError, NotSupportedError, PostroadError
from postroad.storage import sequences
from postroad.storage.connection import Connection
from postroad.storage.database import Database
from postroad.storage.inbox import forget
from postroad.storage.opening import place_of
from postroad.storage.place import Place
from postroad.storage.statements import load
from postroad.transports.sql import browse, dead, groups, keeping, reports, retention, sessions
from postroad.transports.sql.append import forget_next_due
from postroad.transports.sql.consumer import GroupConsumer
from postroad.transports.sql.handing import deliveries
from postroad.transports.sql.log import Log
from postroad.transports.sql.observer import Observer
from postroad.transports.sql.publisher import Publisher
from postroad.transports.sql.topics import ensure_topic

_LOG = load("log")
_RETENTION_EVERY = 1.0
_RETENTION_EVERY_ON_SERVERS = 10.0
"""Seconds; of many processes each asks now and then."""
_TOKEN_KEPT_US = 7 * 24 * 3600 * 1_000_000
"""How long the token of a `publish_once` is remembered: seven days."""


class SqlTransport:
    """`Transport`, `Source`, `Audited`, `Cancels`, `OnceTokens` and `Keeps` on one file.

    Args:
        url: `sqlite:///relative.db` or `sqlite:////absolute.db`, with `?durability=full|normal`
            and `?busy=5s` (how long to wait for another process's lock).
        clock: time, for everything that is stamped, due or leased.

    Raises:
        InvalidURLError: the URL names no file or has a parameter that is not known.
    """

    def __init__(self, url: str, *, clock: Clock | None = None) -> None:
        self._place = place_of(url)
        self._log = Log(clock or SystemClock(), self._place)
        self._publisher = Publisher(self._log)
        self._notices = NoticeQueue()
        self._consumers: WeakSet[GroupConsumer | Observer] = WeakSet()
        self._keeper: asyncio.Task[None] | None = None
        self._opening = asyncio.Lock()
        self._closing: asyncio.Future[None] | None = None
        self._capabilities = _capabilities(self._place)

    @property
    def capabilities(self) -> Capabilities:
        """See `Transport.capabilities`."""
        return self._capabilities

    @property
    def commits(self) -> int:
        """Write transactions so far: how well publishes are grouped."""
        return self._log.database.commits

    async def open(
        self, topics: Sequence[Topic[Any]], subscriptions: Sequence[Subscription]
    ) -> None:
        """See `Transport.open`. Also to declare more later, and to open again after a close.

        Raises:
            StorageError: the file cannot be opened, is damaged, or of a newer version.
        """
        async with self._opening:
            if self._closing is not None:
                await asyncio.shield(self._closing)
                self._closing, self._keeper, self._notices = None, None, NoticeQueue()
            first = self._keeper is None
            if first:
                database = await Database.open(self._place, self._log.changed, self._connected)
                self._log.opened(database)
                self._keeper = asyncio.ensure_future(self._keep())
            try:
                await self._log.write(
                    lambda c: self._declare(c, topics, subscriptions), scope="topics"
                )
            except BaseException:
                # One more topic that cannot be declared now is no reason to close on the others.
                if first:
                    await self.close()
                raise

    def _declare(
        self,
        connection: Connection,
        topics: Sequence[Topic[Any]],
        subscriptions: Sequence[Subscription],
    ) -> None:
        now = self._log.clock.now_us()
        for topic in topics:
            ensure_topic(connection, topic, now)
        for subscription in subscriptions:
            if isinstance(subscription.source, Topic):
                ensure_topic(connection, subscription.source, now)
            if subscription.group is not None:
                groups.subscribe(
                    connection,
                    subscription.group,
                    subscription.source_name,
                    subscription.start,
                    now,
                )

    async def publish(self, messages: Sequence[tuple[Topic[Any], Message]]) -> Sequence[Receipt]:
        """See `Transport.publish`. Each call is accepted as a whole or not at all."""
        return await self._publisher.publish(messages)

    async def publish_once(
        self, token: str, messages: Sequence[tuple[Topic[Any], Message]]
    ) -> bool:
        """See `OnceTokens.publish_once`. A token is remembered for seven days."""
        log = self._log

        def operation(connection: Connection) -> bool:
            now = log.clock.now_us()
            connection.execute(_LOG["once_expire"], (now - _TOKEN_KEPT_US,))
            if connection.execute(_LOG["once_insert"], (token, now)).rowcount != 1:
                return False
            log.appender.append(connection, messages, now)
            return True

        accepted = await log.write(operation)
        log.arrived({topic.name for topic, _ in messages})
        return accepted

    async def publish_numbered(
        self, messages: Sequence[tuple[Topic[Any], Message]], epoch: str
    ) -> Sequence[Receipt]:
        """See `Numbers.publish_numbered`."""
        log = self._log

        def operation(connection: Connection) -> Sequence[Receipt]:
            given = []
            for topic, message in messages:
                line = LineId(topic.name, message.key or "", epoch)
                number = sequences.take_number(connection, line)
                given.append((topic, with_number(message, number, epoch)))
            return log.appender.append(connection, given, log.clock.now_us())

        receipts = await log.write(operation)
        log.arrived({topic.name for topic, _ in messages})
        return receipts

    async def permits(self, name: str, rate: Rate, wanted: int) -> tuple[int, float]:
        """See `Permits`."""
        log = self._log

        def operation(connection: Connection) -> tuple[int, float]:
            now = log.clock.now_us()
            row = connection.execute(_LOG["permits"], (name,)).fetchone()
            tokens, at = (float(rate.capacity), now) if row is None else row
            granted, left, wait = draw(rate, tokens, (now - at) / 1e6, wanted)
            connection.execute(_LOG["permits_set"], (name, left, now))
            return granted, wait

        return await log.write(operation, scope=f"permits {name}", durable=False)

    async def cancel(self, message_id: str) -> bool:
        """See `Cancels.cancel`."""

        def operation(connection: Connection) -> bool:
            connection.lock("schedule")  # or it might be taking its place just now
            number = connection.execute(_LOG["scheduled_cancel"], (message_id,)).rowcount
            forget_next_due(connection)
            return number > 0

        return await self._log.write(operation)

    # ------------------------------------------------ reading

    async def topics(self, pattern: str) -> Sequence[TopicInfo]:
        """See `Source.topics`."""
        await self._log.promoted()
        return await self._log.read(lambda c: reports.topics(c, pattern))

    async def subscribe(self, subscription: Subscription, plan: Plan) -> Consumer:
        """See `Source.subscribe`."""
        self._log.database.usable()
        if plan.filter is not None:
            raise NotSupportedError(
                f"{subscription}: the {self._place.dialect} road evaluates no filters itself; the "
                "engine does"
            )
        consumer: GroupConsumer | Observer
        if subscription.group is None:
            consumer = Observer(self._log, subscription)
        else:
            consumer = GroupConsumer(self._log, subscription, plan)
        await consumer.join()
        self._consumers.add(consumer)
        return consumer

    async def browse(self, topic: str, start: Start, limit: int) -> Sequence[Delivery]:
        """See `Source.browse`."""
        await self._log.promoted()
        origins = self._log.origins
        chunks = await self._log.scan(lambda c: browse.chunks(c, origins, topic, start, limit))
        return deliveries(chunks, origins.by_id, None, None, in_order=False)

    async def seek(self, topic: str, group: str, to: Start) -> None:
        """See `Source.seek`. A position is exact in its partition; elsewhere it stands for the
        instant at which its message was accepted."""
        await self._log.promoted()
        # Nobody else may be there to see that a lease is over, or is of a clock that was set back.
        scope = groups.scope(group)
        clock = self._log.clock
        await self._log.write(lambda c: sessions.sweep(c, group, clock.now_us()), scope=scope)

        def operation(connection: Connection) -> None:
            now = self._log.clock.now_us()
            group_id, topic_id, _, _ = groups.find(connection, topic, group)
            if reports.is_live(connection, topic, group, now):
                raise GroupActiveError(
                    f"group {group!r} has consumers on {topic!r}; stop them, then seek"
                )
            groups.restart(connection, topic_id, group_id, to, now)
            forget(connection, topic, group)

        await self._log.write(operation, scope=scope)
        self._log.wake()

    async def lag(self, topic: str, group: str) -> Lag:
        """See `Source.lag`."""
        await self._log.promoted()
        now = self._log.clock.now_us()
        return await self._log.read(lambda c: reports.lag(c, topic, group, now))

    # ------------------------------------------------ audit and dead letters

    async def account(self, topic: str, group: str) -> Account:
        """See `Audited.account`."""
        await self._log.promoted()
        return await self._log.scan(lambda c: reports.account(c, topic, group))

    async def groups(self, pattern: str) -> Sequence[tuple[str, str]]:
        """See `Audited.groups`."""
        return await self._log.read(lambda c: reports.group_list(c, pattern))

    async def dead_letters(self, topic: str, group: str | None, limit: int) -> Sequence[DeadLetter]:
        """See `DeadLetters.dead_letters`."""
        origins = self._log.origins
        rows = await self._log.read(lambda c: dead.rows(c, origins, topic, group, limit))
        return [dead.letter(row, origins.by_id) for row in rows]

    async def redrive(self, ids: Sequence[str]) -> int:
        """See `DeadLetters.redrive`."""
        number = await self._log.write(lambda c: dead.redrive(c, ids), scope="letters")
        self._log.wake()
        return number

    async def discard(self, ids: Sequence[str]) -> int:
        """See `DeadLetters.discard`."""
        number = await self._log.write(lambda c: dead.discard(c, ids), scope="letters")
        self._log.wake()
        return number

    async def keep(
        self,
        topic: Topic[Any],
        group: str,
        kept: Sequence[Kept],
        *,
        ordered: bool,
        parks: bool,
    ) -> None:
        """See `Keeps.keep`."""
        log, what = self._log, keeping.Keeping(topic, group, kept, ordered, parks)
        await log.write(
            lambda c: keeping.keep(c, log.origins, what, log.clock.now_us()),
            scope=groups.scope(group),
        )
        log.wake()

    async def unsettled_keys(
        self, topic: str, group: str, keys: Collection[str] | None
    ) -> Collection[str]:
        """See `Keeps.unsettled_keys`."""
        return await self._log.read(lambda c: keeping.unsettled_keys(c, topic, group, keys))

    async def sequences(self, group: str, lines: Collection[LineId]) -> Mapping[LineId, Standing]:
        """See `KeepsSequences.sequences`."""
        return await self._log.read(lambda c: sequences.read(c, group, lines))

    async def advance_sequences(
        self, group: str, changes: Sequence[Change], *, durable: bool = True
    ) -> None:
        """See `KeepsSequences.advance_sequences`."""
        await self._log.write(lambda c: sequences.write(c, group, changes), durable=durable)

    async def forget_sequences(self, group: str, topic: str) -> None:
        """See `KeepsSequences.forget_sequences`."""
        await self._log.write(lambda c: sequences.forget(c, group, topic))

    # ------------------------------------------------ the road's own life

    def notices(self) -> AsyncIterator[Notice]:
        """See `Transport.notices`: a file is never disconnected, so there this only ends."""
        return aiter(self._notices)

    def _connected(self, up: bool) -> None:
        what = f"the server of {self._place.name}"
        self._notices.put(Reconnected() if up else Disconnected(f"{what} was lost"))

    async def _keep(self) -> None:
        """Retention, until the road is closed."""
        while True:
            every = _RETENTION_EVERY if self._place.one_writer else _RETENTION_EVERY_ON_SERVERS
            await self._log.clock.sleep(random.uniform(every / 2, every))
            with suppress(PostroadError):  # locked or full now: the next round tries again
                await self.trim()

    async def trim(self) -> None:
        """Remove what retention lets go of, in short transactions. Happens by itself, too."""
        clock = self._log.clock
        for topic in await self._log.peek(lambda c: retention.due(c, clock.now_us())):
            await self._trim(topic)

    async def _trim(self, topic: retention.Topic) -> None:
        log, more = self._log, True
        while more:
            more = await log.write(
                lambda c: retention.trim(c, topic, log.clock.now_us()),
                scope="retention",
                durable=False,
            )

    async def close(self) -> None:
        """See `Transport.close`. Closes the consumers too."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        if self._consumers:
            await asyncio.gather(*(consumer.close() for consumer in list(self._consumers)))
        self._notices.close()
        database = self._log.closed()
        if database is not None:
            await database.close()


def _capabilities(place: Place) -> Capabilities:
    return Capabilities(
        settling="each",
        order="key-group",
        backlog="kept",
        durable=True,
        shared=True,
        groups=True,
        ephemeral=True,
        history=True,
        seek=True,
        browse=True,
        lag=True,
        audit="exact",
        delay=ANY_DELAY,
        cancel=True,
        redelivery_delay=True,
        attempts=True,
        parking=True,
        expiry=True,
        dead_letters=True,
        priorities=len(PRIORITIES),
        atomic_settle=True,
        transactions=True,
        once_tokens=True,
        permits=True,
        sequences=True,
        patterns=True,
        retention=frozenset({"age", "size", "consumed"}),
        lease=True,
        risk=place.risk,
    )
