"""SIGKILL in the middle: a worker dies with messages in its hands, and another takes them over."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta

from postroad.demo.crew import Crew
from postroad.demo.observer import Observer
from postroad.demo.waiting import LOOK_EVERY, until

MANY = 50
"""Messages that a worker should hold when it is killed."""
PATIENCE = 2.0
"""Seconds after which fewer will do."""


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
        died = await self._kill()
        while not self.kills[-1].in_flight:
            died = await self._kill()
        took = await self._recovery(died)
        self.kills[-1] = replace(self.kills[-1], recovered_after=took)

    async def _kill(self) -> float:
        """Kill the oldest worker when it holds many messages, or any; returns when that was."""
        victim = self._crew.workers[0]
        try:
            async with asyncio.timeout(PATIENCE):
                await until(lambda: sum(victim.in_flight().values()) >= MANY)
        except TimeoutError:
            await until(lambda: bool(victim.in_flight()))
        self._crew.kill(victim)
        died = time.monotonic()
        self.kills.append(Kill(victim.pid, victim.in_flight()))
        self._crew.start()
        return died

    async def _recovery(self, died: float) -> timedelta:
        """Wait until every unsettled message is younger than the death."""
        while True:
            since = timedelta(seconds=time.monotonic() - died)
            if await self._observer.oldest() < since:
                return since
            await asyncio.sleep(LOOK_EVERY)
