"""Traps of the SQLite road that were found by trying to fall into them."""

from __future__ import annotations

import asyncio
import sqlite3
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from postroad import Postroad, Retention, Retry, Topic
from postroad.errors import StorageBusyError
from postroad.transports.sql import SqlTransport


class Job(msgspec.Struct):
    number: int


async def test_a_long_backlog_of_one_topic_starves_no_other(tmp_path: Path) -> None:
    first, last = Topic("t.a", Job), Topic("t.b", Job)
    app, seen = Postroad(f"sqlite:///{tmp_path / 'a.db'}"), asyncio.Event()

    @app.subscribe("t.*", group="g", prefetch=20, concurrency=1)
    async def work(job: Job) -> None:
        await asyncio.sleep(0.002)
        if job.number < 0:
            seen.set()

    async with asyncio.timeout(20), app:
        await app.publish_many(first, map(Job, range(5000)))
        await app.publish(last, Job(-1))
        stop = asyncio.Event()
        running = asyncio.create_task(app.run(stop=stop))
        async with asyncio.timeout(5):
            await seen.wait()
        stop.set()
        await running


async def test_a_road_that_was_locked_at_first_opens_later(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with SqlTransportOf(path):
        pass
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("begin immediate")
    transport = SqlTransport(f"sqlite:///{path}?busy=0.1s")
    topic = Topic("t.a", Job)
    with pytest.raises(StorageBusyError):
        await transport.open([topic], [])
    other.execute("rollback")
    other.close()
    await transport.open([topic], [])
    await transport.close()
    await transport.open([topic], [])
    assert [info.name for info in await transport.topics("#")] == ["t.a"]
    await transport.close()


class SqlTransportOf:
    def __init__(self, path: Path) -> None:
        self._transport = SqlTransport(f"sqlite:///{path}")

    async def __aenter__(self) -> SqlTransport:
        await self._transport.open([], [])
        return self._transport

    async def __aexit__(self, *_: object) -> None:
        await self._transport.close()


async def test_a_dead_letter_that_vanishes_unbalances_the_audit(tmp_path: Path) -> None:
    topic, path = Topic("t.a", Job), tmp_path / "a.db"
    app = Postroad(f"sqlite:///{path}")

    @app.subscribe(topic, group="g", retry=Retry(attempts=1))
    async def work(job: Job) -> None:
        raise ValueError

    async with asyncio.timeout(20), app.consuming():
        await app.publish_many(topic, map(Job, range(3)))
        await app.settled()
        assert (await app.audit()).verdict == "balanced"
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("delete from postroad_dead_letters where number = 1")
        other.close()
        audit = await app.audit()
        assert audit.verdict == "unbalanced"
        assert "1 unaccounted for of 3 accepted" in audit.entries[0].reason


async def test_a_seek_keeps_what_only_waits_for_its_retry(tmp_path: Path) -> None:
    topic = Topic("t.a", Job, retention=Retention(age=timedelta(milliseconds=300)))
    app, failed = Postroad(f"sqlite:///{tmp_path / 'a.db'}"), asyncio.Event()
    retry = Retry(attempts=3, backoff="fixed", first=timedelta(minutes=5))

    @app.subscribe(topic, group="g", retry=retry)
    async def work(job: Job) -> None:
        if job.number == 4:
            failed.set()
        raise ValueError

    async with asyncio.timeout(20), app:
        stop = asyncio.Event()
        running = asyncio.create_task(app.run(stop=stop))
        await app.publish_many(topic, map(Job, range(5)))
        await failed.wait()
        stop.set()
        await running
        transport = app._transport
        assert isinstance(transport, SqlTransport)
        while await app.browse("t.a"):
            await asyncio.sleep(0.05)
            await transport.trim()
        await app.seek("t.a", "g", "earliest")
        (entry,) = (await app.audit("t.a")).entries
        assert entry.account is not None
        assert (entry.account.waiting, entry.account.accepted) == (5, 5)
        assert entry.verdict == "balanced"
