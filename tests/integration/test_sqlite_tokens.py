"""What an answer on the SQLite road means: one hand-out; and what an idle consumer costs."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

from postroad.core.delivery import Settlement
from tests.integration.sqlite_road import (
    KEYED,
    LARGE,
    PLAIN,
    WHY,
    JumpingClock,
    group,
    join,
    ns,
    publish,
    road,
    take,
)


async def test_a_late_answer_does_not_settle_the_next_hand_out(tmp_path: Path) -> None:
    """An answer of unknown fate is given again; meanwhile the message may be out once more."""
    async with road(tmp_path, group()) as transport:
        await publish(transport, [0])
        consumer = await join(transport, group())
        (first,) = await take(consumer)
        assert await consumer.settle([Settlement(first, "nack", failure=WHY)]) == ["done"]
        (old,) = await take(consumer)
        assert await consumer.settle([Settlement(old, "nack", failure=WHY)]) == ["done"]
        (now,) = await take(consumer)
        assert await consumer.settle([Settlement(old, "ack")]) == ["stale"]
        assert (await transport.account(PLAIN.name, "g")).leased == 1
        assert await consumer.settle([Settlement(now, "ack")]) == ["done"]


async def test_one_wake_is_one_look(tmp_path: Path) -> None:
    async with road(tmp_path, group()) as transport:
        consumer = await join(transport, group())
        database: Any = transport._log.database
        reads, read = 0, database.read

        def counted(function: Any) -> Any:
            nonlocal reads
            reads += 1
            return read(function)

        database.read = counted
        waiting = asyncio.create_task(consumer.receive(10, LARGE, timedelta(seconds=1)))
        await asyncio.sleep(0.1)
        transport._log.wake()
        await waiting
        assert reads < 10


async def test_what_joins_a_lane_after_a_crash_is_still_counted_twice(tmp_path: Path) -> None:
    clock = JumpingClock()
    wish = group(KEYED, order="key")
    async with road(tmp_path, wish, clock=clock) as transport:
        await publish(transport, [0, 1], KEYED, keys=1)
        first = await join(transport, wish, ordered=True, lease=timedelta(seconds=30))
        head, _ = await take(first)
        delay = timedelta(seconds=40)
        assert await first.settle([Settlement(head, "nack", delay=delay)]) == ["done"]
        clock.jump(seconds=31)
        second = await join(transport, wish, ordered=True, lease=timedelta(seconds=30))
        assert await take(second) == [], "one waits, and the other behind it"
        clock.jump(seconds=15)
        assert ns(await take(second)) == [0]
        assert ns(await take(second)) == [1], "a suspect of the crash goes out alone"
        assert (await transport.account(KEYED.name, "g")).duplicates == 1
