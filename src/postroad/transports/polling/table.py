"""The statements over the user's own table. Names are quoted, values are bound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from postroad.errors import DeclarationError
from postroad.storage.connection import Connection
from postroad.storage.statements import Dialect, Statement, load
from postroad.transports.polling.source import PollingSource

_SQL = load("polling")
_TEXT: dict[Dialect, str] = {
    "sqlite": "CAST({} AS TEXT)",
    "postgresql": "CAST({} AS TEXT)",
    "mysql": "CAST({} AS CHAR CHARACTER SET utf8mb4) COLLATE utf8mb4_bin",
}
_LOCK: dict[Dialect, str] = {
    "sqlite": "",
    "postgresql": "FOR UPDATE",
    "mysql": "FOR UPDATE",
}
_NEVER = "4611686018427387904"
"""When a dead letter is due: 1 << 62."""


class Row(NamedTuple):
    """A row as it was read. `key_text` is what the database makes of its key."""

    key: Any
    key_text: str
    columns: dict[str, Any]


class State(NamedTuple):
    """A row that was claimed before, and how it stands now."""

    row: Row
    is_claimed: bool
    is_ready: bool


class Table:
    """One user's table in one dialect.

    Args:
        columns: all that the table has, by `columns_of`; with whether it is read as text.

    Raises:
        DeclarationError: a column that the source names is not there.
    """

    def __init__(
        self, source: PollingSource, dialect: Dialect, columns: Mapping[str, bool]
    ) -> None:
        self.source = source
        self._dialect = dialect
        self._quote = "`" if dialect == "mysql" else '"'
        self._table = ".".join(self._quoted(part) for part in source.table.split("."))
        self._key = f"{self._table}.{self._quoted(source.key)}"
        self._text = _TEXT[dialect].format(self._key)
        self._lock = _LOCK[dialect]
        self._claimed, self._claimed_values = self._condition(source.claim)
        self._where = f"({source.where}\n)"
        self._wheres = tuple(source.parameters)
        self._check(columns)
        self.payload = list(source.columns or columns)
        extra = [*source.claim, *([source.time] if source.time else [])]
        self._read = list(dict.fromkeys([*self.payload, *extra]))
        key = self._text if columns[source.key] else self._key
        self._keys = key
        texts = [_TEXT[dialect].format(f"{self._table}.{self._quoted(n)}") for n in self._read]
        values = [
            text if columns[name] else self._quoted(name)
            for name, text in zip(self._read, texts, strict=True)
        ]
        self._selected = ", ".join([key, self._text, *values])

    def _check(self, columns: Mapping[str, bool]) -> None:
        source = self.source
        named = [source.key, *source.claim, *source.done, *source.failed, *(source.columns or ())]
        named += [name for name in (source.order_by, source.time) if name is not None]
        missing = sorted(set(named) - set(columns))
        if missing:
            raise DeclarationError(
                f"{source}: the table has no column {', '.join(missing)}; it has "
                f"{', '.join(columns)}"
            )

    # ------------------------------------------------ looking

    def look(
        self, connection: Connection, topic: str, group: str, session: str, *, everything: bool
    ) -> tuple[int | None, bool]:
        """When the next of others' claims ends or a retry is due (None: there is none), and
        whether a row is ready that is not known of yet. One statement; without `everything` it
        leaves the table alone."""
        until = (
            "SELECT MIN(until_us) FROM postroad_polled WHERE topic = ? AND group_name = ? "
            f"AND until_us < {_NEVER} AND (session IS NULL OR session <> ?)"
        )
        place = (topic, group)
        if not everything:
            return self._run(connection, until, (*place, session)).fetchone()[0], False
        ready = f"EXISTS (SELECT 1 FROM {self._table} WHERE {self._fresh()})"
        sql = f"SELECT ({until}), CASE WHEN {ready} THEN 1 ELSE 0 END"
        values = (*place, session, *self._wheres, *place)
        until_us, found = self._run(connection, sql, values).fetchone()
        return until_us, bool(found)

    def count_ready(self, connection: Connection, topic: str, group: str) -> int:
        """How many such rows there are."""
        sql = f"SELECT COUNT(*) FROM {self._table} WHERE {self._fresh()}"
        found = self._run(connection, sql, (*self._wheres, topic, group)).fetchone()
        return int(found[0])

    def oldest(self, connection: Connection, topic: str, group: str) -> Any:
        """The smallest `time` of a row that is ready or claimed; None if there is none."""
        assert self.source.time is not None
        known = f"EXISTS ({self._known()})"
        sql = (
            f"SELECT MIN({self._quoted(self.source.time)}) FROM {self._table} "
            f"WHERE {self._where} OR ({self._claimed} AND {known})"
        )
        values = (*self._wheres, *self._claimed_values, topic, group)
        return self._run(connection, sql, values).fetchone()[0]

    # ------------------------------------------------ claiming

    def ready(self, connection: Connection, topic: str, group: str, limit: int) -> list[Row]:
        """Rows that are ready and not known of yet, locked until the transaction ends. What
        somebody else has locked is left out."""
        source = self.source
        order = f"{self._table}.{self._quoted(source.order_by or source.time or source.key)}"
        sql = (
            f"SELECT {self._selected} FROM {self._table} WHERE {self._fresh()} "
            f"ORDER BY {order} LIMIT ? {self._skipping()}"
        )
        found = self._run(connection, sql, (*self._wheres, topic, group, limit))
        return [self._row(values) for values in found.fetchall()]

    def again(self, connection: Connection, keys: Sequence[Any]) -> list[State]:
        """Rows that are known of, as they stand, locked. What somebody else has locked is left
        out, and so is what is gone."""
        sql = (
            f"SELECT CASE WHEN {self._claimed} THEN 1 ELSE 0 END, "
            f"CASE WHEN {self._where} THEN 1 ELSE 0 END, {self._selected} "
            f"FROM {self._table} WHERE {self._key} IN {_marks(keys)} {self._skipping()}"
        )
        values = (*self._claimed_values, *self._wheres, *keys)
        return [
            State(self._row(found[2:]), bool(found[0]), bool(found[1]))
            for found in self._run(connection, sql, values).fetchall()
        ]

    def existing(self, connection: Connection, keys: Sequence[Any]) -> set[Any]:
        """Which of these keys there are, locked or not."""
        sql = f"SELECT {self._keys} FROM {self._table} WHERE {self._key} IN {_marks(keys)}"
        return {key for (key,) in self._run(connection, sql, keys).fetchall()}

    def take(self, connection: Connection, keys: Sequence[Any]) -> None:
        """Mark rows as claimed."""
        self._set(connection, self.source.claim, keys)

    # ------------------------------------------------ settling

    def claimed(self, connection: Connection, keys: Sequence[Any]) -> set[Any]:
        """Which of these rows still stand as the claim left them; they are locked."""
        return self._standing(connection, keys, self._claimed, self._claimed_values)

    def failed(self, connection: Connection, keys: Sequence[Any]) -> set[Any]:
        """Which of these rows still stand as a reject left them; they are locked."""
        return self._standing(connection, keys, *self._condition(self.source.failed))

    def finish(self, connection: Connection, keys: Sequence[Any]) -> None:
        """Set rows to done."""
        self._set(connection, self.source.done, keys)

    def fail(self, connection: Connection, keys: Sequence[Any]) -> None:
        """Set rows to failed."""
        self._set(connection, self.source.failed, keys)

    def restore(self, connection: Connection, keys: Sequence[Any], values: Sequence[Any]) -> None:
        """Put back what the claim overwrote."""
        self._set(connection, dict(zip(self.source.claim, values, strict=True)), keys)

    # ------------------------------------------------ parts

    def _known(self) -> str:
        return (
            "SELECT 1 FROM postroad_polled WHERE postroad_polled.topic = ? "
            f"AND postroad_polled.group_name = ? AND postroad_polled.row_key = {self._text} "
            f"AND postroad_polled.until_us < {_NEVER}"
        )

    def _fresh(self) -> str:
        return f"{self._where} AND NOT EXISTS ({self._known()})"

    def _standing(
        self, connection: Connection, keys: Sequence[Any], condition: str, values: Sequence[Any]
    ) -> set[Any]:
        if not keys:
            return set()
        sql = (
            f"SELECT {self._keys} FROM {self._table} "
            f"WHERE {self._key} IN {_marks(keys)} AND {condition} {self._lock}"
        )
        return {key for (key,) in self._run(connection, sql, (*keys, *values)).fetchall()}

    def _set(self, connection: Connection, values: Mapping[str, Any], keys: Sequence[Any]) -> None:
        if not keys:
            return
        assignments = ", ".join(f"{self._quoted(name)} = ?" for name in values)
        sql = f"UPDATE {self._table} SET {assignments} WHERE {self._key} IN {_marks(keys)}"
        self._run(connection, sql, (*values.values(), *keys))

    def _condition(self, values: Mapping[str, Any]) -> tuple[str, tuple[Any, ...]]:
        """That columns have these values."""
        parts = [
            f"{self._quoted(name)} IS NULL" if value is None else f"{self._quoted(name)} = ?"
            for name, value in values.items()
        ]
        bound = tuple(value for value in values.values() if value is not None)
        return f"({' AND '.join(parts)})", bound

    def _row(self, values: Sequence[Any]) -> Row:
        return Row(values[0], values[1], dict(zip(self._read, values[2:], strict=True)))

    def _skipping(self) -> str:
        return f"{self._lock} SKIP LOCKED" if self._lock else ""

    def _quoted(self, name: str) -> str:
        return quoted(name, self._quote)

    def _run(self, connection: Connection, sql: str, values: Sequence[Any]) -> Any:
        return connection.execute(_statement(self._dialect, sql), values)


def quoted(name: str, quote: str) -> str:
    """A name as an SQL identifier."""
    return f"{quote}{name.replace(quote, quote * 2)}{quote}"


def columns_of(connection: Connection, source: PollingSource) -> dict[str, bool]:
    """The columns of the source's table; with whether a column has to be read as text.

    Raises:
        DeclarationError: there is no such table.
    """
    schema, _, name = source.table.rpartition(".")
    found = connection.execute(_SQL["columns"], (name, schema or None)).fetchall()
    columns = {str(column): bool(as_text) for column, as_text in found}
    if not columns:
        raise DeclarationError(
            f"{source}: there is no such table in the database, or this role may not see it; "
            "names are quoted, so they are written as the database has them"
        )
    return columns


def _marks(keys: Sequence[Any]) -> str:
    return f"({', '.join('?' * len(keys))})"


@lru_cache(maxsize=1024)
def _statement(dialect: Dialect, sql: str) -> Statement:
    return Statement("polling", {dialect: sql})
