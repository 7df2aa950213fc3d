"""A clock that stands still until a test moves it."""

from __future__ import annotations

import asyncio
from asyncio import Future
from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush
from itertools import count

from postroad.core.clock import duration_us, from_us, to_us

_QUIET_TURNS = 3
"""Turns of the loop in a row with nothing to run before it counts as idle: what one turn hands to
the selector or to another thread's `call_soon_threadsafe` may show up a turn later."""
_MOST_TURNS = 10_000
"""A task that spins on `sleep(0)` never lets the loop be idle; after so many turns, time moves on
regardless."""
_BLIND_TURNS = 100
"""How many turns to give a loop that does not show whether it is idle (uvloop)."""


class VirtualClock:
    """Implements `Clock`; time passes only in `advance`.

    What runs in threads or on real I/O is not seen as busy: wait for its effect by a condition
    before time moves on. For one event loop at a time.

    Args:
        start: the first instant, aware.
    """

    def __init__(self, start: datetime = datetime(2024, 1, 1, tzinfo=UTC)) -> None:
        self._start_us = self._now_us = to_us(start)
        self._moves = 0
        self._sleepers: list[tuple[int, int, Future[None]]] = []
        self._order = count()
        self._moving = False

    def now(self) -> datetime:
        """The present instant."""
        return from_us(self._now_us)

    def now_us(self) -> int:
        """Microseconds since 1970-01-01 UTC."""
        return self._now_us

    def monotonic(self) -> float:
        """Seconds since the start, and a nanosecond for each time that it moved: like a real
        clock it wakes a sleeper a hair after its deadline and never, by rounding, a hair before.
        """
        return (self._now_us - self._start_us) / 1e6 + self._moves * 1e-9

    @property
    def sleepers(self) -> int:
        """How many sleep on this clock now."""
        return sum(not future.done() for _, _, future in self._sleepers)

    async def sleep(self, seconds: float) -> None:
        """Return once time was advanced by so many seconds; nothing or less only yields."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        due = self._now_us + max(1, round(seconds * 1e6))
        future: Future[None] = asyncio.get_running_loop().create_future()
        heappush(self._sleepers, (due, next(self._order), future))
        await future

    async def advance(self, duration: timedelta) -> None:
        """Let so much time pass.

        Sleepers wake one by one in the order in which they are due, those of one instant in the
        order in which they lay down. Before time moves and after each of them, the loop runs
        until it is idle, so that all consequences of one instant, further sleeps included, happen
        in it. Cancelling leaves the clock somewhere in between.

        Raises:
            ValueError: the duration is negative.
            RuntimeError: called while another advance is under way.
        """
        if duration < timedelta(0):
            raise ValueError("time does not go back")
        if self._moving:
            raise RuntimeError("the clock is being advanced already")
        self._moving = True
        try:
            await self._advance(self._now_us + duration_us(duration))
        finally:
            self._moving = False

    async def _advance(self, target_us: int) -> None:
        await self.settle()
        while self._sleepers and self._sleepers[0][0] <= target_us:
            due, _, future = heappop(self._sleepers)
            if future.done():  # cancelled
                continue
            self._move(due)
            future.set_result(None)
            await self.settle()
        self._move(target_us)
        await self.settle()

    def _move(self, to: int) -> None:
        if to > self._now_us:
            self._now_us = to
            self._moves += 1

    async def settle(self) -> None:
        """Run the loop until it is idle, without any time passing.

        Idle means that, as this task runs, the loop has nothing else to run; that is read off its
        ready queue, which `BaseEventLoop` keeps in every supported version of CPython.
        """
        ready = getattr(asyncio.get_running_loop(), "_ready", None)
        if ready is None:
            for _ in range(_BLIND_TURNS):
                await asyncio.sleep(0)
            return
        quiet = 0
        for _ in range(_MOST_TURNS):
            await asyncio.sleep(0)
            quiet = 0 if ready else quiet + 1
            if quiet == _QUIET_TURNS:
                return
