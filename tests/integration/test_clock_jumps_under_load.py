"""The machine's clock jumps by an hour while publishers and consumers are at work. What jumps
do to each thing that waits or is held, and why, is said in `test_clock_jumps.py`."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter, defaultdict
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from msgspec import Struct

from postroad import Audit, Postroad, Topic, Transaction
from tests.integration.sqlite_road import JumpingClock

MESSAGES = 400
KEYS = 8


class Step(Struct):
    key: str
    seq: int


@dataclass
class Machine:
    """A publisher and two members of each group, on one clock; and what the handlers saw."""

    url: str
    clock: JumpingClock = field(default_factory=JumpingClock)
    steps: Topic[Step] = field(default_factory=lambda: Topic("steps", Step, key="key"))
    calls: dict[str, list[tuple[str, int]]] = field(default_factory=lambda: defaultdict(list))
    running: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    at_once: int = 0

    def member(self) -> Postroad:
        road = Postroad(self.url, clock=self.clock)
        # Long against whatever else this machine does: nobody is silent by accident.
        lease = timedelta(seconds=20)

        @road.subscribe(self.steps, group="ordered", order="key", start="earliest", lease=lease)
        async def ordered(step: Step) -> None:
            await self._call("ordered", step)

        @road.subscribe(self.steps, group="loose", start="earliest", lease=lease)
        async def loose(step: Step) -> None:
            await self._call("loose", step)

        @road.subscribe(
            self.steps, group="exact", start="earliest", lease=lease, delivery="effectively-once"
        )
        async def exact(step: Step, tx: Transaction) -> None:
            await self._call("exact", step)
            await tx.execute("INSERT INTO effects VALUES (?, ?)", (step.key, step.seq))

        return road

    async def _call(self, name: str, step: Step) -> None:
        this = (name, step.key, step.seq)
        self.calls[name].append((step.key, step.seq))
        self.at_once += self.running[this] > 0
        self.running[this] += 1
        await asyncio.sleep(0.01)
        self.running[this] -= 1


@pytest.mark.parametrize("hours", [(-1,), (1,), (-1, 1, 1, -1)], ids=["back", "forward", "both"])
async def test_under_load_nothing_is_lost_and_nobody_settles_twice(
    tmp_path: Path, hours: tuple[int, ...]
) -> None:
    """Each effect is there once, the first calls of a key are in order, every repeated call is
    counted as a duplicate; and where the clock was only set back, no call is repeated."""
    machine = Machine(f"sqlite:///{tmp_path}/road.db?busy=30s")
    async with AsyncExitStack() as stack:
        first, second = [await stack.enter_async_context(machine.member()) for _ in range(2)]
        await asyncio.to_thread(make_effects, tmp_path)
        async with first.consuming(), second.consuming(), asyncio.timeout(60):
            for number in range(MESSAGES):
                await first.publish(machine.steps, Step(f"k{number % KEYS}", number))
                turn, rest = divmod(number + 1, MESSAGES // 5)
                if rest == 0 and turn <= len(hours):
                    machine.clock.jump(hours=hours[turn - 1])
            await first.settled("steps")
        audit = await second.audit("steps")
    check_audit(machine, audit)
    for name in ("ordered", "exact", "loose"):
        assert len(set(machine.calls[name])) == MESSAGES
    firsts: dict[str, list[int]] = defaultdict(list)
    for key, seq in dict.fromkeys(machine.calls["ordered"]):
        firsts[key].append(seq)
    assert all(one < two for found in firsts.values() for one, two in pairwise(found))
    assert set(read_effects(tmp_path).values()) == {1}
    assert len(read_effects(tmp_path)) == MESSAGES


def check_audit(machine: Machine, audit: Audit) -> None:
    assert audit.verdict == "balanced"
    repeats = 0
    for entry in audit.entries:
        assert entry.account is not None
        assert entry.account.outcomes == {"handled": MESSAGES}
        again = len(machine.calls[entry.group]) - MESSAGES
        assert again <= entry.account.duplicates
        repeats += again
    if machine.clock.ahead_us < 0:
        assert (repeats, machine.at_once) == (0, 0)
    print(f"{repeats} repeated calls, {machine.at_once} at two members at once")


def make_effects(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "road.db", timeout=30)) as database, database:
        database.execute("CREATE TABLE effects (key TEXT, seq INT)")


def read_effects(folder: Path) -> Counter[tuple[str, int]]:
    with closing(sqlite3.connect(folder / "road.db")) as database:
        return Counter(database.execute("SELECT key, seq FROM effects").fetchall())
