"""A writer and two relays, killed at random moments again and again: the long form of
tests/integration/test_outbox_kills.py."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
from pathlib import Path

import pytest

from tests.integration.outbox_crashes import RELAY_STEPS, WRITER_STEPS, Crew
from tests.integration.outbox_world import KINDS, url_of

KILLS = int(os.environ.get("POSTROAD_TEST_OUTBOX_KILLS", "40"))
"""Of each kind of process, on each kind of database."""
TURNS = 400


@pytest.fixture(params=KINDS)
def crew(request: pytest.FixtureRequest, tmp_path: Path) -> Crew:
    return Crew(url_of(request.param, request, tmp_path), tmp_path)


async def kill_soon(process: subprocess.Popen[bytes], rng: random.Random) -> bool:
    """Kill it somewhen; whether it was still there."""
    try:
        await asyncio.to_thread(process.wait, rng.uniform(0.3, 1.5))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
    await asyncio.to_thread(process.communicate)
    return process.returncode == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_random_kills_lose_nothing(crew: Crew, capsys: pytest.CaptureFixture[str]) -> None:
    rng = random.Random()

    async def writers() -> int:
        killed = 0
        while killed < KILLS:
            step = rng.choice((*WRITER_STEPS, ""))
            killed += await kill_soon(crew.writer(step, TURNS, rng.randrange(TURNS)), rng)
        return killed

    async def relays() -> int:
        killed = 0
        while killed < KILLS:
            step = rng.choice((*RELAY_STEPS, "never"))
            killed += await kill_soon(crew.relay(step, rng.randrange(20)), rng)
        return killed

    counts = await asyncio.gather(writers(), relays(), relays())
    await crew.drain()
    evidence = await crew.evidence(sum(counts[1:]))
    with capsys.disabled():
        print(f"\n  {crew.url[:6]}: {sum(counts)} kills, {evidence.duplicates} duplicates")
    assert evidence.wrong == []
    assert sum(map(len, evidence.committed.values())) > KILLS
