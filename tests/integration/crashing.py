"""Writers and consumers on one SQLite file, killed at random moments: the crew, the killing and
the proofs. Short in `test_kills.py`, long in `tests/faults/test_kills.py`."""

from __future__ import annotations

import asyncio
import random
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from postroad import Postroad
from postroad.core.delivery import Delivery
from tests.integration.apps.crashing import (
    Note,
    Notes,
    Step,
    make_road,
    read_notes,
    steps,
    url,
)
from tests.integration.crash_figures import Evidence, Figures, Killed, figures

Role: TypeAlias = Literal["writer", "consumer"]

WRITERS, CONSUMERS = 2, 3
SOONEST, LATEST = 0.005, 0.4
"""Seconds between the moment at which all victims are at work and their end."""
PATIENCE = 60.0
ROOT = Path(__file__).parents[2]


@dataclass
class Member:
    """A process of the crew."""

    role: Role
    slot: int
    number: int
    folder: Path
    process: asyncio.subprocess.Process

    @property
    def notes(self) -> Path:
        return self.folder / f"{self.number}.notes"

    def is_ready(self) -> bool:
        """It has opened the road."""
        return self.notes.exists() and self.notes.stat().st_size > 0

    def is_at_work(self) -> bool:
        """It has published or handled something."""
        return self.notes.exists() and self.notes.read_bytes().count(b"\n") > 1

    def check(self) -> None:
        """It has not ended by itself."""
        if self.process.returncode is not None:
            said = (self.folder / f"{self.number}.errors").read_text()
            raise AssertionError(f"{self.role} ended with {self.process.returncode}: {said}")


@dataclass
class Crew:
    """Everybody, and what was done to them. `seed` decides who dies, and when."""

    folder: Path
    seed: int
    members: list[Member] = field(default_factory=list)
    killed: list[Killed] = field(default_factory=list)
    slots: dict[int, tuple[str, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)

    async def start(self) -> None:
        """Make the file and start everybody."""
        async with make_road(self.folder, Notes(self.folder, 0), self.rng):
            pass
        with closing(sqlite3.connect(self.folder / "crashing.db")) as database, database:
            database.execute("CREATE TABLE effects (id INTEGER PRIMARY KEY, key TEXT, seq INT)")
        for slot in range(CONSUMERS):
            self.members.append(await self._launch("consumer", slot))
        await self._until(lambda: all(map(Member.is_ready, self.members)))
        for slot in range(WRITERS):
            self.members.append(await self._launch("writer", slot))

    async def _launch(self, role: Role, slot: int) -> Member:
        number = len(self.slots) + 1
        self.slots[number] = (role, slot)
        arguments = [role, self.folder, number, slot, self.rng.getrandbits(32)]
        with (self.folder / f"{number}.errors").open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "tests.integration.apps.crashing",
                *map(str, arguments),
                cwd=ROOT,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=errors,
            )
        return Member(role, slot, number, self.folder, process)

    async def rampage(self, kills: int) -> None:
        """Kill until so many were killed, and start another process for each."""
        while len(self.killed) < kills:
            victims = self._choose()[: kills - len(self.killed)]
            await self._until(lambda: all(map(Member.is_ready, victims)))  # noqa: B023
            if self.rng.random() < 0.6:
                # Else it may die before it has done anything at all.
                await self._until(lambda: all(map(Member.is_at_work, victims)))  # noqa: B023
            await asyncio.sleep(self.rng.uniform(SOONEST, LATEST))
            await self._kill(victims)
            for victim in victims:
                self.members.append(await self._launch(victim.role, victim.slot))

    def _choose(self) -> list[Member]:
        writers = [member for member in self.members if member.role == "writer"]
        consumers = [member for member in self.members if member.role == "consumer"]
        draw = self.rng.random()
        if draw < 0.45:
            return [self.rng.choice(consumers)]
        if draw < 0.65:
            return [self.rng.choice(writers)]
        if draw < 0.9:
            return [self.rng.choice(writers), self.rng.choice(consumers)]
        return self.rng.sample(consumers, CONSUMERS)

    async def _kill(self, victims: list[Member]) -> None:
        for victim in victims:
            victim.check()
            victim.process.kill()
            self.killed.append(Killed(victim.role, victim.slot, victim.number, time.monotonic_ns()))
        for victim in victims:
            await victim.process.wait()
            self.members.remove(victim)

    async def drain(self) -> float:
        """Kill the writers, let the consumers finish, and end them; returns the seconds that it
        took them to finish."""
        writers = [member for member in self.members if member.role == "writer"]
        await self._kill(writers)
        began = time.monotonic()
        async with Postroad(url(self.folder)) as road, asyncio.timeout(2 * PATIENCE):
            while any(lag.messages for lag in await road.lag("steps")):
                for member in self.members:
                    member.check()
                await asyncio.sleep(0.05)
        drained = time.monotonic() - began
        for member in self.members:
            member.check()
            member.process.send_signal(signal.SIGTERM)
        for member in self.members:
            assert await asyncio.wait_for(member.process.wait(), PATIENCE) == 0
        self.members.clear()
        return drained

    async def stop(self) -> None:
        """Nobody outlives the test."""
        for member in self.members:
            if member.process.returncode is None:
                member.process.kill()
            await member.process.wait()

    async def _until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                for member in self.members:
                    member.check()
                await asyncio.sleep(0.01)


async def survive(folder: Path, kills: int, seed: int) -> Figures:
    """Kill so many, drain, and count; raises nothing for what went wrong on the road."""
    crew = Crew(folder, seed)
    began = time.monotonic()
    try:
        await crew.start()
        await crew.rampage(kills)
        drained = await crew.drain()
    finally:
        await crew.stop()
    async with Postroad(url(folder)) as road:
        audit = await road.audit("steps")
        kept = [_step(delivery) for delivery in await road.browse("steps", limit=10**7)]
        receipted = [_step(delivery) for delivery in await road.browse("receipts", limit=10**7)]
        dead = await road.dead_letters.list()
    with closing(sqlite3.connect(folder / "crashing.db")) as database:
        effects = database.execute("SELECT key, seq FROM effects ORDER BY id").fetchall()
        sound = database.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    evidence = Evidence(
        seed=seed,
        seconds=time.monotonic() - began,
        drained=drained,
        killed=crew.killed,
        slots=crew.slots,
        notes=_all_notes(folder),
        kept=kept,
        effects=[Step(*row) for row in effects],
        receipted=receipted,
        audit=audit,
        dead=len(dead),
        sound=sound,
    )
    return figures(evidence)


def _step(delivery: Delivery) -> Step:
    return steps.decode(delivery.message.data)


def _all_notes(folder: Path) -> list[Note]:
    found = [note for path in folder.glob("*.notes") for note in read_notes(path)]
    return sorted(found, key=lambda note: note.at)
