"""Named SQL from package files: SQL stays SQL, Python only names it.

A file holds blocks that begin with `-- name: claim_insert`; the statement is what follows, up to
the next name. Each dialect has a folder of the same files with the same names.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from types import MappingProxyType

_NAME = re.compile(r"^-- name: (\w+)[ \t]*$", re.MULTILINE)


@cache
def load(dialect: str, subject: str) -> MappingProxyType[str, str]:
    """The statements of one file, by name.

    Raises:
        ValueError: a name occurs twice, or the file begins with SQL that has none.
    """
    return MappingProxyType(parse(read(dialect, f"{subject}.sql")))


def read(dialect: str, path: str) -> str:
    """The text of a package file below the dialect's folder."""
    return resources.files(__package__).joinpath(dialect, path).read_text("utf-8")


def parse(text: str) -> dict[str, str]:
    """Split a file's text into its named statements. Raises as `load` does."""
    before, *parts = _NAME.split(text)
    if any(line.strip() and not line.startswith("--") for line in before.splitlines()):
        raise ValueError("SQL before the first '-- name: …' line")
    found: dict[str, str] = {}
    for name, body in zip(parts[::2], parts[1::2], strict=True):
        if name in found:
            raise ValueError(f"statement {name!r} occurs twice")
        found[name] = body.strip().rstrip(";")
    return found
