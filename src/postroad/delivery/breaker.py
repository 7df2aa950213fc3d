"""The breaker: handlers pause while what they depend on is down."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from postroad.core.clock import Clock
from postroad.core.flow import Breaker


class Circuit:
    """The state of one subscription's breaker in one process: closed, open, or probing."""

    def __init__(self, breaker: Breaker, clock: Clock) -> None:
        self._breaker = breaker
        self._clock = clock
        self._in_a_row = 0
        self._opened = 0
        self._until: float | None = None
        self._probing = False
        self._changed = asyncio.Event()

    @property
    def open(self) -> bool:
        """Whether handlers pause."""
        return self._until is not None

    def concerns(self, error: BaseException) -> bool:
        """Whether the failure is the downstream's."""
        return isinstance(error, self._breaker.on)

    async def permit(self) -> None:
        """Return when a message may start: at once while closed, as the one probe after a pause.
        Who got a permit while open must answer with `succeeded`, `failed` or `unanswered`."""
        while self._until is not None:
            rest = self._until - self._clock.monotonic()
            if rest > 0:
                await self._clock.sleep(rest)
            elif not self._probing:
                self._probing = True
                return
            else:
                self._changed.clear()
                await self._changed.wait()

    def succeeded(self) -> None:
        """A message was handled, or failed for a reason of its own."""
        if self._in_a_row or self._until is not None:
            self._in_a_row = self._opened = 0
            self._until = None
            self._end_probe()

    def failed(self) -> timedelta | None:
        """A message failed by the downstream. Returns how long to keep it, if it is not to cost
        an attempt; None while the breaker is closed, or was until this failure."""
        was_open = self._until is not None
        self._in_a_row += 1
        if not was_open and self._in_a_row < self._breaker.after:
            return None
        if not was_open or self._probing:
            self._open()
        if not was_open:
            return None
        assert self._until is not None
        return timedelta(seconds=max(0.0, self._until - self._clock.monotonic()))

    def unanswered(self) -> None:
        """There was nothing to start after all."""
        self._end_probe()

    def _open(self) -> None:
        longest = self._breaker.longest.total_seconds()
        pause = min(longest, self._breaker.pause.total_seconds() * 2.0 ** min(self._opened, 32))
        self._opened += 1
        self._until = self._clock.monotonic() + pause
        self._end_probe()

    def _end_probe(self) -> None:
        self._probing = False
        self._changed.set()
