"""Named SQL from package files: SQL stays SQL, Python only names it.

A file holds blocks that begin with `-- name: claim_insert`; the statement is what follows, up to
the next name. What every dialect understands is in `common/`; a dialect's own folder holds a file
of the same name with the statements that it has to say differently. Parameters are written `?`, in
turn, or `?1`, `?2`, … where one is used twice, or `(?*)`, a list whose length is told later; each
driver gets them as it wants them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeAlias

Dialect: TypeAlias = Literal["sqlite", "postgresql", "mysql"]
Style: TypeAlias = Literal["qmark", "dollar", "format", "named"]
"""How a driver writes parameters: `?1`, `$1`, `%s` or `:p1`."""

DIALECTS: tuple[Dialect, ...] = ("sqlite", "postgresql", "mysql")
NATIVE: MappingProxyType[Dialect, Style] = MappingProxyType(
    {"sqlite": "qmark", "postgresql": "dollar", "mysql": "format"}
)
"""The style of our own connections."""

_NAME = re.compile(r"^-- name: (\w+)[ \t]*$", re.MULTILINE)
_PARAMETER = re.compile(r"""'[^']*'|"[^"]*"|`[^`]*`|--[^\n]*|\?(\d*)""")


class Text(NamedTuple):
    """A statement for one driver. `order` is what its parameters are taken from, where that is not
    one after the other: indices into those that the statement was written with."""

    sql: str
    order: tuple[int, ...] | None = None

    def arranged(self, parameters: Sequence[Any]) -> Sequence[Any]:
        """The parameters as this text takes them."""
        return parameters if self.order is None else [parameters[i] for i in self.order]


class Statement:
    """One statement by its name, in every dialect that has it."""

    __slots__ = ("_many", "_styled", "_written", "mysql", "name", "postgresql", "sqlite")

    def __init__(self, name: str, written: dict[Dialect, str]) -> None:
        self.name = name
        self._written = written
        self._many: dict[int, Statement] = {}
        self._styled: dict[tuple[Dialect, Style], Text] = {}
        self.sqlite = written.get("sqlite", "")
        self.postgresql = self._native("postgresql").sql
        self.mysql = self._native("mysql")

    def text(self, dialect: Dialect, style: Style) -> Text:
        """The statement in one dialect, with parameters in one style.

        Raises:
            ValueError: the dialect has no such statement.
        """
        found = self._styled.get((dialect, style))
        if found is None:
            if dialect not in self._written:
                raise ValueError(f"{dialect} has no statement {self.name!r}")
            found = styled(self._written[dialect], style)
            self._styled[dialect, style] = found
        return found

    def many(self, number: int) -> Statement:
        """The statement with its list, written `(?*)`, of so many parameters: those after the
        numbered ones. Written twice, it is the same list."""
        found = self._many.get(number)
        if found is None:
            written = {d: _with_list(sql, number) for d, sql in self._written.items()}
            found = self._many[number] = Statement(self.name, written)
        return found

    def _native(self, dialect: Dialect) -> Text:
        return self.text(dialect, NATIVE[dialect]) if dialect in self._written else Text("")

    def __repr__(self) -> str:
        return f"<Statement {self.name}>"


def _with_list(sql: str, number: int) -> str:
    first = max(map(int, re.findall(r"\?(\d+)", sql)), default=0) + 1
    marks = ", ".join(f"?{n}" for n in range(first, first + number))
    return sql.replace("(?*)", f"({marks})")


def styled(sql: str, style: Style) -> Text:
    """A statement as written in our files, with its parameters in a driver's style."""
    if style == "qmark":
        return Text(sql)
    if style == "format":
        sql = sql.replace("%", "%%")
    order: list[int] = []

    def parameter(found: re.Match[str]) -> str:
        if not found[0].startswith("?"):
            return found[0]  # a literal, a quoted name or a comment
        order.append(int(found[1]) - 1 if found[1] else len(order))
        if style == "format":
            return "%s"
        return f"${order[-1] + 1}" if style == "dollar" else f":p{order[-1] + 1}"

    text = _PARAMETER.sub(parameter, sql)
    if style != "format" or order == list(range(len(order))):
        return Text(text)
    return Text(text, tuple(order))


@cache
def load(subject: str) -> MappingProxyType[str, Statement]:
    """The statements of one subject, by name.

    Raises:
        ValueError: a name occurs twice in a file, or the file begins with SQL that has none.
    """
    common = _parsed("common", subject)
    own = {dialect: common | _parsed(dialect, subject) for dialect in DIALECTS}
    names = dict.fromkeys(name for found in own.values() for name in found)
    return MappingProxyType(
        {
            name: Statement(name, {d: own[d][name] for d in DIALECTS if name in own[d]})
            for name in names
        }
    )


def _parsed(folder: str, subject: str) -> dict[str, str]:
    try:
        return parse(read(folder, f"{subject}.sql"))
    except FileNotFoundError:
        return {}


def read(folder: str, path: str) -> str:
    """The text of a package file below a folder: a dialect's, or `common`."""
    return resources.files(__package__).joinpath(folder, path).read_text("utf-8")


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
