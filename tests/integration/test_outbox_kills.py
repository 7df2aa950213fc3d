"""SIGKILL between each pair of steps of the outbox: begin, insert, commit, read, publish, confirm,
mark, delete. The long form is in tests/faults."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.integration.outbox_crashes import BATCH, RELAY_STEPS, WRITER_STEPS, Crew
from tests.integration.outbox_world import KINDS, query, url_of

TURNS = 30


@pytest.fixture(params=KINDS)
def crew(request: pytest.FixtureRequest, tmp_path: Path) -> Crew:
    return Crew(url_of(request.param, request, tmp_path), tmp_path)


@pytest.mark.timeout(240)
async def test_a_kill_between_any_two_steps_loses_nothing(
    crew: Crew, capsys: pytest.CaptureFixture[str]
) -> None:
    """And nothing is published from a transaction that was not committed; duplicates are at most
    two batches for each relay that was killed, and counted."""
    rng = random.Random()
    for step in WRITER_STEPS:
        crew.dies(crew.writer(step, TURNS, rng.randrange(TURNS)))
        crew.ends(crew.writer("", TURNS, -1))
    for step in RELAY_STEPS:
        crew.ends(crew.writer("", TURNS, -1))
        crew.dies(crew.relay(step, rng.randrange(3) if step not in ("find", "delete") else 0))
    await crew.drain()
    evidence = await crew.evidence(len(RELAY_STEPS))
    with capsys.disabled():
        print(f"\n  {crew.url[:6]}: {evidence.kills} kills, {evidence.duplicates} duplicates")
    assert evidence.wrong == []
    assert evidence.kills == len(WRITER_STEPS) + len(RELAY_STEPS)
    assert sum(map(len, evidence.committed.values())) > 4 * TURNS
    assert query(crew.url, "SELECT count(*) FROM postroad_outbox WHERE processed_at IS NULL") == [
        (0,)
    ]


@pytest.mark.parametrize(("step", "least", "most"), [("confirm", BATCH, 2 * BATCH)])
async def test_what_was_published_and_not_marked_is_published_again(
    tmp_path: Path, step: str, least: int, most: int
) -> None:
    """The one window for duplicates, hit for certain."""
    crew = Crew(f"sqlite:///{tmp_path}/business.db", tmp_path)
    crew.ends(crew.writer("", TURNS, -1))
    crew.dies(crew.relay(step, 0))
    await crew.drain()
    evidence = await crew.evidence(1)
    assert evidence.wrong == []
    assert least <= evidence.duplicates <= most
