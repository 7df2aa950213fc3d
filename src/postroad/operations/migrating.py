"""Our tables in a database: of which version they are, and how they get to the present one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from postroad.errors import DeclarationError
from postroad.operations.loading import is_url, load_app
from postroad.storage.connection import Connection
from postroad.storage.migrations import known_version, newer, pending, version
from postroad.storage.opening import place_of
from postroad.storage.place import Place
from postroad.storage.sqlite.connection import SqlitePlace


@dataclass(frozen=True)
class Schema:
    """Our tables in one database.

    Attributes:
        database: what it is called; holds no secret.
        found: the version of the tables that are there; 0 is none.
        known: the version that this Postroad needs.
        statements: what leads from the one to the other; empty when nothing is to be done.
    """

    database: str
    found: int
    known: int
    statements: tuple[str, ...] = ()


def database_of(reference: str) -> str:
    """The URL of the database that a word on the command line means: itself, or an app's.

    Raises:
        DeclarationError: the app has no database.
    """
    if is_url(reference):
        return reference
    road = load_app(reference)
    if road.database_url is None:
        raise DeclarationError(
            f"{reference} is on {road.url} and names no database, so it has no tables of ours; "
            "name the database's own URL"
        )
    return road.database_url


def look(url: str) -> Schema:
    """Of which version the tables are. Changes nothing, and creates no file.

    Raises:
        StorageError: the database cannot be read, or its tables are of a newer Postroad.
    """
    place = place_of(url)
    known = known_version(place.dialect)
    if isinstance(place, SqlitePlace) and not place.path.exists():
        return Schema(place.name, 0, known)
    with _connected(place) as connection:
        found = version(connection)
        if found > known:
            raise newer(place.name, found, place.dialect)
        statements = _framed(place, pending(connection)) if found < known else []
        return Schema(place.name, found, known, tuple(statements))


def bring_up_to_date(url: str) -> Schema:
    """Create or migrate the tables; returns what was found before. Idempotent, and safe in several
    processes at once: one does it, the others wait and see that it is done. Where a statement of
    this kind is no transaction (MySQL, MariaDB), a run that was broken off is taken up again.

    Raises:
        StorageVersionError: of a newer Postroad, or in use by consumers of an older one.
        StoragePermissionError: the user of the URL may not make tables.
        StorageError: the database cannot be used.
    """
    before = look(url)
    place_of(url).prepare()
    return before


def _framed(place: Place, statements: list[str]) -> list[str]:
    """What a database administrator runs, as one transaction where there are such."""
    statements = [f"{statement.rstrip(';')};" for statement in statements]
    if place.dialect == "postgresql":
        schema: str = getattr(place, "schema", "")
        into = [f'CREATE SCHEMA IF NOT EXISTS "{schema}";', f'SET LOCAL search_path = "{schema}";']
        return ["BEGIN;", *(into if schema else []), *statements, "COMMIT;"]
    if place.dialect == "sqlite":
        return ["BEGIN IMMEDIATE;", *statements, "COMMIT;"]
    return statements


@contextmanager
def _connected(place: Place) -> Iterator[Connection]:
    connection = place.connect(read_only=True)
    try:
        yield connection
    except place.failure as error:
        raise place.mapped(error) from error
    finally:
        connection.close()
