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
    settled: int
    dead: int
    pending: int
    age: timedelta | None
    retries: int
    duplicates: int
    rate: float


@dataclass(frozen=True)
class Snapshot:
    """Everyone at one moment.

    Attributes:
        published: departures that the road has accepted.
        publish_rate: departures per second.
        standings: the groups, in the order of `GROUPS`.
    """

    published: int
    publish_rate: float
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
    def pending(self) -> int:
        """Messages that are left to do, over all groups."""
        return sum(standing.pending for standing in self.standings)

    @property
    def age(self) -> timedelta | None:
        """Of the oldest of them; None if the road cannot tell."""
        ages = [standing.age for standing in self.standings if standing.age is not None]
        return max(ages, default=None)

    @property
    def retries(self) -> int:
        """Failures that were tried again, over all groups."""
        return sum(standing.retries for standing in self.standings)

    @property
    def dead(self) -> int:
        """Dead letters, over all groups."""
        return sum(standing.dead for standing in self.standings)

    @property
    def duplicates(self) -> int:
        """Deliveries beyond the first of a message, over all groups."""
        return sum(standing.duplicates for standing in self.standings)


class Observer:
    """Takes snapshots."""

    def __init__(self, road: Postroad, crew: Crew) -> None:
        self._road = road
        self._crew = crew
        self._past: deque[tuple[float, dict[str, int]]] = deque()

    async def everyone_is_there(self) -> bool:
        """Whether every group has subscribed."""
        audit = await self._road.audit()
        return {entry.group for entry in audit.entries} >= set(GROUPS)

    async def look(self) -> Snapshot:
        """Take one."""
        audit = await self._road.audit()
        ages = {lag.group: lag.age for lag in await self._road.lag()}
        accounts = {entry.group: entry.account for entry in audit.entries if entry.account}
        records = self._crew.records()
        published = max((account.accepted for account in accounts.values()), default=0)
        counts = {group: _settled(account) for group, account in accounts.items()}
        rates = self._rates({**counts, "published": published})
        standings = [
            _standing(
                accounts[group],
                age=ages.get(group),
                retries=recorder.total(records, group).retries,
                rate=rates[group],
            )
            for group in GROUPS
            if group in accounts
        ]
        return Snapshot(published, rates["published"], standings)

    async def oldest(self) -> timedelta:
        """The age of the oldest message that any group has not settled."""
        ages = [lag.age or timedelta(0) for lag in await self._road.lag()]
        return max(ages, default=timedelta(0))

    def _rates(self, counts: dict[str, int]) -> dict[str, float]:
        """What each count has grown by per second lately."""
        now = time.monotonic()
        self._past.append((now, counts))
        while now - self._past[0][0] > WINDOW and len(self._past) > 2:
            self._past.popleft()
        then, before = self._past[0]
        elapsed = max(now - then, 0.001)
        return {name: (count - before.get(name, 0)) / elapsed for name, count in counts.items()}


def _standing(account: Account, *, age: timedelta | None, retries: int, rate: float) -> Standing:
    return Standing(
        group=account.group,
        settled=_settled(account),
        dead=account.outcomes.get("dead", 0),
        pending=account.backlog + account.leased + account.waiting + account.scheduled,
        age=age,
        retries=retries,
        duplicates=account.duplicates,
        rate=rate,
    )


def _settled(account: Account) -> int:
    return sum(account.outcomes.values())
