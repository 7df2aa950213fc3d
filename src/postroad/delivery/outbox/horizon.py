"""From which row on to look for rows that wait."""

from __future__ import annotations

from collections import deque

_GRACE = 2.0
"""Seconds for which a lower number may still be committed and be seen at once."""
_SHARE = 20
"""Looking from the beginning takes at most one part in so many of the time."""
_LEAST = 1.0
"""Seconds after which a full table is looked at from the beginning again."""


class Horizon:
    """Reading on from a number that was seen skips rows of slow transactions: they got a lower
    number, and committed later. So nothing is ever taken as done below a number. Reading goes on
    from the last one only while there is a backlog, else from what was read a moment ago; and again
    and again from the beginning, as often as that is cheap: rows that were published, and are not
    yet vacuumed, make it dear.
    """

    def __init__(self) -> None:
        self._last = 0
        self._full = False
        self._looked: float | None = None
        self._next = 0.0
        self._recent: deque[tuple[float, int]] = deque()
        self._floor = 0

    def start(self, now: float) -> int:
        """Read rows with numbers above this one. `now` is in seconds, and never goes back."""
        if self._looked is None or now >= self._next:
            return 0
        if self._full:
            return self._last
        while self._recent and self._recent[0][0] <= now - _GRACE:
            self._floor = self._recent.popleft()[1]
        return self._floor

    def read(self, start: int, began: float, now: float, last: int | None, full: bool) -> None:
        """What came of it: the last number, if any, and whether there may be more."""
        if start == 0:
            self._looked = now
            self._next = now + max((now - began) * _SHARE, _LEAST if full else 0.0)
        self._full = full
        if last is not None:
            self._last = last
            if not self._recent or last > self._recent[-1][1]:
                self._recent.append((now, last))

    def reset(self) -> None:
        """Begin anew: there are other rows to look for."""
        self.__init__()  # type: ignore[misc]
