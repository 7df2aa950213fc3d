"""How a relay works, and whom it tells."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from postroad.delivery.outbox.parking import Parked
from postroad.errors import DeclarationError


@dataclass(frozen=True, kw_only=True)
class RelaySettings:
    """How a relay works.

    Attributes:
        batch: messages in one batch. While there is a backlog batches grow, up to `largest`.
        largest: at most 1000, what one publish takes at once.
        retention: how long rows stay after they were published; zero deletes them at once.
        on_poison: what becomes of an aggregate with a row that can never be published: `continue`
            goes on with its next row, `park-key` lets them wait, in order, until the poison is let
            go. It then publishes one message of an aggregate at a time, which is slower where few
            aggregates have many messages.
        attempts: how often a row is tried that is refused for a reason that nobody knows to be
            final. A road that cannot be reached costs no attempt.
        lease: for how long a relay that is gone without a word keeps its part.
        idle: the longest time between two looks where nothing is told.
        first_wait, longest_wait: between tries while the road is down, doubling, with jitter.
        cleanup: how often old rows are looked for.
    """

    batch: int = 100
    largest: int = 1000
    retention: timedelta = timedelta(days=7)
    on_poison: Literal["continue", "park-key"] = "continue"
    attempts: int = 8
    lease: timedelta = timedelta(seconds=15)
    idle: timedelta = timedelta(seconds=1)
    first_wait: timedelta = timedelta(milliseconds=100)
    longest_wait: timedelta = timedelta(seconds=30)
    cleanup: timedelta = timedelta(seconds=60)

    def __post_init__(self) -> None:
        if not 1 <= self.batch <= 1000 or not 1 <= self.largest <= 1000:
            raise DeclarationError("a relay's batch= and largest= are 1 … 1000")
        if self.attempts < 1:
            raise DeclarationError("a relay's attempts= is at least 1")
        if self.retention < timedelta(0):
            raise DeclarationError("a relay's retention= cannot be negative")
        if self.lease < timedelta(milliseconds=100):
            raise DeclarationError("a relay's lease= is at least 100 ms")


USUAL = RelaySettings()
"""What a relay does unless it is told otherwise."""


class RelayHooks:
    """Override what you need; called on the event loop, a batch at a time: return at once, and do
    not raise."""

    def published(self, count: int) -> None:
        """So many were published and are about to be marked."""

    def parked(self, row: Parked) -> None:
        """A row can never be published; it was parked."""

    def waiting(self, error: Exception, seconds: float) -> None:
        """The road or the database is down; the next try is after so many seconds."""


@dataclass
class RelayFigures:
    """What a relay has done so far.

    Attributes:
        published: messages that the road accepted from here.
        duplicates: those among them that another relay had published before: it was taken for
            dead, or died between publishing and marking, and its marks came late.
        parked: poison rows.
        deleted: rows that were old enough.
    """

    published: int = 0
    duplicates: int = 0
    parked: int = 0
    deleted: int = 0
