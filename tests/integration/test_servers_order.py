"""Commit order is not the order in which transactions began: none is overtaken or skipped."""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest

from postroad.core.clock import SystemClock
from postroad.core.topic import Topic
from postroad.core.transport import Plan
from postroad.errors import PublishError, StorageBusyError
from postroad.storage.connection import Connection
from postroad.storage.opening import place_of
from postroad.transports.sql.append import Appender
from postroad.transports.sql.rows import Origins
from tests.integration.servers_road import (
    KINDS,
    MANY,
    ONE,
    collect,
    group,
    message,
    opened,
    publish,
    running,
    with_options,
)
from tests.services.harness.sql import Database

SOON = timedelta(milliseconds=300)


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest) -> Database:
    found: Database = request.getfixturevalue(f"{request.param}_database")
    return found


class Slow:
    """Somebody who has published, and takes his time to commit."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._appender = Appender(Origins(), one_writer=False)

    def append(self, topic: Topic[Any], *numbers: int, key: str | None = None) -> None:
        batch = [(topic, message(n, key=key)) for n in numbers]
        self._appender.append(self.connection, batch, SystemClock().now_us())


@contextmanager
def slow(url: str) -> Iterator[Slow]:
    place = place_of(url)
    connection = place.connect()
    place.begin(connection, "", durable=True)
    try:
        yield Slow(connection)
    finally:
        connection.abandon()
        connection.close()


def numbers(deliveries: list[Any]) -> list[int]:
    return [int(one.message.data) for one in deliveries]


@pytest.mark.parametrize("ends", ["commit", "rollback"])
async def test_a_slow_transaction_is_neither_skipped_nor_overtaken(
    database: Database, ends: str
) -> None:
    url = database.url
    async with opened(url, group()) as transport:
        consumer = await transport.subscribe(group(), Plan())
        await publish(transport, message(0))
        assert numbers(await collect(consumer, 1)) == [0]
        with slow(url) as first:
            await asyncio.to_thread(first.append, ONE, 1, 2)
            later = asyncio.ensure_future(publish(transport, message(3)))
            # The group polls while what stands before it is still open: there is nothing yet.
            for _ in range(3):
                assert await consumer.receive(10, 1 << 30, SOON) == ()
            assert not later.done()
            if ends == "commit":
                await asyncio.to_thread(first.connection.commit)
        await asyncio.wait_for(later, 10)
        expected = [1, 2, 3] if ends == "commit" else [3]
        got = await collect(consumer, len(expected))
        assert numbers(got) == expected
        assert [one.position.offset for one in got] == list(range(1, len(expected) + 1))
        assert await consumer.receive(10, 1 << 30, SOON) == ()


async def test_the_others_wait_for_so_long_and_no_longer(database: Database) -> None:
    """Those of the same partition; those of another one do not wait at all."""
    url = with_options(database.url, busy="1s")
    async with opened(url) as transport, opened(url) as other:
        receipts = await publish(other, *[message(n, key=f"k{n}") for n in range(20)], topic=MANY)
        partitions = [one.position.partition for one in receipts if one.position is not None]
        elsewhere = next(n for n, part in enumerate(partitions) if part != partitions[0])
        with slow(url) as first:
            await asyncio.to_thread(first.append, MANY, 1, key="k0")
            started = time.monotonic()
            stuck = asyncio.ensure_future(publish(transport, message(2, key="k0"), topic=MANY))
            await publish(other, message(3, key=f"k{elsewhere}"), topic=MANY)
            assert not stuck.done()
            with pytest.raises(PublishError) as caught:
                await stuck
            assert 0.5 < time.monotonic() - started < 8
            assert isinstance(caught.value.failed[0], StorageBusyError)
        await publish(transport, message(2, key="k0"), topic=MANY)


PUBLISHER = """
import asyncio, random, sys
from tests.integration.servers_road import MANY, message, opened, publish

async def main(url, name, number, seed):
    draw = random.Random(f"{seed} {name}")
    async with opened(url) as transport:
        async def some(task):
            for n in range(task, int(number), 4):
                await publish(transport, message(n, key=f"{name} {task}"), topic=MANY)
                await asyncio.sleep(draw.random() * 0.004)
        await asyncio.gather(*map(some, range(4)))
    print("done", flush=True)

asyncio.run(main(*sys.argv[1:]))
"""
PROCESSES, EACH = 4, 400


async def test_many_processes_publish_while_a_group_reads(database: Database) -> None:
    """Each message once, the offsets of a partition without a gap, and in their order."""
    seed = random.randrange(1 << 30)
    async with opened(database.url, group(MANY)) as transport:
        consumer = await transport.subscribe(group(MANY), Plan())
        with (
            running(PUBLISHER, database.url, "a", EACH, seed),
            running(PUBLISHER, database.url, "b", EACH, seed),
            running(PUBLISHER, database.url, "c", EACH, seed),
            running(PUBLISHER, database.url, "d", EACH, seed),
        ):
            got = await collect(consumer, PROCESSES * EACH, seconds=100)
        assert await consumer.receive(10, 1 << 30, SOON) == ()
    by_partition = defaultdict(list)
    by_key = defaultdict(list)
    for one in got:
        by_partition[one.partition].append(one.position.offset)
        by_key[one.message.key].append(int(one.message.data))
    assert all(found == list(range(len(found))) for found in by_partition.values())
    assert len(by_key) == 4 * PROCESSES
    for key, found in by_key.items():
        task = int(key.partition(" ")[2])
        assert found == list(range(task, EACH, 4))


async def test_groups_do_not_wait_for_publishers(database: Database) -> None:
    """What is claimed and settled takes no lock of a stream."""
    async with opened(database.url, group()) as transport:
        await publish(transport, *[message(n) for n in range(10)])
        consumer = await transport.subscribe(group(), Plan())
        with slow(database.url) as first:
            await asyncio.to_thread(first.append, ONE, 10)
            assert numbers(await collect(consumer, 10, seconds=5)) == list(range(10))
