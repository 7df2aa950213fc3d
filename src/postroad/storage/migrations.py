"""Numbered migrations, applied once, also when several processes open the file at once."""

from __future__ import annotations

import sqlite3
from functools import cache
from importlib import resources
from pathlib import Path

from postroad.errors import StorageVersionError
from postroad.storage.statements import load, read

_DIALECT = "sqlite"
_SQL = load(_DIALECT, "schema")


@cache
def migrations() -> tuple[str, ...]:
    """The scripts in their order; script n leads to version n."""
    folder = resources.files(__package__).joinpath(_DIALECT, "migrations")
    names = sorted(item.name for item in folder.iterdir() if item.name.endswith(".sql"))
    for number, name in enumerate(names, 1):
        if not name.startswith(f"{number:04}_"):
            raise ValueError(f"migration {name} is not number {number}")
    return tuple(read(_DIALECT, f"migrations/{name}") for name in names)


def version(connection: sqlite3.Connection) -> int:
    """The schema's version in this file; 0 if it has none of our tables. Only reads."""
    if not connection.execute(_SQL["tables"]).fetchone()[0]:
        return 0
    row = connection.execute(_SQL["version"]).fetchone()
    return 0 if row is None else int(row[0])


def check(connection: sqlite3.Connection, path: Path) -> bool:
    """Whether the file needs migrating. Only reads.

    Raises:
        StorageVersionError: it was written by a newer Postroad; nothing is changed.
    """
    found, known = version(connection), len(migrations())
    if found > known:
        raise StorageVersionError(
            f"{path} has version {found} of Postroad's tables, this Postroad knows up to {known}; "
            "upgrade Postroad, or name another file"
        )
    return found < known


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Bring our tables to the present version. To be called inside a write transaction: the
    version is read under its lock, so that of several processes one migrates and the others see
    that it is done. Tables that are not ours stay untouched.

    Raises:
        StorageVersionError: as in `check`.
    """
    if not check(connection, path):
        return
    connection.execute(_SQL["create_meta"])
    for script in migrations()[version(connection) :]:
        for statement in split(script):
            connection.execute(statement)
    connection.execute(_SQL["set_version"], (len(migrations()),))


def split(script: str) -> list[str]:
    """The statements of a script (`executescript` would commit the transaction around it)."""
    statements: list[str] = []
    pending = ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            statements.append(pending)
            pending = ""
    return statements
