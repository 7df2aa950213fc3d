"""Publishing departures at the pace of their scheduled times, only faster."""

import asyncio
import time
from collections.abc import Iterable, Sequence
from datetime import datetime

from postroad import Postroad
from postroad.demo.flights import Departure
from postroad.demo.topics import departures_recorded

TICK = 0.02
"""Seconds between two looks at the clock; what fell due in between is published together."""
AT_ONCE = 1000
"""Departures published together at most, where the replay is behind its schedule."""


class Replay:
    """A departure goes out when the event clock reaches its scheduled time.

    Attributes:
        published: departures that the road has accepted.
        now: the event time of the last of them; None before the first.
        seconds: how long the replay took, or takes so far.
    """

    def __init__(self, road: Postroad, departures: Iterable[Departure], speed: float) -> None:
        self._road = road
        self._departures = departures
        self._speed = speed
        self.published = 0
        self.now: datetime | None = None
        self.seconds = 0.0

    async def run(self) -> None:
        """Publish all of them, in event time. Returns when the road has accepted the last."""
        started = time.monotonic()
        first: datetime | None = None
        due: list[Departure] = []
        for departure in self._departures:
            first = first or departure.scheduled
            at = started + (departure.scheduled - first).total_seconds() / self._speed
            if at > time.monotonic() or len(due) >= AT_ONCE:
                await self._publish(due)
                due = []
                await asyncio.sleep(_pause(at - time.monotonic()))
            due.append(departure)
            self.seconds = time.monotonic() - started
        await self._publish(due)

    async def _publish(self, departures: Sequence[Departure]) -> None:
        # Published at once, they share commits; the event time travels in the envelope.
        await asyncio.gather(
            *[
                self._road.publish(departures_recorded, departure, time=departure.scheduled)
                for departure in departures
            ]
        )
        self.published += len(departures)
        if departures:
            self.now = departures[-1].scheduled


def _pause(ahead: float) -> float:
    """Nothing if the replay is behind; a tick at least if it is ahead."""
    return max(ahead, TICK) if ahead > 0 else 0
