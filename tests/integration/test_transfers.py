"""Each transfer is applied exactly once: the short form of `tests/faults/test_transfers.py`."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.integration.business import Business, File, Served
from tests.integration.transferring import Bank, Outcome
from tests.services.harness.sql import Database

pytestmark = pytest.mark.timeout(300)
LONGEST = 280.0


async def check(
    transfers: int,
    road_url: str,
    business: Business,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bank = Bank(road_url, business, folder, random.getrandbits(32))
    outcome = await bank.run(transfers, longest=LONGEST)
    with capsys.disabled():
        print(f"\n  {outcome}")
    outcome.check()
    assert outcome.kills > 0


async def test_a_hundred_thousand_from_a_file_road_to_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    road = f"sqlite:///{tmp_path}/road.db?durability=normal"
    await check(100_000, road, File(tmp_path / "bank.db"), tmp_path, capsys)


async def test_from_a_file_road_to_a_server(
    tmp_path: Path, postgresql_database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    road = f"sqlite:///{tmp_path}/road.db?durability=normal"
    await check(20_000, road, Served(postgresql_database), tmp_path, capsys)


async def test_on_a_server_that_is_road_and_bank(
    tmp_path: Path, postgresql_database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    business = Served(postgresql_database)
    await check(20_000, business.url, business, tmp_path, capsys)


@pytest.mark.parametrize(
    "changes",
    [
        {"applied": 11},
        {"applied": 9},
        {"distinct": 9},
        {"total": 1},
        {"wrong_balances": 2},
        {"verdict": "unbalanced"},
        {"duplicates": 1},
        {"published": 10},
    ],
)
def test_bad_books_are_told(changes: dict[str, object]) -> None:
    good = {
        "transfers": 10,
        "published": 12,
        "kills": 1,
        "seconds": 1.0,
        "duplicates": 2,
        "applied": 10,
        "distinct": 10,
        "total": 200_000,
        "wrong_balances": 0,
        "verdict": "balanced",
    }
    Outcome(**good).check()  # type: ignore[arg-type]
    with pytest.raises(AssertionError):
        Outcome(**{**good, **changes}).check()  # type: ignore[arg-type]
