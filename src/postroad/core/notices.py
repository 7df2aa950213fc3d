"""What a road tells while nobody asks: connection, ownership and gaps, as values in a stream."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import TypeAlias

import msgspec

from postroad.core.delivery import Partition


class Assigned(msgspec.Struct, frozen=True):
    """These partitions are ours from now on."""

    partitions: Sequence[Partition]


class Revoking(msgspec.Struct, frozen=True):
    """These partitions are wanted elsewhere.

    The consumer receives nothing more from them. What is in flight is to be settled or given up
    and `Consumer.release` called, before `deadline` (seconds of the monotonic clock).
    """

    partitions: Sequence[Partition]
    deadline: float


class Lost(msgspec.Struct, frozen=True):
    """These partitions are no longer ours; settling what is in flight from them is stale."""

    partitions: Sequence[Partition]


class Gap(msgspec.Struct, frozen=True):
    """Messages were missed. `count` is None where nobody can say how many."""

    topic: str
    count: int | None


class SequenceGap(msgspec.Struct, frozen=True):
    """Numbers of a key never came, and what waited behind them does not wait any more.

    Attributes:
        missing: ranges of numbers, both ends included.
        count: how many messages waited behind them.
        cause: `timeout`, or `limit` where more was held back than may be.
        policy: what became of those that waited: see `Sequence.on_gap`.
    """

    topic: str
    key: str
    missing: Sequence[tuple[int, int]]
    count: int
    cause: str
    policy: str


class Blocked(msgspec.Struct, frozen=True):
    """The road takes no publishes for now; publishers wait."""

    reason: str


class Unblocked(msgspec.Struct, frozen=True):
    """The road takes publishes again."""


class Disconnected(msgspec.Struct, frozen=True):
    """The connection is gone; the road tries to get it back."""

    reason: str


class Reconnected(msgspec.Struct, frozen=True):
    """The connection is back and what was declared is restored."""


Notice: TypeAlias = (
    Assigned
    | Revoking
    | Lost
    | Gap
    | SequenceGap
    | Blocked
    | Unblocked
    | Disconnected
    | Reconnected
)


class NoticeQueue:
    """An unbounded stream of notices for one reader, closed by the transport that feeds it."""

    def __init__(self) -> None:
        self._items: deque[Notice] = deque()
        self._wake = asyncio.Event()
        self._closed = False

    def put(self, notice: Notice) -> None:
        """Add one; never blocks. After `close` it is dropped."""
        if not self._closed:
            self._items.append(notice)
            self._wake.set()

    def close(self) -> None:
        """End the stream once what is in it was read. Idempotent."""
        self._closed = True
        self._wake.set()

    async def __aiter__(self) -> AsyncIterator[Notice]:
        while True:
            while self._items:
                yield self._items.popleft()
            if self._closed:
                return
            self._wake.clear()
            await self._wake.wait()
