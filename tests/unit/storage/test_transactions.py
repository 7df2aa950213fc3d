"""The pool of handlers' transactions: bounded, in turns, and nothing stays open."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from postroad.errors import ClosedError, StorageError
from postroad.storage.connection import Connection
from postroad.storage.database import Database
from postroad.storage.sqlite.connection import SqlitePlace


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = await Database.open(SqlitePlace(tmp_path / "a.db", busy=5), lambda _: None)
    await opened.write(lambda c: c.execute("CREATE TABLE t (n INTEGER)").rowcount)
    yield opened
    await opened.close()


def insert(n: int) -> Callable[[Connection], Any]:
    return lambda c: c.execute(f"INSERT INTO t VALUES ({n})").rowcount


def nothing(_: Connection) -> None: ...


async def rows(database: Database) -> list[int]:
    found = await database.read(lambda c: c.execute("SELECT n FROM t ORDER BY n").fetchall())
    return [n for (n,) in found]


async def writes(database: Database, n: int) -> None:
    """Nobody has the write lock any more."""
    await asyncio.wait_for(database.write(insert(n)), 3)


async def test_what_is_committed_stays_and_what_is_rolled_back_goes(database: Database) -> None:
    kept = await database.transactions.open(insert(1))
    assert await kept.run(insert(2)) == 1
    assert kept.first == 1
    await kept.commit(insert(3))
    gone = await database.transactions.open(insert(4))
    await gone.run(insert(5))
    await gone.rollback()
    await writes(database, 9)
    assert await rows(database) == [1, 2, 3, 9]


async def test_a_file_has_one_at_a_time_and_the_writer_takes_turns(database: Database) -> None:
    first = await database.transactions.open(insert(1))
    second = asyncio.create_task(database.transactions.open(insert(2)))
    third = database.write(insert(3))
    await asyncio.sleep(0.05)
    assert not second.done()
    assert not third.done()
    await first.commit(nothing)
    await (await second).commit(nothing)
    await third
    assert await rows(database) == [1, 2, 3]


async def test_what_the_first_function_raises_undoes_it(database: Database) -> None:
    def first(connection: Connection) -> None:
        insert(1)(connection)
        raise ValueError("no")

    for _ in range(3):  # the place in the pool is given back
        with pytest.raises(ValueError, match="no"):
            await database.transactions.open(first)
    await writes(database, 2)
    assert await rows(database) == [2]


async def test_what_the_last_function_raises_undoes_everything(database: Database) -> None:
    def last(connection: Connection) -> None:
        raise ValueError("no")

    opened = await database.transactions.open(insert(1))
    with pytest.raises(ValueError, match="no"):
        await opened.commit(last)
    await writes(database, 2)
    assert await rows(database) == [2]


async def test_cancelled_while_it_opens_nothing_stays_open(database: Database) -> None:
    gate, begun = threading.Event(), threading.Event()

    def slow(connection: Connection) -> None:
        insert(1)(connection)
        begun.set()
        gate.wait(5)

    opening = asyncio.create_task(database.transactions.open(slow))
    await asyncio.to_thread(begun.wait, 5)
    waiting = asyncio.create_task(database.transactions.open(insert(2)))
    await asyncio.sleep(0)
    for task in (opening, waiting):
        task.cancel()
    await asyncio.gather(opening, waiting, return_exceptions=True)
    gate.set()
    await writes(database, 3)
    await (await database.transactions.open(insert(4))).commit(nothing)
    assert await rows(database) == [3, 4]


async def test_cancelled_while_it_commits_it_is_committed(database: Database) -> None:
    gate, begun = threading.Event(), threading.Event()

    def last(connection: Connection) -> None:
        insert(2)(connection)
        begun.set()
        gate.wait(5)

    opened = await database.transactions.open(insert(1))
    committing = asyncio.create_task(opened.commit(last))
    await asyncio.to_thread(begun.wait, 5)
    committing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await committing
    gate.set()
    await writes(database, 3)
    assert await rows(database) == [1, 2, 3]


async def test_cancelled_while_it_runs_it_is_undone_all_the_same(database: Database) -> None:
    gate, begun = threading.Event(), threading.Event()

    def slow(connection: Connection) -> None:
        begun.set()
        gate.wait(5)
        insert(2)(connection)

    opened = await database.transactions.open(insert(1))
    running = asyncio.create_task(opened.run(slow))
    await asyncio.to_thread(begun.wait, 5)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    ending = asyncio.create_task(opened.rollback())
    await asyncio.sleep(0)
    gate.set()
    await ending
    await writes(database, 3)
    assert await rows(database) == [3]


async def test_a_transaction_that_its_user_ended_is_told(database: Database) -> None:
    opened = await database.transactions.open(insert(1))
    await opened.run(lambda c: c.execute("COMMIT").rowcount)
    with pytest.raises(StorageError, match="ended its transaction itself"):
        await opened.run(insert(5))
    with pytest.raises(StorageError, match="ended its transaction itself"):
        await opened.commit(insert(2))
    await writes(database, 3)
    assert await rows(database) == [1, 3]


async def test_a_closed_database_opens_none(database: Database) -> None:
    opened = await database.transactions.open(insert(1))
    closing = asyncio.create_task(database.close())
    await asyncio.sleep(0)
    with pytest.raises(ClosedError):
        await asyncio.wait_for(opened.commit(nothing), 3)
    with pytest.raises(ClosedError):
        await asyncio.wait_for(database.transactions.open(nothing), 3)
    await closing
