"""The clock of a database server: what several hosts lease by is read from one clock."""

from __future__ import annotations

import asyncio
import time


class ServerClock:
    """A `Clock` whose wall time is the server's, as each transaction tells it, carried on by this
    machine's monotonic clock: a host whose own clock is wrong, or jumps, leases like the others.

    Exact to the time that an answer of the server takes.
    """

    def __init__(self) -> None:
        self._ahead_us = time.time_ns() // 1000 - _monotonic_us()

    def told(self, now_us: int) -> None:
        """What the server's clock shows now, in microseconds since the epoch. Any thread may say
        it."""
        self._ahead_us = now_us - _monotonic_us()

    def now_us(self) -> int:
        """See `Clock.now_us`."""
        return _monotonic_us() + self._ahead_us

    def monotonic(self) -> float:
        """See `Clock.monotonic`."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """See `Clock.sleep`."""
        await asyncio.sleep(seconds)


def _monotonic_us() -> int:
    return time.monotonic_ns() // 1000
