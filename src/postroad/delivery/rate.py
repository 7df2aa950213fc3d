"""Rate limits: permits to receive. What is not permitted yet stays on the road."""

from __future__ import annotations

import asyncio
from typing import Protocol

from postroad.core.clock import Clock
from postroad.core.flow import Rate, draw
from postroad.core.subscription import Subscription
from postroad.core.transport import Permits, Transport

_SHARE = 0.1
"""Seconds of a shared rate that one consumer takes at a time: it asks ten times a second at most,
and a share that dies with its process is small."""


class Limiter(Protocol):
    """Where permits come from."""

    async def take(self, wanted: int) -> int:
        """Wait for at least one permit, then take up to `wanted` (≥ 1)."""
        ...

    def give_back(self, count: int) -> None:
        """So many of those taken were not used."""
        ...


class OwnLimiter:
    """A token bucket of one consumer."""

    def __init__(self, rate: Rate, clock: Clock) -> None:
        self._rate = rate
        self._clock = clock
        self._tokens = float(rate.capacity)
        self._at = clock.monotonic()

    async def take(self, wanted: int) -> int:
        while True:
            now = self._clock.monotonic()
            taken, self._tokens, wait = draw(self._rate, self._tokens, now - self._at, wanted)
            self._at = now
            if taken:
                return taken
            await self._clock.sleep(wait)

    def give_back(self, count: int) -> None:
        # Above the capacity, if need be: two that share it must not waste each other's refill.
        self._tokens += count


class SharedLimiter:
    """Permits of a whole group, kept by the road, taken in small shares."""

    def __init__(self, name: str, rate: Rate, permits: Permits, clock: Clock) -> None:
        self._name = name
        self._rate = rate
        self._permits = permits
        self._clock = clock
        self._left = 0
        self._drawing = asyncio.Lock()
        self._share = max(1, int(rate.per_second * _SHARE))

    async def take(self, wanted: int) -> int:
        async with self._drawing:
            while self._left == 0:
                ask = min(self._share, self._rate.capacity)
                drawn, wait = await self._permits.permits(self._name, self._rate, ask)
                self._left += drawn
                if self._left == 0:
                    await self._clock.sleep(wait)
            return self._take(wanted)

    def _take(self, wanted: int) -> int:
        taken = min(wanted, self._left)
        self._left -= taken
        return taken

    def give_back(self, count: int) -> None:
        self._left += count


def make_limiter(sub: Subscription, transport: Transport, clock: Clock) -> Limiter | None:
    """The limiter that a subscription declares; None if it declares none."""
    rate = sub.limit
    if rate is None:
        return None
    if rate.shared and isinstance(transport, Permits):
        return SharedLimiter(f"{sub.group}/{sub.source_name}", rate, transport, clock)
    return OwnLimiter(rate, clock)
