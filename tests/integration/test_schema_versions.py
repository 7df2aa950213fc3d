"""Two versions of the store's tables side by side: each refuses the other, and harms nothing.

The newer Postroad is this one with one migration more, in a process of its own.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
from msgspec import Struct

from postroad import Postroad, Topic
from postroad.errors import PublishError, StorageVersionError
from postroad.storage.migrations import migrations, version
from postroad.storage.sqlite.connection import SqlitePlace, connect
from tests.integration.sqlite_road import until
from tests.integration.test_bad_input import unchanged

KNOWN = len(migrations("sqlite"))
REMEDY = rf"version {KNOWN + 1} of .* knows up to {KNOWN}; upgrade Postroad, or name another"
ROOT = Path(__file__).parents[2]


class Job(Struct):
    number: int


NEWER = """
import asyncio, sys
from postroad.storage import migrations as module
from tests.integration.test_schema_versions import Job, jobs
from postroad import Postroad, PostroadError

scripts = (*module.migrations("sqlite"), "ALTER TABLE postroad_topics ADD COLUMN later INTEGER;")
module.migrations = lambda dialect: scripts

async def main(url, count):
    async with Postroad(url) as road:
        for number in range(int(count)):
            await road.publish(jobs, Job(number))
            print(number, flush=True)
            await asyncio.sleep(0.01)

try:
    asyncio.run(main(*sys.argv[1:]))
except PostroadError as error:
    print(type(error).__name__, error)
"""
OLDER = """
import asyncio, sys
from datetime import timedelta
from postroad import Postroad, PostroadError
from tests.integration.test_schema_versions import Job, jobs

road = Postroad(sys.argv[1])

@road.subscribe(jobs, group="g", start="earliest", lease=timedelta(seconds=0.5))
async def handle(job: Job) -> None:
    print("handled", job.number, flush=True)

try:
    asyncio.run(road.run())
except PostroadError as error:
    print(type(error).__name__, error)
"""
jobs = Topic("jobs", Job)


def url(folder: Path) -> str:
    return f"sqlite:///{folder}/jobs.db?busy=20s"


@asynccontextmanager
async def running(code: str, *arguments: object) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that does not outlive the block."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        code,
        *map(str, arguments),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def said(process: asyncio.subprocess.Process) -> str:
    """The next line that it prints."""
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), 30)
    return line.decode().strip()


async def newer(folder: Path) -> str:
    """What the newer Postroad says when it opens the file, publishes once and closes it."""
    async with running(NEWER, url(folder), 1) as process:
        told, _ = await asyncio.wait_for(process.communicate(), 30)
        return told.decode().strip()


def version_of(folder: Path) -> int:
    with closing(connect(SqlitePlace(folder / "jobs.db"))) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return version(database)


def published(folder: Path) -> int:
    """How many messages the log has, as seen by whatever version."""
    with closing(sqlite3.connect(folder / "jobs.db")) as database:
        number: int = database.execute("SELECT count(*) FROM postroad_messages").fetchone()[0]
        return number


async def test_an_older_postroad_refuses_a_newer_file_at_rest(tmp_path: Path) -> None:
    assert await newer(tmp_path) == "0"
    with unchanged(tmp_path), pytest.raises(StorageVersionError, match=REMEDY):
        await Postroad(url(tmp_path)).open()


async def test_an_older_postroad_refuses_a_newer_file_in_use(tmp_path: Path) -> None:
    """And the newer one, which is publishing, does not notice."""
    async with running(NEWER, url(tmp_path), 1_000_000) as process:
        assert await said(process) == "0"
        with pytest.raises(StorageVersionError, match=REMEDY):
            await Postroad(url(tmp_path)).open()
        for number in range(1, 20):
            assert await said(process) == str(number)
    assert version_of(tmp_path) == KNOWN + 1


async def test_a_newer_postroad_refuses_a_file_in_use_by_older_consumers(tmp_path: Path) -> None:
    """They go on; once they have stopped, it brings the file to its own version."""
    async with Postroad(url(tmp_path)) as road, running(OLDER, url(tmp_path)) as consumer:
        await road.publish(jobs, Job(0))
        assert await said(consumer) == "handled 0"
        told = await newer(tmp_path)
        assert told.startswith("StorageVersionError")
        assert f"has version {KNOWN} of Postroad's tables and is in use" in told
        assert f":{consumer.pid})" in told
        assert f"would bring it to {KNOWN + 1}; stop them" in told
        await road.publish(jobs, Job(1))
        assert await said(consumer) == "handled 1"
        assert version_of(tmp_path) == KNOWN
        consumer.terminate()
        await consumer.wait()
    # Its last word may have been its lease: a killed consumer counts until that is over.
    await until(lambda: _opens(tmp_path))
    assert version_of(tmp_path) == KNOWN + 1


async def _opens(folder: Path) -> bool:
    return await newer(folder) == "0"


async def test_an_older_publisher_stops_when_a_newer_postroad_comes(tmp_path: Path) -> None:
    """A publisher leaves no trace in the file, so the newer version takes it over; from then on
    the older one is refused at whatever it does, and nothing of it gets in."""
    async with Postroad(url(tmp_path)) as road:
        await road.publish(jobs, Job(0))
        assert await newer(tmp_path) == "0"
        with pytest.raises(PublishError) as caught:
            await road.publish(jobs, Job(1))
        assert isinstance(caught.value.failed[0], StorageVersionError)
        with pytest.raises(StorageVersionError, match=REMEDY):
            await road.publish_many(Topic("others", Job), [Job(2)])
        for ask in (lambda: road.browse("jobs"), road.lag, road.audit, road.topic_infos):
            with pytest.raises(StorageVersionError, match=REMEDY):
                await ask()
        assert published(tmp_path) == 2
    assert await newer(tmp_path) == "0"
    assert (version_of(tmp_path), published(tmp_path)) == (KNOWN + 1, 3)


async def test_an_older_consumer_that_slept_past_its_lease_ends(tmp_path: Path) -> None:
    """While it was stopped the newer version came; awake again it ends with the reason."""
    async with Postroad(url(tmp_path)) as road, running(OLDER, url(tmp_path)) as consumer:
        await road.publish(jobs, Job(0))
        assert await said(consumer) == "handled 0"
        await _settle(road)
        await _freeze(tmp_path, consumer.pid)
        await until(lambda: _opens(tmp_path))
        os.kill(consumer.pid, signal.SIGCONT)
        told = await said(consumer)
        assert told.startswith("StorageVersionError")
        assert f"knows up to {KNOWN}" in told
        assert await asyncio.wait_for(consumer.wait(), 30) == 0
    assert version_of(tmp_path) == KNOWN + 1


async def _settle(road: Postroad) -> None:
    async with asyncio.timeout(30):
        await road.settled("jobs", "g")


async def _freeze(folder: Path, pid: int) -> None:
    """SIGSTOP while it does not have the database's only write lock: else nobody could go on."""

    async def is_frozen_without_the_lock() -> bool:
        os.kill(pid, signal.SIGSTOP)
        with closing(sqlite3.connect(folder / "jobs.db", timeout=0.2)) as database:
            try:
                database.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                os.kill(pid, signal.SIGCONT)
                return False
        return True

    await until(is_frozen_without_the_lock)
