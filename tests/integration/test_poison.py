"""The short form of `tests/faults/test_poison.py`."""

from __future__ import annotations

from pathlib import Path

from tests.faults.test_poison import poisoned


async def test_one_poison_among_five_hundred(tmp_path: Path) -> None:
    await poisoned(tmp_path, "abort", 500)
