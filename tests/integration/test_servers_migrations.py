"""Migrations: up from every earlier version, broken off, by several at once, and by command."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from postroad.cli.program import run
from postroad.core.transport import Plan
from postroad.errors import StorageVersionError
from postroad.operations.migrating import bring_up_to_date, look
from postroad.storage import migrations as module
from postroad.storage.connection import Connection
from postroad.storage.mysql.connection import MysqlConnection
from postroad.storage.opening import place_of
from tests.integration.outbox_world import KINDS, connect, query, url_of
from tests.integration.servers_road import ROOT, collect, group, message, opened, publish
from tests.services.harness.sql import Database

PRESENT = len(module.migrations("sqlite"))
COLUMNS = """
SELECT table_name, column_name, data_type, is_nullable, {more} FROM information_schema.columns
WHERE table_schema = {schema} AND left(table_name, 8) = 'postroad' ORDER BY table_name, column_name
"""
INDEXES = {
    "postgresql": "SELECT indexdef FROM pg_indexes WHERE schemaname = current_schema() ORDER BY 1",
    "mysql": (
        "SELECT table_name, index_name, seq_in_index, column_name, non_unique "
        "FROM information_schema.statistics WHERE table_schema = DATABASE() ORDER BY 1, 2, 3"
    ),
}


def shape(url: str) -> list[Sequence[Any]]:
    """Everything that is defined in a database."""
    dialect = url.partition(":")[0]
    if dialect == "sqlite":
        return query(url, "SELECT type, name, sql FROM sqlite_schema ORDER BY type, name")
    schema = "current_schema()" if dialect == "postgresql" else "DATABASE()"
    more = "column_default" if dialect == "postgresql" else "collation_name, column_default, extra"
    return [
        *query(url, COLUMNS.format(schema=schema, more=more)),
        *query(url, INDEXES[dialect]),
    ]


def version_of(url: str) -> int:
    place = place_of(url)
    connection = place.connect()
    try:
        return module.version(connection)
    finally:
        connection.close()


@pytest.fixture
def fresh(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """(the URL of an empty database, how to empty it again) of a kind."""
    kind: str = request.node.callspec.params["kind"]
    return url_of(kind, request, tmp_path)


def older(version: int, patch: pytest.MonkeyPatch) -> None:
    """From here on this is a Postroad of an earlier version."""
    scripts = {kind: module.migrations(kind)[:version] for kind in ("sqlite", "postgresql")}
    scripts["mysql"] = module.migrations("mysql")[:version]
    patch.setattr("postroad.storage.migrations.migrations", lambda dialect: scripts[dialect])


@pytest.mark.parametrize("version", range(PRESENT))
@pytest.mark.parametrize("kind", KINDS)
async def test_up_from_every_earlier_version(
    kind: str, version: int, fresh: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """What was published is handled, and the tables are those of a new database."""
    if version:
        with pytest.MonkeyPatch.context() as patch:
            older(version, patch)
            async with opened(fresh) as transport:
                await publish(transport, *[message(n, key=f"k{n % 3}") for n in range(20)])
            assert version_of(fresh) == version
    found = bring_up_to_date(fresh)
    assert (found.found, found.known) == (version, PRESENT)
    assert look(fresh).found == version_of(fresh) == PRESENT
    assert bring_up_to_date(fresh).statements == ()
    async with opened(fresh, group()) as transport:
        await publish(transport, *[message(n) for n in range(20, 25)])
        consumer = await transport.subscribe(group(), Plan())
        got = await collect(consumer, 25 if version else 5)
        numbers = [int(one.message.data) for one in got]
        assert numbers == list(range(0 if version else 20, 25))
    migrated = shape(fresh)
    _empty(fresh, kind)
    bring_up_to_date(fresh)
    assert shape(fresh) == migrated


def _empty(url: str, kind: str) -> None:
    if kind == "sqlite":
        for file in Path(url.removeprefix("sqlite:///")).parent.glob("business.db*"):
            file.unlink()
        return
    connection = connect(url)
    cursor = connection.cursor()
    if kind == "postgresql":
        cursor.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    else:
        cursor.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()"
        )
        for (name,) in cursor.fetchall():
            cursor.execute(f"DROP TABLE {name}")
    connection.commit()
    connection.close()


class BrokenOff(Exception):
    """Somebody pulled the plug."""


def break_after(statements: int, patch: pytest.MonkeyPatch) -> None:
    """The connection's process dies after so many statements of a migration."""
    left, real = [statements], MysqlConnection.define

    def define(self: MysqlConnection, statement: str) -> None:
        if not left[0]:
            raise BrokenOff
        left[0] -= 1
        real(self, statement)

    patch.setattr(MysqlConnection, "define", define)


