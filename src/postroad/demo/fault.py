"""SIGKILL in the middle: a worker dies with messages in its hands, and another takes them over."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from postroad.demo.crew import Crew, Worker
from postroad.demo.observer import Observer

MIDDLE = 0.5
"""The part of the replay after which a worker is killed."""
LOOK_EVERY = 0.01


@dataclass(frozen=True)
class Kill:
    """One killed worker.

    Attributes:
        pid: the process.
        held: group → messages that it had received and not answered when it died.
        recovered_after: from the SIGKILL until everything that had been accepted by then was
            settled; None as long as it is not.
    """

    pid: int
    held: Mapping[str, int]
    recovered_after: timedelta | None = None

    @property
    def in_flight(self) -> int:
        """All that it held."""
        return sum(self.held.values())


class Fault:
    """Kills the oldest worker, starts a new one, and waits for the recovery.

    Attributes:
        kills: what was done so far. There is more than one only if a worker died empty-handed,
            which proves nothing: then the next one is killed too.
    """

    def __init__(self, crew: Crew, observer: Observer) -> None:
        self._crew = crew
        self._observer = observer
        self.kills: list[Kill] = []

    async def strike(self) -> None:
        """Do it. Returns when what was accepted before the kill is settled."""
        while not (self.kills and self.kills[-1].in_flight):
            victim = await self._busy_worker()
            self._crew.kill(victim)
            died = time.monotonic()
            self.kills.append(Kill(victim.pid, victim.in_flight()))
            self._crew.start()
        while await self._observer.oldest() >= timedelta(seconds=time.monotonic() - died):
            await asyncio.sleep(LOOK_EVERY)
        took = timedelta(seconds=time.monotonic() - died)
        last = self.kills[-1]
        self.kills[-1] = Kill(last.pid, last.held, recovered_after=took)

    async def _busy_worker(self) -> Worker:
        """The oldest worker, as soon as it holds messages."""
        victim = self._crew.workers[0]
        while not victim.in_flight():
            await asyncio.sleep(LOOK_EVERY)
        return victim
