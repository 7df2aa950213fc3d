"""What a delivery carries to find its row again, and what a claim hands to its consumer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Literal, NamedTuple, TypeAlias

from postroad.transports.sql.groups import Membership
from postroad.transports.sql.rows import Row
from postroad.transports.sql.sessions import Session

Lane: TypeAlias = Literal["none", "key", "total"]
"""What has to stay in order within a stream: nothing, messages of one key, everything."""


@dataclass(frozen=True, slots=True, eq=False)
class Claim:
    """A range of one stream, handed out as one row."""

    id: int
    group_id: int
    stream_id: int
    first: int
    size: int

    @property
    def session(self) -> int:
        """The session that it was handed to; see `Numbers`."""
        return self.id >> 32


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """One message handed out from the retries, for the `turn`-th time."""

    number: int
    session: int = 0
    turn: int = 0


class Past(NamedTuple):
    """How often what is handed out was out when its process died: at all, and all alone."""

    starts: int = 0
    alone: int = 0


FRESH = Past()


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows that were handed out together; a row's first column is its offset's position."""

    token: Claim | Held
    topic: str
    partition: int
    priority: int
    rows: Sequence[Row]
    fence: int | None = None
    past: Past = FRESH
    attempts: int = 0
    failures: bytes | None = None


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a claim brought. `lease_until_us` None: the session is over. `next_due_us`: when
    there will be something, if nobody publishes."""

    lease_until_us: int | None
    chunks: Sequence[Chunk] = ()
    next_due_us: int | None = None
    busy: bool = False


class Numbers:
    """Numbers for claims, unique without asking the database: a session's are its own."""

    def __init__(self, session: Session) -> None:
        self._base = session.id << 32
        self._next = count().__next__

    def take(self) -> int:
        """One more."""
        return self._base | self._next()


@dataclass(frozen=True, slots=True)
class Request:
    """What a consumer asks for.

    Attributes:
        paused: (topic, partition) to leave alone.
        ordered: only partitions that the session owns, each in its order.
    """

    session: Session
    numbers: Numbers
    memberships: Sequence[Membership]
    limit: int
    max_bytes: int
    ordered: bool
    lane: Lane
    paused: frozenset[tuple[str, int]] = frozenset()
