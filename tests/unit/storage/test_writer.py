"""The writer: what happens to those who share a transaction whose commit nobody knows of."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest

from postroad.errors import StorageError
from postroad.storage.connection import Connection
from postroad.storage.sqlite.connection import SqliteConnection, SqlitePlace, prepare
from postroad.storage.turn import Turn
from postroad.storage.writer import Writer


async def test_what_may_be_committed_is_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit took place, and its answer was lost: both are told, and neither is done twice."""
    place = SqlitePlace(tmp_path / "a.db")
    prepare(place)
    writer = Writer(place, Turn(), asyncio.get_running_loop())
    runs: list[str] = []
    started, gathered, real = threading.Event(), threading.Event(), SqliteConnection.commit

    def commit(self: SqliteConnection) -> None:
        real(self)
        if runs:
            raise sqlite3.OperationalError("disk I/O error")

    def first(_: Connection) -> None:
        started.set()
        gathered.wait(10)  # until the two others have gathered behind it

    def insert(name: str) -> Any:
        def operation(connection: Connection) -> None:
            runs.append(name)
            connection.execute("INSERT INTO postroad_permits VALUES (?, 1, 1)", (name + "x",))

        return operation

    monkeypatch.setattr(SqliteConnection, "commit", commit)
    waiting = writer.submit(first)
    await asyncio.to_thread(started.wait, 10)
    together = [writer.submit(insert("a")), writer.submit(insert("b"))]
    gathered.set()
    await waiting
    for one in together:
        with pytest.raises(StorageError) as caught:
            await one
        assert type(caught.value) is StorageError
    assert runs == ["a", "b"]
    await asyncio.to_thread(writer.stop)
