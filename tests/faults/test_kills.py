"""Writers and consumers killed with SIGKILL at random moments, again and again."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.integration.apps.crashing import GROUPS
from tests.integration.crashing import survive

KILLS = 300
"""`POSTROAD_TEST_KILLS` counts the demo's."""


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_three_hundred_kills_lose_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing acknowledged is lost, every repeated call is counted as a duplicate, the order of
    first deliveries of a key holds, effects are there exactly once, and the audit balances."""
    figures = await survive(tmp_path, KILLS, random.getrandbits(32))
    with capsys.disabled():
        print(f"\n  {figures}")
    assert figures.broken() == []
    assert len(figures.evidence.killed) >= KILLS
    assert set(figures.amid_handlers) == set(GROUPS)
    assert figures.amid_publishes > 0
