"""Numbered migrations, applied once, also when several processes open the database at once."""

from __future__ import annotations

import sqlite3
from functools import cache
from importlib import resources

from postroad.core.clock import SystemClock
from postroad.errors import StoragePermissionError, StorageVersionError
from postroad.storage.connection import Connection
from postroad.storage.statements import Dialect, load, read

_SQL = load("schema")


@cache
def migrations(dialect: Dialect) -> tuple[str, ...]:
    """The scripts in their order; script n leads to version n."""
    folder = resources.files(__package__).joinpath(dialect, "migrations")
    names = sorted(item.name for item in folder.iterdir() if item.name.endswith(".sql"))
    for number, name in enumerate(names, 1):
        if not name.startswith(f"{number:04}_"):
            raise ValueError(f"migration {name} is not number {number}")
    return tuple(read(dialect, f"migrations/{name}") for name in names)


def version(connection: Connection) -> int:
    """The schema's version in this database; 0 if it has none of our tables. Only reads."""
    if not connection.execute(_SQL["tables"]).fetchone()[0]:
        return 0
    row = connection.execute(_SQL["version"]).fetchone()
    return 0 if row is None else int(row[0])


def check(connection: Connection, place: str) -> bool:
    """Whether the database needs migrating. Only reads.

    Raises:
        StorageVersionError: it was written by a newer Postroad; nothing is changed.
    """
    found, known = version(connection), known_version(connection.dialect)
    if found > known:
        raise newer(place, found, connection.dialect)
    return found < known


def recheck(connection: Connection, place: str) -> None:
    """Whether the tables of a database in use are still the ones we know: another process may have
    migrated it. To be called inside a transaction, before anything in it. Only reads.

    Raises:
        StorageVersionError: they are not; nothing is changed.
    """
    row = connection.execute(_SQL["version"]).fetchone()
    if row is not None and int(row[0]) != known_version(connection.dialect):
        raise newer(place, int(row[0]), connection.dialect)


def known_version(dialect: Dialect) -> int:
    """The version that this Postroad works with."""
    return len(migrations(dialect))


def newer(place: str, found: int, dialect: Dialect) -> StorageVersionError:
    """The error for tables of a version that this Postroad does not know."""
    known = known_version(dialect)
    return StorageVersionError(
        f"{place} has version {found} of Postroad's tables, this Postroad knows up to "
        f"{known}; upgrade Postroad, or name another database"
    )


def may_not_migrate(place: str, why: str) -> StoragePermissionError:
    """The error for a role that may use tables, and not make them."""
    return StoragePermissionError(
        f"{why}. Our tables in {place} are missing or of an older version, and this role may not "
        "make them: run `postroad migrate` with the URL of one that may (docs/databases.md)"
    )


def migrate(connection: Connection, place: str) -> None:
    """Bring our tables to the present version. To be called inside a write transaction: the
    version is read under its lock, so that of several processes one migrates and the others see
    that it is done. Tables that are not ours stay untouched.

    Raises:
        StorageVersionError: as in `check`; or consumers of the older version are at work.
    """
    if not check(connection, place):
        return
    _refuse_in_use(connection, place)
    for statement in pending(connection):
        connection.define(statement)


def pending(connection: Connection) -> list[str]:
    """What `migrate` would run: the statements from this database's version to the present one;
    after those of each version the one that notes it. Only reads."""
    found, dialect = version(connection), connection.dialect
    scripts = migrations(dialect)
    if found >= len(scripts):
        return []
    statements = [_SQL["create_meta"].text(dialect, "qmark").sql]
    for number, script in enumerate(scripts[found:], found + 1):
        statements += split(script)
        statements.append(_SQL["set_version"].text(dialect, "qmark").sql.replace("?", str(number)))
    return [connection.spelled(statement.strip()) for statement in statements]


def _refuse_in_use(connection: Connection, place: str) -> None:
    """Consumers of an older version would be cut off in the middle of their work. A publisher
    leaves no trace here; it finds out by `recheck`."""
    found = version(connection)
    if not found:
        return
    owners = connection.execute(_SQL["in_use"], (SystemClock().now_us(),)).fetchall()
    if owners:
        names = ", ".join(sorted({owner for (owner,) in owners}))
        known = len(migrations(connection.dialect))
        raise StorageVersionError(
            f"{place} has version {found} of Postroad's tables and is in use by consumers of an "
            f"older Postroad ({names}), this Postroad would bring it to {known}; stop "
            "them (a killed one counts until its lease is over), or name another database"
        )


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
