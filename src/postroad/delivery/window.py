"""How many messages a consumer holds: as many as it works off in a moment, and no more."""

from __future__ import annotations

from collections.abc import Callable

HORIZON = 0.25
"""Seconds of work to have in hand: enough to hide the way to the road and back, little enough
that a slow worker leaves the backlog to its faster siblings."""
_SPAN = 0.02


class Window:
    """The number of messages to hold, from the measured rate, between concurrency and prefetch.

    Args:
        monotonic: the clock, in seconds.
    """

    def __init__(self, least: int, most: int, monotonic: Callable[[], float]) -> None:
        self._least = min(least, most)
        self._most = most
        self._monotonic = monotonic
        self._since = monotonic()
        self._count = 0
        self._rate = 0.0

    def worked(self, count: int) -> None:
        """So many more were answered."""
        self._count += count

    def size(self) -> int:
        """How many to hold now."""
        now = self._monotonic()
        span = now - self._since
        if span >= _SPAN:
            rate = self._count / span
            # Rises at once, falls by halves: a pause in the feed is not a slow handler.
            self._rate = max(rate, (self._rate + rate) / 2)
            self._since, self._count = now, 0
        elif self._count >= self._most:
            self._rate = self._count / max(span, 1e-6)
        return max(self._least, min(self._most, int(self._rate * HORIZON)))