def test_a_migration_that_is_broken_off_goes_on_where_it_ended(mariadb_database: Database) -> None:
    """There each statement commits by itself, so every place is one where it may end."""
    url = mariadb_database.url
    bring_up_to_date(url)
    whole = shape(url)
    _empty(url, "mariadb")
    number = len(look(url).statements)
    assert number > 30
    for statements in range(random.randrange(3), number, 3):
        _empty(url, "mariadb")
        with pytest.MonkeyPatch.context() as patch:
            break_after(statements, patch)
            with pytest.raises(BrokenOff):
                place_of(url).prepare()
        assert version_of(url) < PRESENT
        bring_up_to_date(url)
        assert shape(url) == whole


def test_a_migration_that_fails_leaves_nothing(
    postgresql_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There it is one transaction."""
    url = postgresql_database.url
    broken = ("CREATE TABLE postroad_one (id BIGINT);", "CREATE TABLE nonsense nonsense;")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("postroad.storage.migrations.migrations", lambda dialect: broken)
        with pytest.raises(Exception, match="nonsense"):
            place_of(url).prepare()
    assert shape(url) == []
    bring_up_to_date(url)


@pytest.mark.parametrize("kind", KINDS)
async def test_several_at_once(kind: str, fresh: str) -> None:
    command = [sys.executable, "-m", "postroad", "migrate", fresh, "--json"]

    def one() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
        )

    results = await asyncio.gather(*(asyncio.to_thread(one) for _ in range(5)))
    assert [(result.returncode, result.stderr) for result in results] == [(0, "")] * 5
    assert all(json.loads(result.stdout)["up_to_date"] for result in results)
    assert version_of(fresh) == PRESENT


@pytest.mark.parametrize("kind", KINDS)
async def test_consumers_of_an_older_version_are_left_alone(kind: str, fresh: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        older(PRESENT - 1, patch)
        async with opened(fresh, group()) as transport:
            await transport.subscribe(group(), Plan())
            patch.undo()
            with pytest.raises(StorageVersionError, match="in use by consumers of an older"):
                bring_up_to_date(fresh)
            assert version_of(fresh) == PRESENT - 1
            older(PRESENT - 1, patch)
    bring_up_to_date(fresh)
    assert version_of(fresh) == PRESENT


@pytest.mark.parametrize("kind", KINDS)
def test_the_command(kind: str, fresh: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["migrate", fresh, "--check"]) == 3
    assert "no tables of ours" in capsys.readouterr().out
    if kind == "sqlite":
        assert not Path(fresh.removeprefix("sqlite:///")).exists()
    assert run(["migrate", fresh]) == 0
    assert f"created, now version {PRESENT}" in capsys.readouterr().out
    assert run(["migrate", fresh]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert run(["migrate", fresh, "--check", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["up_to_date"] is True
    assert run(["migrate", fresh, "--sql"]) == 0
    assert capsys.readouterr().out == ""
    assert run(["migrate", fresh, "--sql", "--check"]) == 2


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
async def test_what_it_prints_does_the_same(
    kind: str, fresh: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        older(2, patch)
        bring_up_to_date(fresh)
    assert run(["migrate", fresh, "--sql"]) == 0
    printed = capsys.readouterr().out
    connection = connect(fresh)
    for statement in module.split(printed):
        connection.cursor().execute(statement)
    connection.commit()
    connection.close()
    assert version_of(fresh) == PRESENT
    by_hand = shape(fresh)
    _empty(fresh, kind)
    bring_up_to_date(fresh)
    assert shape(fresh) == by_hand


def test_a_schema_of_its_own(postgresql_database: Database) -> None:
    """It is made where it is missing, and the tables of another schema are not taken for its."""
    url = postgresql_database.url
    bring_up_to_date(url)
    assert look(f"{url}?schema=Shop").found == 0
    bring_up_to_date(f"{url}?schema=Shop")
    assert look(f"{url}?schema=Shop").found == PRESENT
    assert query(url, "SELECT count(*) FROM pg_tables WHERE tablename = 'postroad_meta'") == [(2,)]


def test_pending_ends_with_the_version() -> None:
    """Each script is followed by its number, so that what is broken off is known by it."""

    class Empty:
        dialect = "mysql"

        def execute(self, *_: object) -> Any:
            return self

        def fetchone(self) -> tuple[int]:
            return (0,)

        def spelled(self, statement: str) -> str:
            return statement

    empty: Any = Empty()
    connection: Connection = empty
    notes = [line for line in module.pending(connection) if "INTO postroad_meta" in line]
    assert [f"('version', {n})" in note for n, note in enumerate(notes, 1)] == [True] * PRESENT
