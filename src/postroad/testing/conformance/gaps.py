"""Gaps: where a slow reader loses, it is told; and nobody else loses."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from postroad.core.delivery import Delivery
from postroad.core.notices import Gap
from postroad.core.topic import Topic
from postroad.core.transport import Consumer
from postroad.testing.conformance.bench import BYTES, QUIET, Workbench, ids, make_topic
from postroad.testing.conformance.waiting import eventually

_CHUNK = 100


class Gaps:
    """Needs `ephemeral` and a backlog that is dropped."""

    async def _listened(
        self, bench: Workbench
    ) -> tuple[Topic[Any], Consumer, list[Gap], asyncio.Task[None]]:
        bench.need(bench.capabilities.ephemeral, "ephemeral")
        bench.need(bench.capabilities.backlog == "dropped", 'backlog="dropped"')
        topic = make_topic("prices.changed")
        await bench.open(topic)
        reader = await bench.consumer(bench.subscription(topic, None, "latest"))
        told: list[Gap] = []

        async def listen() -> None:
            async for notice in reader.notices():
                if not isinstance(notice, Gap):
                    continue
                told.append(notice)

        return topic, reader, told, asyncio.create_task(listen())

    async def _flood(self, bench: Workbench, topic: Topic[Any]) -> list[str]:
        """More than a reader that does not read can have waiting."""
        sent: list[str] = []
        while len(sent) < bench.road.backlog:
            sent += ids(await bench.publish(topic, _CHUNK))
        return sent

    async def _read_on(self, reader: Consumer) -> list[Delivery]:
        found: list[Delivery] = []
        while batch := await reader.receive(500, BYTES, QUIET):
            found += batch
        return found

    async def test_a_slow_reader_is_told_its_gap(self, bench: Workbench) -> None:
        topic, reader, told, listening = await self._listened(bench)
        sent = await self._flood(bench, topic)
        await eventually(
            lambda: told, "a notice of the gap, though nobody receives", bench.road.patience
        )
        found = ids(await self._read_on(reader))
        missing = len(sent) - len(found)
        assert missing > 0, f"{bench.road.backlog} messages are more than a reader has waiting"
        assert found == [one for one in sent if one in set(found)], "each once, and in order"
        assert {gap.topic for gap in told} == {topic.name}
        counts = [gap.count for gap in told]
        if None not in counts:
            known = sum(count or 0 for count in counts)
            assert known == missing, f"{missing} are missing, {counts} were told"
        more = await bench.publish(topic, 3)
        assert ids(await bench.take(reader, 3)) == ids(more), "what is new comes"
        await reader.close()
        await listening

    async def test_an_attentive_reader_misses_nothing(self, bench: Workbench) -> None:
        topic, reader, told, listening = await self._listened(bench)
        slow = await bench.consumer(bench.subscription(topic, None, "latest"))
        sent: list[str] = []
        found: list[str] = []
        while len(sent) < bench.road.backlog:
            sent += ids(await bench.publish(topic, _CHUNK))
            while len(found) < len(sent):
                batch = await reader.receive(_CHUNK, BYTES, timedelta(seconds=5))
                assert batch, f"{len(sent) - len(found)} messages are missing"
                found += ids(batch)
        assert found == sent
        assert told == [], "another reader's gap is not ours"
        await slow.close()
        await reader.close()
        await listening
