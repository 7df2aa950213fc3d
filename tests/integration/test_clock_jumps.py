"""The machine's clock jumps by an hour, forwards or backwards, while everything is at work.

Leases, delays and retries are instants of the machine's clock, which all processes on the file
share. What follows from that, and is tested here, and in
`test_clock_jumps_under_load.py` with the engine at work:

- A clock set forward ends every lease at once. What consumers held goes out again, counted as
  duplicates, and may be handled by its old and its new owner at once; the old one is fenced: it
  can neither settle nor commit. Delayed messages and retries come early by real time, never by
  the clock.
- A clock set back ends no lease, and a dead consumer's lease, which seems to run for an hour
  more, is shortened by whoever looks next. Delayed messages, and retries that wait, come when
  the clock says so: an hour late by real time, unless it is set right before.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from postroad import Delivery
from postroad.core.delivery import Settlement
from postroad.core.flow import Rate
from postroad.core.topic import Options
from postroad.core.transport import Consumer, SqlLog
from postroad.errors import GroupActiveError, LeaseLostError
from tests.integration.sqlite_road import (
    KEYED,
    PLAIN,
    SOON,
    WHY,
    JumpingClock,
    ack,
    balance,
    group,
    join,
    ns,
    publish,
    road,
    take,
)

NAME = PLAIN.name
LEASE = timedelta(seconds=30)
MINUTE = Options(delay=timedelta(minutes=1))

# --- leases ----------------------------------------------------------------------------------


async def test_forward_a_consumer_that_lost_its_lease_can_neither_settle_nor_commit(
    tmp_path: Path,
) -> None:
    clock, subscription = JumpingClock(), group()
    async with road(tmp_path, subscription, clock=clock) as transport:
        await transport._log.write(lambda c: c.execute("CREATE TABLE effects (n)").rowcount)
        await publish(transport, range(10))
        old = await join(transport, subscription, lease=LEASE)
        held = await take(old)
        clock.jump(hours=1)
        new = await join(transport, subscription, lease=LEASE)
        again = await take(new, wait=SOON)
        assert ns(again) == ns(held) == list(range(10))
        with pytest.raises(LeaseLostError):
            await effect(old, held[0])
        assert await ack(old, held) == {"stale"}
        await effect(new, again[0])
        assert await ack(new, again[1:]) == {"done"}
        account = await transport.account(NAME, "g")
        assert (account.outcomes, account.duplicates) == ({"handled": 10}, 10)
        assert balance(account) == 0
        assert await effects(old) == [0]


async def test_forward_an_open_transaction_commits(tmp_path: Path) -> None:
    """It holds the write lock, so nobody can have taken its message over."""
    clock, subscription = JumpingClock(), group()
    async with road(tmp_path, subscription, clock=clock) as transport:
        await transport._log.write(lambda c: c.execute("CREATE TABLE effects (n)").rowcount)
        await publish(transport, [0])
        consumer = await join(transport, subscription, lease=LEASE)
        (delivery,) = await take(consumer)
        assert isinstance(consumer, SqlLog)
        async with consumer.transaction(delivery, "test") as tx:
            await tx.execute("INSERT INTO effects VALUES (0)")
            clock.jump(hours=1)
        assert await effects(consumer) == [0]
        other = await join(transport, subscription, lease=LEASE)
        assert await take(other) == []
        account = await transport.account(NAME, "g")
        assert (account.outcomes, account.duplicates) == ({"handled": 1}, 0)


async def effect(consumer: Consumer, delivery: Delivery) -> None:
    assert isinstance(consumer, SqlLog)
    async with consumer.transaction(delivery, "test") as tx:
        await tx.execute("INSERT INTO effects VALUES (0)")


async def effects(consumer: Consumer) -> list[int]:
    log = consumer._log  # type: ignore[attr-defined]
    rows: list[tuple[int]] = await log.read(lambda c: c.execute("SELECT n FROM effects").fetchall())
    return [row[0] for row in rows]


@pytest.mark.parametrize("ordered", [False, True])
async def test_back_a_live_owner_keeps_what_it_holds(tmp_path: Path, ordered: bool) -> None:
    """Nobody else gets it, as long as it renews its lease, and it can settle."""
    clock, subscription = JumpingClock(), group(KEYED, order="key" if ordered else "none")
    plan = {"lease": LEASE, "ordered": ordered}
    async with road(tmp_path, subscription, clock=clock) as transport:
        owner = await join(transport, subscription, **plan)
        await publish(transport, range(10), KEYED, keys=10)
        held = await take(owner)
        assert len(held) == 10
        clock.jump(hours=-1)
        other = await join(transport, subscription, **plan)
        for _ in range(10):
            clock.jump(seconds=10)
            assert len(await owner.extend(held)) == 10
            assert await take(other) == []
        assert await ack(owner, held) == {"done"}
        account = await transport.account(KEYED.name, "g")
        assert (account.outcomes, account.duplicates) == ({"handled": 10}, 0)


async def test_back_what_a_dead_consumer_held_is_free_after_its_lease(tmp_path: Path) -> None:
    clock, subscription = JumpingClock(), group()
    async with road(tmp_path, subscription, clock=clock) as transport:
        await publish(transport, range(20))
        await die(await taken(await join(transport, subscription, lease=LEASE), 20))
        clock.jump(hours=-1)
        alive = await join(transport, subscription, lease=LEASE)
        assert await take(alive) == []
        waited = timedelta(0)
        while not (found := await take(alive)):
            clock.jump(seconds=5)
            waited += timedelta(seconds=5)
            await join(transport, subscription, lease=LEASE)
        assert found
        assert waited <= 2 * LEASE


async def test_back_a_group_whose_last_consumer_died_can_be_moved(tmp_path: Path) -> None:
    """Nobody of the group is there to see that its lease is of another time."""
    clock, subscription = JumpingClock(), group()
    async with road(tmp_path, subscription, clock=clock) as transport:
        await publish(transport, range(5))
        await die(await taken(await join(transport, subscription, lease=LEASE), 5))
        clock.jump(hours=-1)
        with pytest.raises(GroupActiveError):
            await transport.seek(NAME, "g", "earliest")
        clock.jump(seconds=31)
        await transport.seek(NAME, "g", "earliest")
        assert (await transport.lag(NAME, "g")).messages == 5


async def taken(consumer: Consumer, count: int) -> Consumer:
    assert len(await take(consumer)) == count
    return consumer


async def die(consumer: Consumer) -> None:
    """As far as the road can see, its process was killed: nothing looks after its lease."""
    keeper: asyncio.Task[None] = consumer._keeper  # type: ignore[attr-defined]
    keeper.cancel()
    await asyncio.wait([keeper])


# --- delays, retries, rates ------------------------------------------------------------------


async def test_back_what_waits_comes_when_the_clock_says_and_holds_up_nothing(
    tmp_path: Path,
) -> None:
    """A message with a delay and one that waits for its retry, each of a minute, come an hour
    and a minute later; everything else goes on."""
    clock, subscription = JumpingClock(), group()
    async with road(tmp_path, subscription, clock=clock) as transport:
        consumer = await join(transport, subscription, lease=LEASE)
        await publish(transport, [0])
        await retry_in_a_minute(consumer)
        await publish(transport, [1], options=MINUTE)
        clock.jump(hours=-1)
        await publish(transport, [2])
        assert ns(held := await take(consumer, wait=SOON)) == [2]
        assert await ack(consumer, held) == {"done"}
        clock.jump(minutes=59)
        assert await take(consumer) == []
        clock.jump(minutes=2)
        late: list[int] = []
        while len(late) < 2:
            late += ns(held := await take(consumer, wait=SOON))
            assert await ack(consumer, held) == {"done"}
        assert sorted(late) == [0, 1]
        account = await transport.account(NAME, "g")
        assert (account.outcomes, balance(account)) == ({"handled": 3}, 0)


async def test_back_what_goes_out_again_without_a_delay_is_not_held_up(tmp_path: Path) -> None:
    """Nor its key: handed back after a failed attempt, or redriven, just before the jump."""
    clock, subscription = JumpingClock(), group(KEYED, order="key")
    async with road(tmp_path, subscription, clock=clock) as transport:
        consumer = await join(transport, subscription, lease=LEASE, ordered=True)
        await publish(transport, range(4), KEYED, keys=2)
        held = {PLAIN.decode(one.message.data).n: one for one in await take(consumer)}
        held[0].attempts, held[0].failures = 1, (WHY,)
        await consumer.settle(
            [
                Settlement(held[0], "nack"),
                Settlement(held[1], "reject", failure=WHY),
                Settlement(held[2], "nack"),
                Settlement(held[3], "nack"),
            ]
        )
        (letter,) = await transport.dead_letters(KEYED.name, "g", 10)
        assert await transport.redrive([letter.id]) == 1
        clock.jump(hours=-1)
        again: list[int] = []
        while len(again) < 4:
            again += ns(found := await take(consumer, wait=SOON))
            assert await ack(consumer, found) == {"done"}
        assert sorted(again) == [0, 1, 2, 3]
        assert again.index(0) < again.index(2)


async def test_forward_what_waits_comes_at_once(tmp_path: Path) -> None:
    clock, subscription = JumpingClock(), group()
    async with road(tmp_path, subscription, clock=clock) as transport:
        consumer = await join(transport, subscription, lease=LEASE)
        await publish(transport, [0])
        await retry_in_a_minute(consumer)
        await publish(transport, [1], options=MINUTE)
        assert await take(consumer) == []
        clock.jump(hours=1)
        early: list[int] = []
        while len(early) < 2:
            early += ns(held := await take(consumer, wait=SOON))
            assert await ack(consumer, held) == {"done"}
        assert sorted(early) == [0, 1]
        account = await transport.account(NAME, "g")
        assert (account.outcomes, balance(account)) == ({"handled": 2}, 0)


async def retry_in_a_minute(consumer: Consumer) -> None:
    (delivery,) = await take(consumer)
    delay = timedelta(minutes=1)
    assert await consumer.settle([Settlement(delivery, "nack", delay=delay, failure=WHY)]) == [
        "done"
    ]


async def test_back_a_rate_of_a_whole_group_goes_on(tmp_path: Path) -> None:
    clock, rate = JumpingClock(), Rate(10, shared=True)
    async with road(tmp_path, clock=clock) as transport:
        assert (await transport.permits("g", rate, 10))[0] == 10
        clock.jump(hours=-1)
        assert (await transport.permits("g", rate, 10))[0] == 0
        clock.jump(seconds=1)
        assert (await transport.permits("g", rate, 10))[0] == 10
