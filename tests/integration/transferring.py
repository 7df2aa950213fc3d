"""A million transfers, or fewer, over a road that repeats and workers that are killed. Short in
`test_transfers.py`, long in `tests/faults/test_transfers.py`."""

from __future__ import annotations

import asyncio
import random
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import psycopg

from postroad import Message, Postroad
from postroad.delivery.outbox import Outbox
from tests.integration.apps.transfers import (
    ACCOUNTS,
    GROUP,
    OPENING,
    TABLES,
    TRANSFERS,
    Transfer,
    make_road,
)
from tests.integration.business import Business, File, number

ROOT = Path(__file__).parents[2]
WORKERS = 2
REPEATED = 0.03
"""The part of all messages that are sent once more, beside those that a killed relay repeats."""
_BATCH = 1000
_WAITING = "SELECT count(*) FROM postroad_outbox WHERE processed_at IS NULL"
SOONEST, LATEST = 0.3, 3.0
"""Seconds between two kills."""


@dataclass
class Outcome:
    """What came of it."""

    transfers: int
    published: int
    kills: int
    seconds: float
    duplicates: int = 0
    applied: int = 0
    distinct: int = 0
    total: int = 0
    wrong_balances: int = 0
    verdict: str = ""

    def check(self) -> None:
        """Each was applied exactly once, and no money was made or lost."""
        assert self.verdict == "balanced", self
        assert (self.applied, self.distinct) == (self.transfers, self.transfers), self
        assert self.total == ACCOUNTS * OPENING, self
        assert self.wrong_balances == 0, self
        assert self.duplicates >= self.published - self.transfers > self.transfers * REPEATED / 2, (
            self
        )

    def __str__(self) -> str:
        return (
            f"{self.transfers} transfers, {self.published - self.transfers} sent twice, "
            f"{self.kills} kills, {self.duplicates} duplicates found, in {self.seconds:.0f} s"
        )


