"""A million transfers between accounts, over roads that repeat and with workers that are killed:
each is applied exactly once, and no money is made or lost. `make faults` asks for a million, by
POSTROAD_TEST_TRANSFERS; without it, the short form in `tests/integration` is what runs."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.integration.business import Business, File, Served
from tests.integration.transferring import Bank
from tests.services.harness.sql import Database

TRANSFERS = int(os.environ.get("POSTROAD_TEST_TRANSFERS", "0"))
LONGEST = 3600.0
"""Seconds for each test."""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(LONGEST + 60),
    pytest.mark.skipif(not TRANSFERS, reason="takes most of an hour: make faults"),
]


async def check(
    road_url: str, business: Business, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bank = Bank(road_url, business, folder, random.getrandbits(32))
    outcome = await bank.run(TRANSFERS, longest=LONGEST)
    with capsys.disabled():
        print(f"\n  {outcome}")
    outcome.check()


async def test_from_a_file_road_to_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    road = f"sqlite:///{tmp_path}/road.db?durability=normal"
    await check(road, File(tmp_path / "bank.db"), tmp_path, capsys)


async def test_from_a_file_road_to_a_server(
    tmp_path: Path, postgresql_database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    road = f"sqlite:///{tmp_path}/road.db?durability=normal"
    await check(road, Served(postgresql_database), tmp_path, capsys)


async def test_on_a_server_that_is_road_and_bank(
    tmp_path: Path, postgresql_database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    business = Served(postgresql_database)
    await check(business.url, business, tmp_path, capsys)
