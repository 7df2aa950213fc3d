"""`Outbox.add` as its callers use it: what it returns, and what it refuses."""

from __future__ import annotations

import sqlite3
import warnings
from pathlib import Path

import aiosqlite
import pytest

from postroad import Outbox, Topic
from postroad.errors import EncodeError, StorageError, TransactionRequiredError
from postroad.storage.sqlite.url import parse

TOPIC: Topic[int] = Topic("numbers", int)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    place = parse(f"sqlite:///{tmp_path}/outbox.db")
    place.prepare()
    return place.path


def count(file: Path) -> int:
    connection = sqlite3.connect(file)
    (found,) = connection.execute("SELECT count(*) FROM postroad_outbox").fetchone()
    connection.close()
    return int(found)


def test_a_plain_call_on_a_plain_connection(file: Path) -> None:
    connection = sqlite3.connect(file)
    message_id: str = Outbox().add(connection, TOPIC, 1, key="k", id="mine")
    assert message_id == "mine"
    connection.commit()
    assert connection.execute("SELECT id, aggregateid FROM postroad_outbox").fetchall() == [
        ("mine", "k")
    ]
    connection.close()


async def test_an_awaited_call_on_an_asynchronous_one(file: Path) -> None:
    async with aiosqlite.connect(file) as connection:
        message_id: str = await Outbox().add(connection, TOPIC, 1)
        assert len(message_id) == 36
        await connection.commit()
    assert count(file) == 1


async def test_a_forgotten_await_warns(file: Path) -> None:
    async with aiosqlite.connect(file) as connection:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            Outbox().add(connection, TOPIC, 1)  # type: ignore[unused-coroutine]
        assert "never awaited" in str(caught[-1].message)
        await connection.commit()
    assert count(file) == 0


def test_nothing_is_written_where_something_is_wrong(file: Path) -> None:
    connection = sqlite3.connect(file, isolation_level=None)
    with pytest.raises(TransactionRequiredError):
        Outbox().add(connection, TOPIC, 1)
    with pytest.raises(EncodeError):
        Outbox().add(connection, TOPIC, object())  # type: ignore[misc]
    connection.close()
    assert count(file) == 0


async def test_a_missing_table_names_its_remedy(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "empty.db")
    with pytest.raises(StorageError, match="run `postroad migrate`"):
        Outbox().add(connection, TOPIC, 1)
    connection.close()
    async with aiosqlite.connect(tmp_path / "empty.db") as awaited:
        with pytest.raises(StorageError, match="run `postroad migrate`"):
            await Outbox().add(awaited, TOPIC, 1)
