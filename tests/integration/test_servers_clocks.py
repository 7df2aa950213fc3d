"""Leases run on the server's clock: whose own is an hour wrong steals nothing and loses nothing."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta

import pytest

from postroad.core.transport import Plan
from tests.integration.servers_road import KINDS, group, message, opened, publish, running, said
from tests.services.harness.sql import Database

HOUR = 3600 * 1_000_000_000
LEASE = timedelta(seconds=2)

MEMBER = """
import asyncio, sys, time
from datetime import timedelta

ahead, real = int(sys.argv[2]), time.time_ns
time.time_ns = lambda: real() + ahead
time.time = lambda: (real() + ahead) / 1e9

from postroad.core.delivery import Settlement
from postroad.core.transport import Plan
from tests.integration.servers_road import group, opened

async def main(url, lease):
    async with opened(url, group()) as transport:
        consumer = await transport.subscribe(group(), Plan(lease=timedelta(seconds=lease)))
        print("ready", flush=True)
        while True:
            got = await consumer.receive(1, 1 << 20, timedelta(seconds=0.3))
            for one in await consumer.begin(got):
                assert one.deliveries is None or one.starts == 0
                for _ in range(4):  # longer than half a lease, with a renewal in between
                    await asyncio.sleep(0.3)
                    assert list(await consumer.extend([one])) == [one], "lost its lease"
                assert list(await consumer.settle([Settlement(one)])) == ["done"], "stale"
                print(int(one.message.data), one.starts, flush=True)

asyncio.run(main(sys.argv[1], float(sys.argv[3])))
"""


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest) -> Database:
    found: Database = request.getfixturevalue(f"{request.param}_database")
    return found


async def test_clocks_that_are_an_hour_wrong_share_a_group(database: Database) -> None:
    """Each message goes to one member, once; nobody's lease is ended by another's clock."""
    url, lease = database.url, LEASE.total_seconds()
    handled: Counter[str] = Counter()
    by_member: list[int] = []
    async with opened(url, group()) as transport:
        with (
            running(MEMBER, url, -HOUR, lease) as behind,
            running(MEMBER, url, HOUR, lease) as ahead,
            running(MEMBER, url, 0, lease) as right,
        ):
            members = (behind, ahead, right)
            for member in members:
                assert await said(member) == "ready"
            await publish(transport, *[message(n) for n in range(18)])

            async def listen(member: object) -> None:
                number = 0
                while sum(handled.values()) < 18:
                    try:
                        line = await said(member, seconds=4)  # type: ignore[arg-type]
                    except TimeoutError:
                        break
                    if not line:
                        break
                    handled[line] += 1
                    number += 1
                by_member.append(number)

            async with asyncio.timeout(60):
                await asyncio.gather(*map(listen, members))
    assert handled == {f"{n} 0": 1 for n in range(18)}
    assert all(by_member)


async def test_what_a_dead_member_held_comes_after_its_lease(database: Database) -> None:
    """Not at once, though the others' clocks are an hour ahead; and not an hour late."""
    url = database.url
    async with opened(url, group()) as transport:
        consumer = await transport.subscribe(group(), Plan(lease=LEASE))
        await publish(transport, message(1))
        (one,) = await consumer.receive(1, 1 << 20, timedelta(seconds=5))
        assert one.lease_until_us is not None
        (held,) = database.query("SELECT lease_until_us FROM postroad_sessions")
        now = {
            "postgresql": "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint",
            "mariadb": "SELECT CAST(UNIX_TIMESTAMP(SYSDATE(6)) * 1000000 AS SIGNED)",
        }[database.service.name]
        ((server_us,),) = database.query(now)
        left = (int(held[0] or 0) - int(server_us or 0)) / 1e6
        assert 0 < left <= LEASE.total_seconds()
        with running(MEMBER, url, HOUR, 60) as ahead, running(MEMBER, url, -HOUR, 60) as behind:
            assert await said(ahead) == await said(behind) == "ready"
            for _ in range(6):
                await asyncio.sleep(0.5)
                assert list(await consumer.extend([one])) == [one]
