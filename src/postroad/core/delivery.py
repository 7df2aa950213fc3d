"""A delivery (one arrival of a message at a consumer) and what is answered to it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Literal, TypeAlias

import msgspec

from postroad.core.clock import from_us
from postroad.core.message import Message

Partition: TypeAlias = tuple[str, int]
"""Topic name and partition number: the unit that one consumer of a group owns at a time."""


class Position(msgspec.Struct, frozen=True, gc=False):
    """A place in a topic's log: the first message to read is the one at it.

    `offset` is the road's own: a number on SQLite and Kafka, an id on Redis streams. As text it
    is `partition:offset`, which `parse` reads back.
    """

    partition: int
    offset: int | str

    def __str__(self) -> str:
        return f"{self.partition}:{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """Read `partition:offset`.

        Raises:
            ValueError: the text has another shape.
        """
        partition, colon, offset = text.partition(":")
        if not colon or not partition.isdigit() or not offset:
            raise ValueError(f"a position looks like 0:1042 (partition:offset), not {text!r}")
        return cls(int(partition), int(offset) if offset.isdigit() else offset)


Start: TypeAlias = Literal["earliest", "latest"] | datetime | Position
"""Where reading starts: all that is kept, what comes from now on, an instant, or a place."""


class Failure(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Why a message was not handled.

    Attributes:
        reason: a short, stable word: `exception`, `timeout`, `rejected`, or a `PayloadError`'s.
        detail: one line for people; never a payload.
        exception: qualified name of the exception's class, if there was one.
        traceback: its formatted traceback.
        at_us: when, in microseconds since the epoch.
    """

    reason: str
    detail: str
    exception: str | None = None
    traceback: str | None = None
    at_us: int = 0

    @property
    def at(self) -> datetime:
        """When it failed."""
        return from_us(self.at_us)


class Delivery(msgspec.Struct, kw_only=True, eq=False):
    """One arrival of a message at a consumer. Only the engine changes one: a failure that is
    retried in process is added to `attempts` and `failures`.

    Attributes:
        message: the envelope.
        topic: name of the topic that it arrived on.
        group: the group it was delivered to; None for an ephemeral consumer.
        partition: which one of the topic's; 0 where the road has none.
        offset: its place in the partition; None where the road has no log.
        deliveries: the broker's own count including this one; None where it keeps none. A hint.
        starts: how many earlier deliveries ended with their process, not with an answer; None
            where nobody kept count.
        alone: how many of these starts had it alone in flight, as one that was suspected before.
        failures: what earlier attempts in this group ended with, oldest first, as far as kept.
        attempts: number of earlier attempts that failed.
        lease_until_us: until when it may be held; None where there are no leases.
        fence: grows with every owner; a resource that remembers the highest one can refuse the
            writes of a consumer that was paused past its lease.
        token: the transport's own handle; opaque to everybody else.
    """

    message: Message
    topic: str
    group: str | None = None
    partition: int = 0
    offset: int | str | None = None
    deliveries: int | None = None
    starts: int | None = None
    alone: int = 0
    attempts: int = 0
    failures: tuple[Failure, ...] = ()
    lease_until_us: int | None = None
    fence: int | None = None
    token: Any = None

    @property
    def position(self) -> Position | None:
        """Its place in the log; None where the road has no log."""
        return None if self.offset is None else Position(self.partition, self.offset)

    @property
    def lease_until(self) -> datetime | None:
        """Until when it may be held; None where there are no leases."""
        return None if self.lease_until_us is None else from_us(self.lease_until_us)

    @property
    def idempotency_key(self) -> str:
        """Stable over redelivery, retry and redrive; differs between groups.

        For calls to the outside: pass it as the other side's idempotency key, and a repeated
        delivery is a repeated request that changes nothing.
        """
        return f"{self.group or ''}/{self.message.source}/{self.message.id}"


Action: TypeAlias = Literal["ack", "nack", "reject"]
Outcome: TypeAlias = Literal["handled", "filtered", "expired", "shed", "discarded", "moved"]
"""What an ack stands for; the audit counts each apart. A reject is counted as `dead`. `moved`: it
was written to the store, and what becomes of it is counted there."""


class Settlement(msgspec.Struct, frozen=True, gc=False):
    """The answer to one delivery.

    `ack` is final and counted as `outcome`. `nack` gives it back, to come again not before
    `delay`; with a `failure` it costs one attempt, without one it costs nothing (a hand-back).
    `reject` is final: the message becomes a dead letter of its group with `failure` as the reason.

    What a road records (`Capabilities.attempts`) is the delivery's own `attempts` and `failures`
    as they stand in the settlement, plus `failure` if there is one.
    """

    delivery: Delivery
    action: Action = "ack"
    outcome: Outcome = "handled"
    delay: timedelta = timedelta(0)
    failure: Failure | None = None


Settled: TypeAlias = Literal["done", "stale", "unknown"]
"""done: durable as declared. stale: the delivery was no longer ours and nothing was changed.
unknown: nobody can say; the message may come again."""


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """What a road answers to an accepted message.

    Attributes:
        position: its place in the log; None where there is none, or not yet (a delayed message
            takes its place when it is due).
        recall: the handle by which a scheduled message can be withdrawn; None where it cannot.
    """

    position: Position | None = None
    recall: str | None = None