@dataclass
class Bank:
    """The road, the business database, and the workers, who get killed."""

    road_url: str
    business: Business
    folder: Path
    seed: int
    kills: int = 0
    workers: list[asyncio.subprocess.Process] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.expected = dict.fromkeys(range(ACCOUNTS), OPENING)
        self.database_url = self.business.url
        if self.database_url.startswith("sqlite:"):
            self.database_url += "?durability=normal"
        self._is_own = self.road_url == self.business.url
        if self._is_own:
            self.road_url = self.database_url

    async def run(self, transfers: int, longest: float) -> Outcome:
        """Publish them all, kill workers while there is anything to do, and look at the books.

        Raises:
            TimeoutError: it took longer than so many seconds.
        """
        self._open_accounts()
        began = time.monotonic()
        road = make_road(self.road_url, self.database_url)
        try:
            async with road, asyncio.timeout(longest):
                for _ in range(WORKERS):
                    self.workers.append(await self._launch())
                publishing = asyncio.create_task(self._publish(road, transfers))
                await self._rampage(road, publishing)
                published = await publishing
                await self._until_settled(road)
                await self._end()
                verdict = (await road.audit("transfers", GROUP)).verdict
        finally:
            await self._stop()
        outcome = Outcome(transfers, published, self.kills, time.monotonic() - began)
        outcome.verdict = verdict
        self._look(outcome)
        return outcome

    def _open_accounts(self) -> None:
        for statement in TABLES:
            self.business.query(statement)
        rows = ", ".join(f"({account}, {OPENING})" for account in range(ACCOUNTS))
        self.business.query(f"INSERT INTO accounts VALUES {rows}")

    # ------------------------------------------------ publishing

    async def _publish(self, road: Postroad, transfers: int) -> int:
        """Each transfer goes into the outbox of the bank, whose relay runs in the workers; where
        the road is the bank, to the road. Copies go to the road. Returns how many were sent."""
        outbox = Outbox(source="bank")
        published = 0
        for first in range(0, transfers, _BATCH):
            made = [self._made(n) for n in range(first, min(first + _BATCH, transfers))]
            if self._is_own:
                await road._publish_entries([(TRANSFERS, _copy(one)) for one in made])
            else:
                await asyncio.to_thread(self._add, outbox, made)
            copies = [one for one in made if self.rng.random() < REPEATED]
            await road._publish_entries([(TRANSFERS, _copy(one)) for one in copies])
            published += len(made) + len(copies)
        return published

    def _made(self, index: int) -> Transfer:
        source, target = self.rng.sample(range(ACCOUNTS), 2)
        amount = self.rng.randint(1, 50)
        self.expected[source] -= amount
        self.expected[target] += amount
        return Transfer(index, source, target, amount)

    def _add(self, outbox: Outbox, made: Sequence[Transfer]) -> None:
        with self._connected() as connection:
            for transfer in made:
                outbox.add(connection, TRANSFERS, transfer, id=f"t{transfer.number}")
            connection.commit()

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        """A connection of the business code's own."""
        if isinstance(self.business, File):
            connection: Any = sqlite3.connect(self.business.path, timeout=60)
            connection.execute("BEGIN IMMEDIATE")
        else:
            connection = psycopg.connect(self.business.url)
        try:
            yield connection
        finally:
            connection.close()

    # ------------------------------------------------ workers

    async def _launch(self) -> asyncio.subprocess.Process:
        with (self.folder / "workers.errors").open("ab") as errors:
            return await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "tests.integration.apps.transfers",
                self.road_url,
                self.database_url,
                cwd=ROOT,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=errors,
            )

    async def _rampage(self, road: Postroad, publishing: asyncio.Task[int]) -> None:
        """Kill one after the other while there is work, and start another for each."""
        while True:
            await asyncio.sleep(self.rng.uniform(SOONEST, LATEST))
            if publishing.done() and not await self._unsettled(road):
                return
            victim = self.workers.pop(self.rng.randrange(len(self.workers)))
            self._check(victim)
            victim.kill()
            await victim.wait()
            self.kills += 1
            self.workers.append(await self._launch())

    async def _unsettled(self, road: Postroad) -> int:
        """Messages that were not handled, or not even published."""
        [lag] = await road.lag("transfers", GROUP)
        return (lag.messages or 0) + await asyncio.to_thread(self._waiting)

    def _waiting(self) -> int:
        if self._is_own:
            return 0
        return number(self.business, _WAITING)

    async def _until_settled(self, road: Postroad) -> None:
        while await self._unsettled(road):
            for worker in self.workers:
                self._check(worker)
            await asyncio.sleep(0.05)

    def _check(self, worker: asyncio.subprocess.Process) -> None:
        if worker.returncode is not None:
            said = (self.folder / "workers.errors").read_text()
            raise AssertionError(f"a worker ended with {worker.returncode}: {said}")

    async def _end(self) -> None:
        for worker in self.workers:
            self._check(worker)
            worker.send_signal(signal.SIGTERM)
        for worker in self.workers:
            assert await asyncio.wait_for(worker.wait(), 60) == 0
        self.workers.clear()

    async def _stop(self) -> None:
        """Nobody outlives the test."""
        for worker in self.workers:
            if worker.returncode is None:
                worker.kill()
                await worker.wait()

    # ------------------------------------------------ the books

    def _look(self, outcome: Outcome) -> None:
        business = self.business
        outcome.applied = number(business, "SELECT count(*) FROM applied")
        outcome.distinct = number(business, "SELECT count(DISTINCT transfer) FROM applied")
        outcome.total = number(business, "SELECT sum(balance) FROM accounts")
        outcome.duplicates = number(business, "SELECT sum(duplicates) FROM postroad_readers")
        balances = business.query("SELECT id, balance FROM accounts")
        found = {int(account): int(balance) for account, balance in balances}
        outcome.wrong_balances = sum(found[one] != self.expected[one] for one in self.expected)


def _copy(transfer: Transfer) -> Message:
    message = TRANSFERS.envelope(transfer, time.time_ns() // 1000, "bank")
    return msgspec.structs.replace(message, id=f"t{transfer.number}")
