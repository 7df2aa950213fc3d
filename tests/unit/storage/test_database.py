"""The writer groups, isolates failures, waits and gives up; reads never wait for it."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from postroad.errors import (
    ClosedError,
    StorageBusyError,
    StorageCorruptError,
    StorageError,
    StorageFullError,
    StoragePermissionError,
)
from postroad.storage.connection import Connection
from postroad.storage.database import Database
from postroad.storage.sqlite.connection import SqlitePlace, prepare


def nothing(topics: object) -> None:
    pass


@asynccontextmanager
async def database(path: Path, busy: float = 5.0) -> AsyncIterator[Database]:
    opened = await Database.open(SqlitePlace(path, busy=busy), nothing)
    await opened.write(lambda c: c.execute("CREATE TABLE IF NOT EXISTS t (n INTEGER)").rowcount)
    try:
        yield opened
    finally:
        await opened.close()


def insert(n: int) -> Callable[[Connection], int]:
    def operation(connection: Connection) -> int:
        connection.execute("INSERT INTO t VALUES (?)", (n,))
        return n

    return operation


def count(connection: Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM t").fetchone()[0])


async def test_what_gathers_is_one_commit(tmp_path: Path) -> None:
    async with database(tmp_path / "a.db") as db:
        gate = threading.Event()
        held = db.write(lambda _: gate.wait() and None)
        before = db.writer.commits
        writes = [db.write(insert(n)) for n in range(500)]
        gate.set()
        await held
        assert await asyncio.gather(*writes) == list(range(500))
        assert db.writer.commits - before <= 2
        assert await db.read(count) == 500


async def test_one_that_raises_harms_no_other(tmp_path: Path) -> None:
    def bad(connection: Connection) -> None:
        connection.execute("INSERT INTO t VALUES (-1)")
        raise ValueError("bad")

    async with database(tmp_path / "a.db") as db:
        gate = threading.Event()
        held = db.write(lambda _: gate.wait() and None)
        writes: list[asyncio.Future[Any]] = [
            db.write(insert(1)),
            db.write(bad),
            db.write(insert(2)),
        ]
        gate.set()
        await held
        results = await asyncio.gather(*writes, return_exceptions=True)
        assert [str(result) for result in results] == ["1", "bad", "2"]
        rows = await db.read(lambda c: c.execute("SELECT n FROM t").fetchall())
        assert rows == [(1,), (2,)]


async def test_reads_do_not_wait_for_writes(tmp_path: Path) -> None:
    async with database(tmp_path / "a.db") as db:
        gate = threading.Event()
        held = db.write(lambda _: gate.wait() and None)
        assert await asyncio.wait_for(db.read(count), 2) == 0
        gate.set()
        await held


async def test_the_loop_is_never_blocked(tmp_path: Path) -> None:
    async with database(tmp_path / "a.db") as db:
        write = db.write(lambda _: time.sleep(0.3))
        longest, last = 0.0, time.monotonic()
        while not write.done():
            await asyncio.sleep(0.005)
            longest = max(longest, time.monotonic() - last)
            last = time.monotonic()
        assert longest < 0.2


async def test_locked_by_another_process(tmp_path: Path) -> None:
    async with database(tmp_path / "a.db", busy=1.0) as db:
        other = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageBusyError, match=r"a\.db was locked .* 1 s"):
            await db.write(insert(1))
        waiting = db.write(insert(2))
        await asyncio.sleep(0.05)
        other.execute("ROLLBACK")
        other.close()
        assert await waiting == 2


async def test_full_disk_and_back(tmp_path: Path) -> None:
    """A file size limit stands for a full disk: SQLite sees the same failed write."""
    async with database(tmp_path / "a.db") as db:
        await db.write(insert(1))

        def fill(connection: Connection) -> None:
            connection.execute("CREATE TABLE IF NOT EXISTS blob (b BLOB)")
            connection.execute("INSERT INTO blob VALUES (zeroblob(8000000))")

        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
        try:
            with pytest.raises(StorageFullError, match="no room left"):
                await db.write(fill)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)
        await db.write(fill)
        await db.write(insert(2))
        assert await db.read(count) == 2


def test_named_errors_at_opening(tmp_path: Path) -> None:
    rubbish = tmp_path / "rubbish.db"
    rubbish.write_bytes(b"this is no database" * 100)
    with pytest.raises(StorageCorruptError, match="not an SQLite database"):
        prepare(SqlitePlace(rubbish))
    assert rubbish.read_bytes() == b"this is no database" * 100
    with pytest.raises(StoragePermissionError, match="does not exist; create it"):
        prepare(SqlitePlace(tmp_path / "nowhere" / "a.db"))
    with pytest.raises(StoragePermissionError, match="is a folder"):
        prepare(SqlitePlace(tmp_path))


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    prepare(SqlitePlace(path))
    path.chmod(0o444)
    child = os.fork()
    if child == 0:  # root may write everything: be somebody else
        code = 1
        try:
            tmp_path.chmod(0o755)
            for parent in list(path.parents)[:4]:
                if parent.stat().st_uid == os.getuid() and parent != Path("/"):
                    parent.chmod(parent.stat().st_mode | 0o055)
            if os.getuid() == 0:
                os.setuid(65534)
            prepare(SqlitePlace(path))
        except StoragePermissionError:
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _refused_in_a_child(db: Database) -> bool:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            db.usable()
        except ClosedError as error:
            code = 0 if "open it after forking" in str(error) else 2
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


async def test_use_after_close_and_over_a_fork(tmp_path: Path) -> None:
    async with database(tmp_path / "a.db") as db:
        assert _refused_in_a_child(db)
    with pytest.raises(ClosedError, match="closed"):
        db.write(insert(1))


async def test_closing_commits_what_is_queued_and_empties_the_log(tmp_path: Path) -> None:
    async with database(tmp_path / "a.db") as db:
        writes = [db.write(insert(n)) for n in range(100)]
        await asyncio.gather(*(db.close() for _ in range(10)))
        assert len(await asyncio.gather(*writes)) == 100
    assert os.listdir(tmp_path) == ["a.db"]  # noqa: PTH208 - a folder of one file


async def test_a_driver_error_never_passes(tmp_path: Path) -> None:
    async with database(tmp_path / "a.db") as db:
        with pytest.raises(StorageError, match="no such table"):
            await db.write(lambda c: c.execute("SELECT * FROM nowhere"))
        with pytest.raises(StorageError, match="no such table"):
            await db.read(lambda c: c.execute("SELECT * FROM nowhere"))
