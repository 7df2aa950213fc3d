"""The SQLite road as a model test drives it: time stands still, and an instance can be killed.

Nothing of it runs by itself, so that a run depends on nothing but the steps that are drawn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from postroad.core.delivery import Delivery, Partition
from postroad.core.notices import Assigned, Lost, Revoking
from postroad.core.topic import Topic
from postroad.core.transport import Consumer, Plan
from postroad.storage.connection import Connection
from postroad.transports.sql import SqlTransport
from tests.integration.models import Entry, Ledger, Session
from tests.integration.sqlite_road import Number, group


class StoppedClock:
    """Implements `Clock`. Whoever sleeps on it sleeps for ever: the steps do what they would."""

    def __init__(self) -> None:
        self._now_us = 1_700_000_000_000_000
        self._sleepers: list[asyncio.Future[None]] = []  # nobody else holds on to them

    def now_us(self) -> int:
        return self._now_us

    def monotonic(self) -> float:
        return self._now_us / 1e6

    async def sleep(self, seconds: float) -> None:
        self._sleepers.append(asyncio.get_running_loop().create_future())
        await self._sleepers[-1]

    def jump(self, seconds: float) -> None:
        self._now_us += round(seconds * 1e6)


class Killed(BaseException):
    """The process dies here."""


@dataclass(eq=False)
class Instance:
    """One process's view of the road."""

    transport: SqlTransport
    alive: bool = True

    @classmethod
    async def open(cls, folder: Path, clock: StoppedClock, topic: Topic[Number]) -> Instance:
        url = f"sqlite:///{folder}/road.db?durability=normal"
        transport = SqlTransport(url, clock=clock)
        await transport.open([topic], [])
        return cls(transport)

    async def die(self, commits: int, *last: Coroutine[Any, Any, Any]) -> list[Any]:
        """Do these at once and die after so many of their commits, inside the next one. Returns
        what each came to: an exception, if nothing of it was committed."""
        doom(self.transport, commits)
        tasks = [asyncio.ensure_future(one) for one in last]
        ends: list[Any] = await asyncio.gather(*tasks, return_exceptions=True)
        self.alive = False
        await vanish(self.transport)
        return ends


def doom(transport: SqlTransport, commits: int) -> None:
    """Let the writer die inside the commit after so many more."""
    if transport._log._database is None:
        return
    writer: Any = transport._log.database.writer
    transact, left = writer._transact, commits

    def doomed(connection: Connection, works: Sequence[Any]) -> list[Any]:
        nonlocal left
        if len(works) == 1 and left > 0:
            left -= 1
            done: list[Any] = transact(connection, works)
            return done
        try:
            connection.execute("BEGIN IMMEDIATE")
            for work in works[:1]:
                work[0](connection)
        finally:
            connection.abandon()
        raise Killed

    writer._transact = doomed


async def vanish(transport: SqlTransport) -> None:
    """Free threads and locks as the end of a process does: nothing more is committed."""
    road: Any = transport
    doom(road, 0)
    keepers = [road._keeper, *(consumer._keeper for consumer in road._consumers)]
    for keeper in keepers:
        keeper.cancel()
    await asyncio.gather(*keepers, return_exceptions=True)
    database = road._log.closed()
    if database is not None:
        await database.close()


@dataclass(eq=False)
class Member:
    """One consumer, and what it holds. `blind`: it knows that its session is over."""

    instance: Instance
    ledger: Ledger
    consumer: Any
    session: Session
    blind: bool = False
    owned: set[Partition] = field(default_factory=set)
    leaving: set[Partition] = field(default_factory=set)
    paused: set[Partition] = field(default_factory=set)
    hand: dict[int, Delivery] = field(default_factory=dict)
    lost: list[Partition] = field(default_factory=list)

    @classmethod
    async def join(cls, instance: Instance, topic: Topic[Number], ledger: Ledger) -> Consumer:
        order = "key" if ledger.ordered else "none"
        start = "latest" if ledger.name == "late" else "earliest"
        wish = group(topic, ledger.name, order=order, start=start)
        return await instance.transport.subscribe(
            wish, Plan(ordered=ledger.ordered, parks=ledger.parks)
        )

    def hear(self) -> None:
        """Read the notices that have come."""
        items = self.consumer._notices._items
        while items:
            notice = items.popleft()
            if isinstance(notice, Assigned):
                self.owned.update(notice.partitions)
                self.leaving.difference_update(notice.partitions)
            elif isinstance(notice, Revoking):
                self.leaving.update(notice.partitions)
            elif isinstance(notice, Lost):
                self.owned.difference_update(notice.partitions)
                self.lost.extend(notice.partitions)

    def readable(self) -> list[int]:
        """The partitions that it may get something from."""
        return [part for _, part in self.owned - self.leaving - self.paused]

    def holds(self) -> list[Entry]:
        """What its session holds, in the order of the log."""
        return self.ledger.held(self.session)

    def drop(self) -> list[Delivery]:
        """Forget what is in hand; returns what can only be stale from here on."""
        mine = {entry.post.n for entry in self.holds()}
        gone = [delivery for n, delivery in self.hand.items() if n not in mine]
        self.hand = {n: delivery for n, delivery in self.hand.items() if n in mine}
        return gone
