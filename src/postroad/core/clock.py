"""Time as a dependency: everything that waits or stamps asks a `Clock`, so tests can own time."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Clock(Protocol):
    """What the engine needs of time.

    `now_us` is wall time and may jump; `monotonic` never goes back. Deadlines inside one process
    are taken from `monotonic`, instants that others read from `now_us`.
    """

    def now_us(self) -> int:
        """Microseconds since 1970-01-01 UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary start, never going back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after so many seconds of this clock. Cancellable."""
        ...


class SystemClock:
    """The machine's own time."""

    def now_us(self) -> int:
        return time.time_ns() // 1000

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def to_us(instant: datetime) -> int:
    """Microseconds since the epoch of an aware datetime.

    Raises:
        ValueError: the datetime is naive; an instant without a zone is a guess.
    """
    if instant.tzinfo is None:
        raise ValueError("an instant must be an aware datetime, e.g. datetime.now(UTC)")
    return (instant - EPOCH) // _MICROSECOND


def from_us(microseconds: int) -> datetime:
    """The aware UTC datetime of microseconds since the epoch."""
    return EPOCH + timedelta(microseconds=microseconds)


def duration_us(duration: timedelta) -> int:
    """A duration in whole microseconds, rounded down."""
    return duration // _MICROSECOND
