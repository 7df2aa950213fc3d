"""Names of tables and columns that users give, as SQL text: quoted, never just put in."""

from __future__ import annotations

from postroad.errors import DeclarationError
from postroad.storage.statements import Dialect


def quoted(dialect: Dialect, name: str) -> str:
    """One identifier: a table, a column or a schema, not a dotted path.

    On SQLite it is quoted as MySQL does it: what stands between double quotes and is no column
    would be taken for a text there, and a misspelled condition would be false without a word.

    Raises:
        DeclarationError: no database has such a name.
    """
    if not name or "\0" in name:
        raise DeclarationError(f"{name!r} is no name of a table or column")
    mark = '"' if dialect == "postgresql" else "`"
    return mark + name.replace(mark, mark * 2) + mark
