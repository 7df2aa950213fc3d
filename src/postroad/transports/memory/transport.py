"""The memory road's publishing side, its groups, and what it can tell about them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from itertools import count
from typing import Any

from postroad.core.capabilities import ANY_DELAY, Capabilities
from postroad.core.clock import Clock, SystemClock
from postroad.core.delivery import Delivery, Receipt, Start
from postroad.core.flow import Rate, draw
from postroad.core.message import Message
from postroad.core.notices import Blocked, Notice, NoticeQueue, Unblocked
from postroad.core.pattern import matches
from postroad.core.reports import Account, DeadLetter, Lag, TopicInfo
from postroad.core.sequence import Change, LineId, Standing, with_number
from postroad.core.subscription import Subscription
from postroad.core.topic import Topic
from postroad.core.transport import Plan
from postroad.errors import (
    BacklogFullError,
    ClosedError,
    NotFoundError,
    NotSupportedError,
    PublishError,
    TopicMismatchError,
)
from postroad.transports.memory.channel import Channel
from postroad.transports.memory.consumer import MemoryConsumer
from postroad.transports.memory.queue import Moment, Queue
from postroad.transports.memory.sequences import Standings
from postroad.transports.memory.settings import read_settings

_TOKENS = 100_000
"""How many once-tokens are remembered; the oldest is forgotten first."""

CAPABILITIES = Capabilities(
    settling="each",
    order="key-group",
    backlog="refused",
    groups=True,
    ephemeral=True,
    lag=True,
    audit="exact",
    delay=ANY_DELAY,
    cancel=True,
    redelivery_delay=True,
    attempts=True,
    parking=True,
    dead_letters=True,
    priorities=10,
    atomic_settle=True,
    once_tokens=True,
    permits=True,
    sequences=True,
    patterns=True,
    retention=frozenset({"consumed"}),
    lease=True,
    risk="everything that is not handled yet is lost when the process ends",
)


class MemoryTransport:
    """A road inside one process: `memory://?capacity=10000&when_full=wait|refuse`.

    Implements `Transport`, `Source`, `Cancels`, `OnceTokens`, `DeadLetters` and `Audited`; its
    consumers implement `AtomicSettle`. A group begins when it is declared or first joined, and
    there is nothing to read before that. What it holds lives as long as the object: closing and
    opening it again finds everything where it was.

    Each queue (a group on a topic, or an ephemeral reader) holds `capacity` unsettled messages.
    A publisher then waits, first come first served for each message, or is refused. Retries,
    redrives, messages that become due and a batch's later messages in an atomic publish may
    overflow it: they were accepted before, or belong to a commit that had room for its first. Two
    groups that publish to each other while both are full wait for each other.

    For one event loop at a time; not thread-safe. While it is not open, everything but `open` and
    `close` raises `ClosedError`.

    Raises:
        InvalidURLError: at construction.
    """

    capabilities = CAPABILITIES

    def __init__(self, url: str = "memory://", *, clock: Clock | None = None) -> None:
        self._settings = read_settings(url)
        self._clock = clock or SystemClock()
        self._channels: dict[str, Channel] = {}
        self._wishes: dict[tuple[str, str], Subscription] = {}
        self._consumers: list[MemoryConsumer] = []
        self._tokens: dict[str, None] = {}
        self._permits: dict[str, tuple[float, float]] = {}
        self._standings = Standings()
        self._numbering = asyncio.Lock()
        self._fences = count(1)
        self._notices = NoticeQueue()
        self._blocked = 0
        self._open = False

    # ------------------------------------------------------------- life

    async def open(
        self, topics: Sequence[Topic[Any]], subscriptions: Sequence[Subscription]
    ) -> None:
        """See `Transport.open`."""
        for topic in topics:
            self._check_partitions(topic)
        if not self._open:
            self._open = True
            self._notices = NoticeQueue()
            for channel in self._channels.values():
                channel.turn = asyncio.Lock()
        for topic in topics:
            self._channel(topic)
        for subscription in subscriptions:
            self._declare(subscription)

    def _check_partitions(self, topic: Topic[Any]) -> None:
        channel = self._channels.get(topic.name)
        if channel is not None and channel.partitions != topic.partition_count:
            raise TopicMismatchError(
                f"{topic.name!r} has {channel.partitions} partitions on this road, not "
                f"{topic.partition_count}; declare it the same everywhere, or use a new road"
            )

    async def close(self) -> None:
        """See `Transport.close`. Publishers that wait fail with `ClosedError`."""
        self._open = False
        for consumer in tuple(self._consumers):
            await consumer.close()
        for channel in self._channels.values():
            channel.open_room()
        self._notices.close()

    def notices(self) -> AsyncIterator[Notice]:
        """See `Transport.notices`. Tells when a first publisher waits and the last goes on."""
        return aiter(self._notices)

    def now(self) -> Moment:
        """Both clocks, read once."""
        return Moment(self._clock.monotonic(), self._clock.now_us())

    # ------------------------------------------------------------- topics and groups

    def _channel(self, topic: Topic[Any]) -> Channel:
        channel = self._channels.get(topic.name)
        if channel is None:
            capacity = self._settings.capacity
            channel = Channel(topic.name, topic.partition_count, capacity, self._fences)
            self._channels[topic.name] = channel
            for wish in self._wishes.values():
                if wish.group is not None and wish.reads(topic.name):
                    channel.group(wish.group, self.now())
            for consumer in self._consumers:
                if consumer.subscription.reads(topic.name):
                    consumer.attach(channel)
        return channel

    def _declare(self, subscription: Subscription) -> None:
        if isinstance(subscription.source, Topic):
            self._channel(subscription.source)
        if subscription.group is None:
            return
        self._wishes.setdefault((subscription.source_name, subscription.group), subscription)
        for channel in self._channels.values():
            if subscription.reads(channel.name):
                channel.group(subscription.group, self.now())

    async def subscribe(self, subscription: Subscription, plan: Plan) -> MemoryConsumer:
        """See `Source.subscribe`.

        Raises:
            ClosedError: the road is not open.
            NotSupportedError: the plan has a native filter, and this road evaluates none.
        """
        self._check_open()
        if plan.filter is not None:
            raise NotSupportedError("a memory road evaluates no filters; leave them to the engine")
        self._declare(subscription)
        consumer = MemoryConsumer(self, self._clock, subscription, plan)
        self._consumers.append(consumer)
        for channel in self._channels.values():
            if subscription.reads(channel.name):
                consumer.attach(channel)
        return consumer

    def left(self, consumer: MemoryConsumer) -> None:
        """A consumer is closed."""
        self._consumers.remove(consumer)

    # ------------------------------------------------------------- sequences

    async def publish_numbered(
        self, messages: Sequence[tuple[Topic[Any], Message]], epoch: str
    ) -> Sequence[Receipt]:
        """See `Numbers.publish_numbered`; what is before a message that is refused is accepted."""
        receipts: list[Receipt] = []
        async with self._numbering:
            for index, (topic, message) in enumerate(messages):
                line = LineId(topic.name, message.key or "", epoch)
                number = self._standings.next_number(line)
                try:
                    receipts += await self.publish([(topic, with_number(message, number, epoch))])
                except PublishError as error:
                    rest = range(index, len(messages))
                    raise PublishError(dict.fromkeys(rest, error.failed[0])) from error
                self._standings.give(line, number)
        return receipts

    async def sequences(self, group: str, lines: Collection[LineId]) -> Mapping[LineId, Standing]:
        """See `KeepsSequences.sequences`."""
        return self._standings.read(group, lines)

    async def advance_sequences(
        self, group: str, changes: Sequence[Change], *, durable: bool = True
    ) -> None:
        """See `KeepsSequences.advance_sequences`. It lives as long as the object."""
        self._standings.write(group, changes)

    async def forget_sequences(self, group: str, topic: str) -> None:
        """See `KeepsSequences.forget_sequences`."""
        self._standings.forget(group, topic)

    # ------------------------------------------------------------- publishing

    async def publish(self, messages: Sequence[tuple[Topic[Any], Message]]) -> Sequence[Receipt]:
        """See `Transport.publish`. Every group gets a message or none does. A cancelled batch is
        accepted up to some message and not beyond.

        Raises:
            ClosedError: the road is not open.
            PublishError: with `BacklogFullError` for each that was refused, or `ClosedError` for
                each that waited for room as the road was closed.
        """
        self._check_open()
        now = self.now()
        receipts = []
        failed: dict[int, Exception] = {}
        for index, (topic, message) in enumerate(messages):
            channel = self._channels.get(topic.name) or self._channel(topic)
            if channel.publishers or channel.full(message, now):
                try:
                    await self._await_room(channel, message)
                except (BacklogFullError, ClosedError) as error:
                    failed[index] = error
                    continue
                now = self.now()
            receipts.append(channel.accept(message, now))
        if failed:
            raise PublishError(failed)
        return receipts

    async def _await_room(
        self, channel: Channel, message: Message, exempt: frozenset[Queue] = frozenset()
    ) -> None:
        """Return with room for one, before anything else can run. Raises as `publish` names."""
        if self._settings.when_full == "refuse" and channel.full(message, self.now(), exempt):
            raise BacklogFullError(
                f"{channel.name!r} has a queue of {self._settings.capacity} unsettled messages; "
                "try later, add consumers or raise capacity in the road's URL"
            )
        channel.publishers += 1
        self._block(channel, 1)
        try:
            async with channel.turn:
                while self._open and channel.full(message, now := self.now(), exempt):
                    await channel.wait_for_room(self._clock, now)
        finally:
            channel.publishers -= 1
            self._block(channel, -1)
        self._check_open()

    def _block(self, channel: Channel, change: int) -> None:
        before, self._blocked = self._blocked, self._blocked + change
        if before == 0:
            self._notices.put(Blocked(f"a queue of {channel.name!r} is full"))
        elif self._blocked == 0:
            self._notices.put(Unblocked())

    async def make_room(
        self, messages: Sequence[tuple[Topic[Any], Message]], exempt: frozenset[Queue]
    ) -> Callable[[], None]:
        """Wait until each of the messages could be accepted next, all at one moment; returns
        what accepts them. To be called before anything is awaited. Raises as `publish` does, with
        nothing accepted."""
        self._check_open()
        pairs = [(self._channel(topic), message) for topic, message in messages]
        while True:
            waited = False
            for index, (channel, message) in enumerate(pairs):
                if channel.full(message, self.now(), exempt):
                    waited = True
                    await self._room_or_fail(index, len(pairs), channel, message, exempt)
            if not waited:
                return lambda: self._accept(pairs)

    async def _room_or_fail(
        self, index: int, size: int, channel: Channel, message: Message, exempt: frozenset[Queue]
    ) -> None:
        try:
            await self._await_room(channel, message, exempt)
        except (BacklogFullError, ClosedError) as error:
            raise PublishError(dict.fromkeys(range(size), error)) from error

    def _accept(self, pairs: Sequence[tuple[Channel, Message]]) -> None:
        now = self.now()
        for channel, message in pairs:
            channel.accept(message, now)

    async def publish_once(
        self, token: str, messages: Sequence[tuple[Topic[Any], Message]]
    ) -> bool:
        """See `OnceTokens`. The last 100,000 tokens are remembered. Raises as `publish` does,
        with nothing accepted and the token not used."""
        self._check_open()
        if token in self._tokens:
            return False
        publish = await self.make_room(messages, frozenset())
        if token in self._tokens:
            return False
        self._tokens[token] = None
        if len(self._tokens) > _TOKENS:
            del self._tokens[next(iter(self._tokens))]
        publish()
        return True

    async def cancel(self, message_id: str) -> bool:
        """See `Cancels`. The audit counts a withdrawn message as discarded."""
        self._check_open()
        now = self.now()
        found = [channel.cancel(message_id, now) for channel in self._channels.values()]
        return any(found)

    # ------------------------------------------------------------- reports

    async def topics(self, pattern: str) -> Sequence[TopicInfo]:
        """See `Source.topics`. Messages are those that somebody still has to settle."""
        self._swept()
        return [
            TopicInfo(channel.name, channel.partitions, channel.unsettled, tuple(channel.groups))
            for channel in self._fitting(pattern)
        ]

    async def browse(self, topic: str, start: Start, limit: int) -> Sequence[Delivery]:
        """Always raises: a memory road keeps no history."""
        self._check_open()
        if topic not in self._channels:
            raise NotFoundError(f"no topic {topic!r} on this road")
        raise NotSupportedError("a memory road keeps no history to browse; use sqlite://")

    async def seek(self, topic: str, group: str, to: Start) -> None:
        """Always raises: a memory road keeps no history."""
        self._found(topic, group)
        raise NotSupportedError("a memory road keeps no history to seek in; use sqlite://")

    async def lag(self, topic: str, group: str) -> Lag:
        """See `Source.lag`. Exact."""
        channel, queue = self._found(topic, group)
        return channel.lag(queue, self.now())

    async def account(self, topic: str, group: str) -> Account:
        """See `Audited.account`. Exact."""
        channel, queue = self._found(topic, group)
        return channel.account(queue)

    async def groups(self, pattern: str) -> Sequence[tuple[str, str]]:
        """See `Audited.groups`."""
        return [(c.name, group) for c in self._fitting(pattern) for group in c.groups]

    # ------------------------------------------------------------- dead letters

    async def dead_letters(self, topic: str, group: str | None, limit: int) -> Sequence[DeadLetter]:
        """See `DeadLetters`. Without a limit of their own: they are kept until somebody acts."""
        graves = [
            (grave.entry.seq, handle, queue, grave)
            for channel in self._fitting(topic)
            for name, queue in channel.groups.items()
            if group is None or name == group
            for handle, grave in queue.graves.items()
        ]
        graves.sort(key=lambda found: (found[2].topic, found[0], found[1]))
        return [
            DeadLetter(
                id=handle,
                message=grave.entry.message,
                topic=queue.topic,
                group=queue.group or "",
                position=None,
                failures=grave.entry.failures,
                died_us=grave.died_us,
            )
            for _, handle, queue, grave in graves[:limit]
        ]

    async def redrive(self, ids: Sequence[str]) -> int:
        """See `DeadLetters`. They take their old places, before everything younger."""
        return sum(queue.redrive(ids) for queue in self._all_groups())

    async def discard(self, ids: Sequence[str]) -> int:
        """See `DeadLetters`."""
        return sum(queue.discard(ids) for queue in self._all_groups())

    async def permits(self, name: str, rate: Rate, wanted: int) -> tuple[int, float]:
        """See `Permits`."""
        self._check_open()
        now = self._clock.monotonic()
        tokens, at = self._permits.get(name, (float(rate.capacity), now))
        granted, left, wait = draw(rate, tokens, now - at, wanted)
        self._permits[name] = (left, now)
        return granted, wait

    # ------------------------------------------------------------- finding

    def _all_groups(self) -> Sequence[Queue]:
        self._check_open()
        return [q for channel in self._channels.values() for q in channel.groups.values()]

    def _fitting(self, pattern: str) -> Sequence[Channel]:
        self._check_open()
        return [c for c in self._channels.values() if matches(pattern, c.name)]

    def _found(self, topic: str, group: str) -> tuple[Channel, Queue]:
        self._check_open()
        channel = self._channels.get(topic)
        queue = None if channel is None else channel.groups.get(group)
        if channel is None or queue is None:
            raise NotFoundError(f"no group {group!r} on a topic {topic!r} of this road")
        self._swept()
        return channel, queue

    def _swept(self) -> None:
        now = self.now()
        for channel in self._channels.values():
            channel.sweep(now)

    def _check_open(self) -> None:
        if not self._open:
            raise ClosedError("the memory road is not open; use `async with` or call open()")
