"""The quick measurement, with a small load."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from postroad import Postroad
from postroad.operations.bench import Load, measure


async def test_it_measures_every_phase_and_its_messages_go(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    figures = await measure(url, Load(messages=50, size=10, publishers=4, concurrency=4))
    assert figures.publish_one_by_one > 0
    assert figures.publish_in_batches > 0
    assert figures.consume > 0
    assert timedelta(0) < figures.latency_p50 <= figures.latency_p99
    async with Postroad(url) as road:
        infos = await road.topic_infos("postroad-bench.#")
        assert len(infos) == 2
        assert [lag.messages for lag in await road.lag()] == [0, 0]
