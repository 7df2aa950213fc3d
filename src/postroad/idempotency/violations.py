"""Which unique constraint a driver's error is about, in each database's own way of saying it."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import NamedTuple

from postroad.idempotency.steps import Steps
from postroad.storage.joining import causes
from postroad.storage.statements import Statement

_MYSQL_DUPLICATE = 1062
_MYSQL_NAME = re.compile(r"for key '([^']+)'\s*$")
_SQLITE = re.compile(r"^UNIQUE constraint failed: (?:index '(?P<index>.+)'|(?P<columns>.+))$")

_INDEXES = Statement(
    "unique_indexes",
    {
        "sqlite": (
            "SELECT l.name, i.name FROM pragma_index_list(?) l, pragma_index_info(l.name) i "
            'WHERE l."unique" = 1 ORDER BY l.name, i.seqno'
        )
    },
)
_TABLE = Statement(
    "table_text", {"sqlite": "SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?"}
)
_NAME = r"""(?:"{0}"|`{0}`|\[{0}\]|{0})"""


class Violation(NamedTuple):
    """A unique constraint that was violated: its name, or on SQLite `table.column, …`, which is
    all that is said there."""

    name: str
    columns: bool = False


def violation(error: BaseException | None) -> Violation | None:
    """The violation that an error is about, also one that SQLAlchemy or Django wraps; else None."""
    for one in causes(error):
        found = _of_postgresql(one) or _of_mysql(one) or _of_sqlite(one)
        if found is not None:
            return found
    return None


def _of_postgresql(error: BaseException) -> Violation | None:
    if getattr(error, "sqlstate", None) != "23505":
        return None
    name = getattr(error, "constraint_name", None)  # asyncpg's
    if name is None:
        name = getattr(getattr(error, "diag", None), "constraint_name", None)  # psycopg's
    return None if name is None else Violation(name)


def _of_mysql(error: BaseException) -> Violation | None:
    if len(error.args) != 2 or error.args[0] != _MYSQL_DUPLICATE:
        return None
    found = _MYSQL_NAME.search(str(error.args[1]))
    # MySQL says `payments.reference`, MariaDB `reference`.
    return None if found is None else Violation(found[1].rpartition(".")[2])


def _of_sqlite(error: BaseException) -> Violation | None:
    found = _SQLITE.match(str(error))
    if found is None:
        return None
    return Violation(found["index"]) if found["index"] else Violation(found["columns"], True)


def is_one_of(found: Violation, names: Collection[str]) -> Steps[bool]:
    """Whether a violation is that of a constraint with one of the names. On SQLite, where only
    the columns are known, a program that looks which constraints have them."""
    if found.name in names:
        return True
    if not found.columns:
        return False
    parts = [part.rpartition(".") for part in found.name.split(", ")]
    table, columns = parts[0][0], [column for _, _, column in parts]
    indexes: dict[str, list[str]] = {}
    for index, column in (yield _INDEXES, (table,)).rows:
        indexes.setdefault(index, []).append(column)
    if any(name in names for name, its in indexes.items() if its == columns):
        return True
    text = (yield _TABLE, (table,)).rows
    return bool(text) and any(_declares(text[0][0], name, columns) for name in names)


def _declares(table: str, name: str, columns: list[str]) -> bool:
    """Whether the text of a table has a constraint of this name over these columns."""
    found = re.search(
        rf"\bCONSTRAINT\s+{_NAME.format(re.escape(name))}\s+(?:UNIQUE|PRIMARY\s+KEY)\s*\(([^)]*)\)",
        table,
        re.IGNORECASE,
    )
    if found is None:
        return False
    return [part.strip().strip('"`[]').casefold() for part in found[1].split(",")] == [
        column.casefold() for column in columns
    ]
