"""What a road answers when asked about itself: topics, lag, accounts, dead letters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

import msgspec

from postroad.core.delivery import Failure
from postroad.core.message import Message


class TopicInfo(msgspec.Struct, frozen=True):
    """A topic as the road has it. Counts are None where the road cannot tell."""

    name: str
    partitions: int
    messages: int | None = None
    groups: Sequence[str] = ()


class PartitionLag(msgspec.Struct, frozen=True):
    """How far behind on one partition: unsettled messages, and the age of the oldest.

    Messages include what is leased or waits for a retry, not what is scheduled for later.
    `None` is unknown. An empty backlog has age zero.
    """

    partition: int
    messages: int | None
    age: timedelta | None


class Lag(msgspec.Struct, frozen=True):
    """How far a group is behind on a topic."""

    topic: str
    group: str
    partitions: Sequence[PartitionLag]

    @property
    def messages(self) -> int | None:
        """The sum; None if any partition is unknown."""
        counts = [part.messages for part in self.partitions]
        return None if None in counts else sum(count for count in counts if count is not None)

    @property
    def age(self) -> timedelta | None:
        """Age of the oldest unsettled message; None if any partition is unknown."""
        ages = [part.age for part in self.partitions]
        if None in ages:
            return None
        return max((age for age in ages if age is not None), default=timedelta(0))


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """What a road counted for one group on one topic, each figure from its own source.

    Attributes:
        accepted: messages accepted since the group's start, by the publishing side's counter.
        backlog: waiting in the log, unread.
        leased: handed to a consumer, not settled.
        waiting: given back or scheduled for a group's retry, not settled.
        scheduled: accepted with a delay that is not over; counted in `accepted` too.
        outcomes: settled messages by `Outcome`, and `dead`; all-time.
        trimmed: removed by retention before the group read them.
        duplicates: deliveries beyond the first of a message; beside the balance, not in it.
        since_us: the group's start.
    """

    topic: str
    group: str
    accepted: int
    backlog: int
    leased: int
    waiting: int
    scheduled: int
    outcomes: Mapping[str, int]
    trimmed: int
    duplicates: int
    since_us: int


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A message that a group gave up, whole, with everything needed to understand why.

    Attributes:
        id: the road's handle of this dead letter.
        message: the envelope as it was accepted.
        topic: where it came from.
        group: who gave it up.
        position: its place then, as text; None where there was none.
        failures: what every attempt ended with, oldest first; the last one is the reason.
        died_us: when.
    """

    id: str
    message: Message
    topic: str
    group: str
    position: str | None
    failures: Sequence[Failure]
    died_us: int
