"""Moving to the store what the road cannot keep: retries, parked keys, dead letters.

A moved message is kept by the store under a topic of its own, as it was but for one more header
that says where it came from. It is written there first and settled on its road afterwards, so a
crash between the two repeats it and loses nothing. There it is consumed by the same group and
handler; retries, parking and dead letters are the store's own from then on.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from hashlib import blake2b
from itertools import groupby
from typing import Any

import msgspec

from postroad.core.clock import Clock, duration_us
from postroad.core.delivery import Position, Settlement
from postroad.core.message import Message
from postroad.core.pattern import matches
from postroad.core.subscription import Subscription
from postroad.core.topic import Topic
from postroad.core.transport import Keeps, Kept, Transport
from postroad.delivery.patience import patiently

HEADER = "postroadmoved"
PREFIX = "postroad.moved."
FORWARDER = "postroad"
"""The group that publishes on its road what waited in a store for its time."""
_PARTITIONS = 16
_LONGEST_NAME = 200
_STRANGE = re.compile(r"[^A-Za-z0-9_-]+")


class Note(msgspec.Struct, omit_defaults=True):
    """Where a kept message came from; the value of its header.

    Attributes:
        partitions: of its topic, where the message is to go back there.
        deliver_at_us: what it said itself; the store has its own idea of when it is due.
    """

    topic: str
    group: str
    position: str | None = None
    partitions: int = 1
    deliver_at_us: int | None = None


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Note).decode


def prefix_of(group: str, road: str) -> str:
    """What the names of a group's moved topics begin with: readable, and another one for each
    group of each road (`place_of`), so that several may share a store."""
    digest = blake2b(f"{group}\0{road}".encode(), digest_size=4).hexdigest()
    return f"{PREFIX}{_STRANGE.sub('-', group)[:40]}-{digest}."


def delayed_prefix(road: str) -> str:
    """What the names of the topics begin with under which a store keeps what is to be published
    on a road later; no group's prefix looks like it, and another road (`place_of`) has another
    one. Without a road, of whoever uses the store."""
    if not road:
        return f"{PREFIX}delayed."
    return f"{PREFIX}delayed.{blake2b(road.encode(), digest_size=4).hexdigest()}."


def moved_name(prefix: str, topic: str) -> str:
    """The moved topic's name, of a topic or a pattern."""
    name = prefix + topic
    if len(name) <= _LONGEST_NAME:
        return name
    return prefix + blake2b(topic.encode(), digest_size=16).hexdigest()


def is_moved(name: str, prefix: str, pattern: str) -> bool:
    """Whether a store's topic is the moved one of a topic that fits the pattern. The name of a
    long topic cannot be read back: it fits itself and `#`."""
    if not name.startswith(prefix):
        return False
    return name == moved_name(prefix, pattern) or matches(pattern, name.removeprefix(prefix))


def wrapped(message: Message, note: Note) -> Message:
    """The message as the store keeps it."""
    note.deliver_at_us = message.deliver_at_us
    headers = {**message.headers, HEADER: _encode(note).decode()}
    return msgspec.structs.replace(message, headers=headers, deliver_at_us=None)


def unwrapped(message: Message, topic: str, group: str) -> tuple[Message, Note]:
    """The message as its road had it, and its note; one without a note was published to the
    store's topic by somebody else, and is taken as it is."""
    headers = dict(message.headers)
    text = headers.pop(HEADER, None)
    if text is None:
        return message, Note(topic, group)
    note = _decode(text)
    original = msgspec.structs.replace(message, headers=headers, deliver_at_us=note.deliver_at_us)
    return original, note


class Moving:
    """One subscription's part of a store.

    Args:
        store: open, and able to keep (`Keeps`).
        prefix: of the moved topics; see `prefix_of`.
        retries: also move what is to come again later; else dead letters only.
        parks: dead letters park their key.
    """

    def __init__(
        self,
        store: Transport,
        subscription: Subscription,
        clock: Clock,
        *,
        prefix: str,
        retries: bool,
        parks: bool,
    ) -> None:
        assert isinstance(store, Keeps)
        self.prefix = prefix
        self.retries = retries
        self._store = store
        self._keeps: Keeps = store
        self._group = subscription.group or ""
        self._source = subscription.source
        self._ordered = subscription.order == "key"
        self._clock = clock
        self._parks = parks
        self._topics: dict[str, Topic[Any]] = {}

    async def open(self) -> None:
        """Create the moved topic of a subscription that names one."""
        if isinstance(self._source, Topic):
            topic = self._topic(self._source.name)
            group = Subscription(source=topic, group=self._group, start="earliest")
            await self._store.open([topic], [group])

    def moves(self, settlement: Settlement) -> bool:
        """Whether this answer is for the store."""
        if settlement.action == "reject":
            return True
        if settlement.action == "ack" or not self.retries:
            return False
        return bool(settlement.failure or settlement.delay)

    async def move(self, settlements: Sequence[Settlement]) -> None:
        """Write these to the store, in order; waits out a store that cannot be reached."""
        for name, some in groupby(settlements, key=lambda one: one.delivery.topic):
            topic, kept = self._topic(name), [self._kept(settlement) for settlement in some]
            await patiently(self._clock, lambda: self._keep(topic, kept))  # noqa: B023

    async def unsettled_keys(
        self, topic: str, keys: Collection[str] | None
    ) -> set[tuple[str, str]]:
        """(topic, key) of these keys, or all, that the store has not done with."""
        name = moved_name(self.prefix, topic)
        found = await self._keeps.unsettled_keys(name, self._group, keys)
        return {(topic, key) for key in found}

    async def _keep(self, topic: Topic[Any], kept: list[Kept]) -> None:
        await self._keeps.keep(topic, self._group, kept, ordered=self._ordered, parks=self._parks)

    def _kept(self, settlement: Settlement) -> Kept:
        delivery, failure = settlement.delivery, settlement.failure
        position: Position | None = delivery.position
        note = Note(
            delivery.topic, self._group, position=None if position is None else str(position)
        )
        due = self._clock.now_us() + duration_us(settlement.delay) if settlement.delay else 0
        return Kept(
            message=wrapped(delivery.message, note),
            attempts=delivery.attempts + (failure is not None),
            failures=delivery.failures if failure is None else (*delivery.failures, failure),
            due_us=due,
            dead=settlement.action == "reject",
        )

    def _topic(self, name: str) -> Topic[Any]:
        topic = self._topics.get(name)
        if topic is None:
            moved = moved_name(self.prefix, name)
            topic = self._topics[name] = Topic(moved, bytes, partitions=_PARTITIONS)
        return topic
