"""Moving to the store what the road cannot keep: retries, parked keys, dead letters.

A moved message is published to a topic of its own on the store, as it was but for one more header
that says where it came from and what it has been through. It is written first and settled on its
road afterwards, so a crash between the two repeats it and loses nothing. There it is consumed by
the same group and handler; retries, parking and dead letters are the store's own from then on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from itertools import groupby
from typing import Any

import msgspec

from postroad.core.clock import Clock, duration_us
from postroad.core.delivery import Failure, Position, Settlement
from postroad.core.message import Message
from postroad.core.reports import DeadLetter
from postroad.core.subscription import Subscription
from postroad.core.topic import Retention, Topic
from postroad.core.transport import Keeps, Transport
from postroad.delivery.patience import patiently
from postroad.errors import NotFoundError, PublishError

HEADER = "postroadmoved"
PREFIX = "postroad.moved."
_KEPT_FAILURES = 10
_PARTITIONS = 16
_RETENTION = Retention(consumed=True)
_STRANGE = re.compile(r"[^A-Za-z0-9_-]+")


class Note(msgspec.Struct, omit_defaults=True):
    """What a moved message has been through; the value of its header.

    Attributes:
        topic, group, position: where it came from.
        attempts, failures: what it was given up with, the last ten of them.
        due_us: not to be handled before.
        partitions: of its topic, where the message is to go back there.
    """

    topic: str
    group: str
    position: str | None = None
    attempts: int = 0
    failures: tuple[Failure, ...] = ()
    due_us: int = 0
    partitions: int = 1


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Note).decode


def prefix_of(group: str) -> str:
    """What the names of a group's moved topics begin with: readable, and different for each."""
    readable = _STRANGE.sub("-", group)[:40]
    return f"{PREFIX}{readable}-{blake2b(group.encode(), digest_size=4).hexdigest()}."


def wrapped(message: Message, note: Note) -> Message:
    """The message as the store keeps it."""
    headers = {**message.headers, HEADER: _encode(note).decode()}
    return msgspec.structs.replace(message, headers=headers)


def unwrapped(message: Message) -> tuple[Message, Note]:
    """The message as its road had it, and its note."""
    headers = dict(message.headers)
    note = _decode(headers.pop(HEADER))
    return msgspec.structs.replace(message, headers=headers), note


class Moving:
    """One subscription's part of a store.

    Args:
        store: open, and able to keep (`Keeps`).
        retries: also move what is to come again later; else dead letters only.
        parks: dead letters park their key.
    """

    def __init__(
        self,
        store: Transport,
        subscription: Subscription,
        clock: Clock,
        *,
        retries: bool,
        parks: bool,
    ) -> None:
        assert isinstance(store, Keeps)
        self._store = store
        self._keeps: Keeps = store
        self._group = subscription.group or ""
        self._source = subscription.source
        self._clock = clock
        self.retries = retries
        self._parks = parks
        self._prefix = prefix_of(self._group)
        self._topics: dict[str, Topic[Any]] = {}
        self._opened: dict[str, Topic[Any]] = {}

    async def open(self) -> None:
        """Create the moved topic of a subscription that names one."""
        if isinstance(self._source, Topic):
            await self._open([self._topic(self._source.name)])

    async def settle(self, settlements: Sequence[Settlement]) -> list[Settlement]:
        """Write what is to be moved to the store, in order; returns what the road has to be told,
        with an ack for everything that was moved."""
        moved = [one for one in settlements if self._moves(one)]
        if not moved:
            return list(settlements)
        for dead, run in groupby(moved, key=lambda settlement: settlement.action == "reject"):
            move = self._bury if dead else self._publish
            await move(list(run))
        return [
            Settlement(one.delivery, "ack", "moved") if self._moves(one) else one
            for one in settlements
        ]

    async def unsettled_keys(self, topics: Iterable[str]) -> set[tuple[str, str]]:
        """(topic, key) of everything that the store has not done with."""
        found: set[tuple[str, str]] = set()
        for name in topics:
            try:
                keys = await self._keeps.unsettled_keys(self._prefix + name, self._group)
            except NotFoundError:
                continue  # nothing was ever moved of it
            found.update((name, key) for key in keys)
        return found

    def _moves(self, settlement: Settlement) -> bool:
        if settlement.action == "reject":
            return True
        if settlement.action == "ack" or not self.retries:
            return False
        return bool(settlement.failure or settlement.delay)

    async def _publish(self, settlements: list[Settlement]) -> None:
        rest = [self._entry(settlement) for settlement in settlements]

        async def publish() -> None:
            try:
                await self._store.publish(rest)
            except PublishError as error:
                left = sorted({*error.failed, *error.unknown})
                rest[:] = [rest[index] for index in left] or rest
                raise

        await self._open(topic for topic, _ in rest)
        await patiently(self._clock, publish)

    async def _bury(self, settlements: list[Settlement]) -> None:
        now = self._clock.now_us()
        for name, some in groupby(settlements, key=lambda one: one.delivery.topic):
            topic = self._topic(name)
            await self._open([topic])
            letters = [self._letter(settlement, now) for settlement in some]
            await patiently(
                self._clock,
                lambda: self._keeps.bury(topic, self._group, letters, parks=self._parks),  # noqa: B023
            )

    async def _open(self, topics: Iterable[Topic[Any]]) -> None:
        new = {topic.name: topic for topic in topics if topic.name not in self._opened}
        if new:
            group = [Subscription(source=topic, group=self._group) for topic in new.values()]
            await patiently(self._clock, lambda: self._store.open(list(new.values()), group))
            self._opened.update(new)

    def _entry(self, settlement: Settlement) -> tuple[Topic[Any], Message]:
        delivery = settlement.delivery
        due = self._clock.now_us() + duration_us(settlement.delay) if settlement.delay else 0
        return self._topic(delivery.topic), wrapped(delivery.message, self._note(settlement, due))

    def _letter(self, settlement: Settlement, now_us: int) -> DeadLetter:
        delivery, note = settlement.delivery, self._note(settlement, 0)
        return DeadLetter(
            id="",
            message=wrapped(
                delivery.message, msgspec.structs.replace(note, attempts=0, failures=())
            ),
            topic=delivery.topic,
            group=self._group,
            position=note.position,
            failures=note.failures,
            died_us=now_us,
        )

    def _note(self, settlement: Settlement, due_us: int) -> Note:
        delivery, failure = settlement.delivery, settlement.failure
        failures = delivery.failures if failure is None else (*delivery.failures, failure)
        position: Position | None = delivery.position
        return Note(
            topic=delivery.topic,
            group=self._group,
            position=None if position is None else str(position),
            attempts=delivery.attempts + (failure is not None),
            failures=failures[-_KEPT_FAILURES:],
            due_us=due_us,
        )

    def _topic(self, name: str) -> Topic[Any]:
        topic = self._topics.get(name)
        if topic is None:
            topic = self._topics[name] = Topic(
                self._prefix + name, bytes, partitions=_PARTITIONS, retention=_RETENTION
            )
        return topic
