"""How far everyone is: asked of the road, as any operator could."""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from postroad import Postroad
from postroad.core.reports import Account
from postroad.demo import recorder
from postroad.demo.crew import Crew
from postroad.demo.topics import GROUPS

WINDOW = 2.0
"""Seconds over which rates are taken."""


@dataclass(frozen=True)
class Standing:
    """How far one group is.

    Attributes:
        settled: messages that are done with, dead letters included.
        dead: dead letters.
        pending: accepted and not settled: the lag in messages.
        age: of the oldest of them: the lag in seconds; None if the road cannot tell.
        retries: failures that were tried again.
        duplicates: deliveries beyond the first of a message.
        rate: settled messages per second.
    """

    group: str
    settled: int = 0
    dead: int = 0
    pending: int = 0
    age: timedelta | None = None
    retries: int = 0
    duplicates: int = 0
    rate: float = 0.0


@dataclass(frozen=True)
class Snapshot:
    """All groups at one moment, in the order of `GROUPS`."""

    standings: Sequence[Standing]

    @property
    def settled(self) -> int:
        """Messages that are done with, over all groups."""
        return sum(standing.settled for standing in self.standings)

    @property
    def rate(self) -> float:
        """Settled messages per second, over all groups."""
        return sum(standing.rate for standing in self.standings)

    @property
    def drained(self) -> bool:
        """Whether no group has anything left to do."""
        return not any(standing.pending for standing in self.standings)


class Observer:
    """Takes snapshots."""

    def __init__(self, road: Postroad, crew: Crew) -> None:
        self._road = road
        self._crew = crew
        self._past: deque[tuple[float, dict[str, int]]] = deque()

    async def everyone_is_there(self) -> bool:
        """Whether every group has subscribed, so that it is owed what is published now."""
        audit = await self._road.audit()
        return {entry.group for entry in audit.entries} >= set(GROUPS)

    async def look(self) -> Snapshot:
        """Take one."""
        audit = await self._road.audit()
        ages = {lag.group: lag.age for lag in await self._road.lag()}
        accounts = {entry.group: entry.account for entry in audit.entries}
        records = self._crew.records()
        rates = self._rates({group: _settled(account) for group, account in accounts.items()})
        standings = []
        for group in GROUPS:
            account = accounts.get(group)
            retries = recorder.total(records, group).retries
            standings.append(_standing(group, account, ages.get(group), retries, rates[group]))
        return Snapshot(standings)

    async def oldest(self) -> timedelta:
        """The age of the oldest message that any group has not settled."""
        return max([lag.age or timedelta(0) for lag in await self._road.lag()])

    def _rates(self, settled: dict[str, int]) -> dict[str, float]:
        now = time.monotonic()
        self._past.append((now, settled))
        while now - self._past[0][0] > WINDOW and len(self._past) > 2:
            self._past.popleft()
        then, before = self._past[0]
        elapsed = max(now - then, 0.001)
        return {group: (settled[group] - before[group]) / elapsed for group in GROUPS}


def _standing(
    group: str, account: Account | None, age: timedelta | None, retries: int, rate: float
) -> Standing:
    if account is None:
        return Standing(group)
    return Standing(
        group=group,
        settled=_settled(account),
        dead=account.outcomes.get("dead", 0),
        pending=account.backlog + account.leased + account.waiting + account.scheduled,
        age=age,
        retries=retries,
        duplicates=account.duplicates,
        rate=rate,
    )


def _settled(account: Account | None) -> int:
    return 0 if account is None else sum(account.outcomes.values())
