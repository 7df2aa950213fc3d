"""The short form of `tests/faults/test_poison.py`."""

from __future__ import annotations

from pathlib import Path

from postroad import Postroad
from tests.faults.test_poison import poisoned, run_worker
from tests.integration.apps import poison


async def test_one_poison_among_five_hundred(tmp_path: Path) -> None:
    await poisoned(tmp_path, "abort", 500)


async def test_who_works_beside_a_poison_is_not_suspected_for_it(tmp_path: Path) -> None:
    """Two groups in one process; one message kills it for one of them. Whatever the other one had
    in flight each time is innocent, and must not stand alone in the dead letters for it."""
    url = f"sqlite:///{tmp_path / 'jobs.db'}"
    count, crashes = 40, 0
    async with poison.make(url, "beside") as road:
        await road.publish_many(poison.jobs, (poison.Job(n, poison=n == 7) for n in range(count)))
        await road.publish(poison.vigils, poison.Job(0))
    while await run_worker(url, "beside") != 0:
        crashes += 1
        assert crashes < 40, "the poison goes round"
    async with Postroad(url) as road:
        entries = (await road.audit()).entries
        outcomes = {one.group: one.account.outcomes for one in entries if one.account is not None}
    assert outcomes == {
        "workers": {"handled": count - 1, "dead": 1},
        "bystanders": {"handled": 1},
    }
