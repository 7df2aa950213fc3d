"""Opening files: new, ours, a newer version's, somebody else's, by several at once."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from postroad.errors import StorageVersionError
from postroad.storage.migrations import migrations, version
from postroad.storage.sqlite.connection import SqlitePlace, connect, prepare


def test_a_new_file_gets_the_present_version(tmp_path: Path) -> None:
    place = SqlitePlace(tmp_path / "new.db")
    prepare(place)
    prepare(place)
    connection = connect(place)
    assert version(connection) == len(migrations("sqlite"))
    assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    connection.close()


def test_a_newer_version_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    path = tmp_path / "newer.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE postroad_meta (name TEXT PRIMARY KEY, value)")
    connection.execute("INSERT INTO postroad_meta VALUES ('version', 99)")
    connection.commit()
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StorageVersionError, match="version 99"):
        prepare(SqlitePlace(path))
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["newer.db"]


def test_a_business_database_is_shared(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 7")
    connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY)")
    connection.execute("INSERT INTO orders VALUES (1)")
    connection.commit()
    prepare(SqlitePlace(path))
    assert connection.execute("SELECT id FROM orders").fetchall() == [(1,)]
    assert connection.execute("PRAGMA user_version").fetchone() == (7,)
    connection.close()
    migrated = connect(SqlitePlace(path))
    assert version(migrated) == len(migrations("sqlite"))
    migrated.close()


def test_a_failed_migration_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = ("CREATE TABLE postroad_one (id);", "CREATE TABLE nonsense nonsense;")
    monkeypatch.setattr("postroad.storage.migrations.migrations", lambda dialect: broken)
    place = SqlitePlace(tmp_path / "broken.db")
    with pytest.raises(Exception, match="nonsense"):
        prepare(place)
    connection = sqlite3.connect(place.path)
    assert connection.execute("SELECT count(*) FROM sqlite_schema").fetchone() == (0,)
    connection.close()


async def test_several_processes_migrate_at_once(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from postroad.storage.sqlite.connection import SqlitePlace, prepare; "
        "prepare(SqlitePlace(pathlib.Path(sys.argv[1])))"
    )
    path = tmp_path / "many.db"

    def run() -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-c", code, str(path)], capture_output=True, check=False
        )

    results = await asyncio.gather(*(asyncio.to_thread(run) for _ in range(6)))
    assert [result.stderr for result in results] == [b""] * 6
    connection = connect(SqlitePlace(path))
    assert version(connection) == len(migrations("sqlite"))
    connection.close()
