"""When to look: by the schedule, at once after a full batch, and when something comes back."""

from __future__ import annotations

import random
from typing import Literal

from postroad.core.clock import Clock
from postroad.core.ticks import ticks_of
from postroad.transports.polling.source import PollingSource

Look = Literal["table", "claims"]
"""table: for rows that are ready. claims: for leases that have ended and retries that are due."""

CLAIMS_EVERY = 300.0
"""Seconds after which claims are looked at, however seldom the table is."""
_LONGEST_SLEEP = 1.0
"""Seconds to wait for a cron tick before looking at the clock again, which may have been set."""


class Timetable:
    """The next look of one consumer. Instants of the schedule are the machine's.

    The first look at the table is at once. With a cron line that is so only if a tick was missed
    while nobody ran (see `missed`): whatever passed meanwhile, one look catches up with it.
    """

    def __init__(self, source: PollingSource, clock: Clock) -> None:
        self._clock = clock
        self._every = source.every
        self._ticks = ticks_of(source.every)
        self._spread = source.spread.total_seconds()
        self._interval = None
        if not isinstance(source.every, str):
            self._interval = source.every.total_seconds()
        now = clock.monotonic()
        self._claims_at = now
        self._table_at = now
        self._tick_us = 0
        if self.is_cron:
            self._follow_cron(clock.now_us())

    @property
    def is_cron(self) -> bool:
        """Whether missed ticks have to be told from those to come."""
        return self._interval is None

    def missed(self, since_us: int) -> None:
        """The schedule was last followed then: catch up if a tick has passed since."""
        if self.is_cron:
            tick = next(self._ticks(since_us), None)
            if tick is not None and tick <= self._clock.now_us():
                self._tick_us = tick

    def due(self) -> Look | None:
        """What to look at now."""
        if self._until_table() <= 0:
            return "table"
        return "claims" if self._claims_at <= self._clock.monotonic() else None

    def pause(self) -> float:
        """Seconds until something is due."""
        claims = self._claims_at - self._clock.monotonic()
        return max(0.0, min(self._until_table(), claims))

    def looked(self, look: Look, *, full: bool, back_in: float | None) -> None:
        """A look is over. With `full` there may be more at once; something comes back in so many
        seconds."""
        now = self._clock.monotonic()
        self._claims_at = now + min(CLAIMS_EVERY, CLAIMS_EVERY if back_in is None else back_in)
        if full:
            self._claims_at = now
        if look == "table" and not full:
            if self._interval is None:
                self._follow_cron(self._clock.now_us())
            else:
                shift = random.uniform(-self._spread, self._spread) / 2
                self._table_at = now + max(0.0, self._interval + shift)

    def comes_back(self, seconds: float) -> None:
        """Something that we gave back ourselves is due in so many seconds."""
        self._claims_at = min(self._claims_at, self._clock.monotonic() + seconds)

    def _follow_cron(self, now_us: int) -> None:
        tick = next(self._ticks(now_us), None)
        shift = random.uniform(0, self._spread)
        self._tick_us = (1 << 62) if tick is None else tick + int(shift * 1e6)

    def _until_table(self) -> float:
        if self._interval is not None:
            return self._table_at - self._clock.monotonic()
        return min((self._tick_us - self._clock.now_us()) / 1e6, _LONGEST_SLEEP)
