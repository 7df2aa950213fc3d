"""One message that kills its process ends in the dead letters; every innocent one is handled."""

from __future__ import annotations

import asyncio
import math
import sys
from pathlib import Path

import pytest

from postroad import Postroad
from tests.faults.memory_group import VARIABLE, memory_group
from tests.integration.apps import poison

CRASHES = poison.RETRY.crashes
PREFETCH = 1000


@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", ["abort", "memory"])
async def test_one_poison_among_ten_thousand(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with memory_group() as group:
        if group is not None:
            monkeypatch.setenv(VARIABLE, str(group))
        elif how == "memory":
            print("no memory group can be made here: the process ends itself at its limit")
        await poisoned(tmp_path, how, 10_000)
        if group is not None and how == "memory":
            print(f"ended by the kernel's OOM killer: {oom_kills(group)}")


def oom_kills(group: Path) -> str:
    """What the group counted, in the kernel's words."""
    for name in ("memory.oom_control", "memory.events"):
        if (group / name).exists():
            lines = (group / name).read_text().splitlines()
            return next((line for line in lines if line.startswith("oom_kill ")), "not counted")
    return "not counted"


async def poisoned(tmp_path: Path, how: str, count: int) -> None:
    url = f"sqlite:///{tmp_path / 'jobs.db'}"
    async with poison.make(url, how) as road:
        await road.publish_many(
            poison.jobs, (poison.Job(n, poison=n == count * 2 // 3) for n in range(count))
        )
    crashes = 0
    while await run_worker(url, how) != 0:
        crashes += 1
        assert crashes <= bound(count), "the poison goes round"
    async with Postroad(url) as road:
        (entry,) = (await road.audit("jobs.queued")).entries
        (letter,) = await road.dead_letters.list()
    assert entry.account is not None
    assert (entry.verdict, entry.pending) == ("balanced", 0), entry
    assert entry.account.outcomes == {"handled": count - 1, "dead": 1}
    assert letter.failures[-1].reason == "crash"
    assert crashes >= CRASHES
    print(
        f"{how}: {count} messages, {crashes} crashes (at most {bound(count)}), "
        f"{count - 1} handled, 1 dead, {entry.account.duplicates} duplicates"
    )


def bound(count: int) -> int:
    """The first crash, one for each halving of what was in hand, and those of the lone one."""
    return 1 + math.ceil(math.log2(min(count, PREFETCH))) + CRASHES


async def run_worker(url: str, how: str) -> int:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.integration.apps.poison",
        url,
        how,
        stderr=asyncio.subprocess.DEVNULL,
    )
    return await asyncio.wait_for(process.wait(), 120)
