"""SQL on an outbox table. Its names are its owner's, so that it is put together here, with every
name quoted; what is not a name is a parameter."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, cached_property
from typing import Any, NamedTuple

from postroad.delivery.outbox.table import OutboxTable
from postroad.storage.identifiers import quoted
from postroad.storage.statements import DIALECTS, Dialect, Statement

NEWS = "postroad.outbox"
"""What is notified when something was added: a word that no topic of an application's has."""
_CHANNEL = "postroad"
_CUTOFF: dict[Dialect, str] = {
    "sqlite": "datetime('now', '-' || ? || ' seconds')",
    "postgresql": "CURRENT_TIMESTAMP - CAST(? AS bigint) * INTERVAL '1 second'",
    "mysql": "CURRENT_TIMESTAMP(6) - INTERVAL ? SECOND",
}
_TEXT: dict[Dialect, str] = {"sqlite": "TEXT", "postgresql": "text", "mysql": "CHAR"}
_NAME_OF_NOW: dict[Dialect, str] = {
    "sqlite": "CURRENT_TIMESTAMP",
    "postgresql": "CURRENT_TIMESTAMP",
    "mysql": "CURRENT_TIMESTAMP(6)",
}


class Reading(NamedTuple):
    """How rows are read: after a number, of some slices only, and with some parked."""

    after: bool
    some: bool
    parked: bool


class Sql:
    """The statements on one table, in every dialect."""

    def __init__(self, table: OutboxTable) -> None:
        self.table = table

    @cached_property
    def insert(self) -> Statement:
        """(id unless generated, aggregate_type, aggregate_id, type, payload, then those of source,
        headers, slice and created_at that the table has and that are not the database's).

        On PostgreSQL it notifies relays with the caller's commit, in the same round trip.
        """
        return self._made("insert", self._insert)

    def _insert(self, dialect: Dialect) -> str:
        t, name = self.table, self._name(dialect)
        columns = [t.aggregate_type, t.aggregate_id, t.type, t.payload]
        values = ["?", "?", "?", self._payload_in(dialect)]
        if not t.generated_id:
            columns.insert(0, t.id)
            values.insert(0, "?")
        given = [column for column in (t.source, t.headers, t.slice) if column is not None]
        columns += [*given, t.created_at]
        values += ["?"] * len(given)
        values.append("?" if t.instants == "microseconds" else _NAME_OF_NOW[dialect])
        if t.processed is not None:
            columns.append(t.processed)
            values.append("FALSE")
        listed = ", ".join(name(column) for column in columns)
        head = f"INSERT INTO {self._from(dialect)} ({listed})"
        if dialect == "postgresql":
            # In the same round trip, and with no row to bring back.
            return f"{head} SELECT {', '.join(values)} FROM pg_notify('{_CHANNEL}', '{NEWS}')"
        return f"{head} VALUES ({', '.join(values)})"

    def _payload_in(self, dialect: Dialect) -> str:
        is_json = dialect == "postgresql" and self.table.payload_as == "json"
        return "CAST(CAST(? AS text) AS json)" if is_json else "?"

    def read(self, how: Reading) -> Statement:
        """(limit, number if `after`, the table's name if `parked`, slices (a list) if `some`) →
        row_id, id, aggregate_type, aggregate_id, type, payload, created_at, source, headers."""
        return _read(self, how)

    def reading(self, how: Reading) -> Callable[[Dialect], str]:
        """The text of `read`."""
        t = self.table

        def text(dialect: Dialect) -> str:
            name = self._name(dialect)
            where = [self._pending(dialect)]
            outbox = "?3" if how.after else "?2"
            if how.after and t.number is not None:
                where.append(f"{name(t.number)} > ?2")
            if how.some and t.slice is not None:
                where.append(f"{name(t.slice)} IN (?*)")
            if how.parked:
                row = f"CAST({self._from(dialect)}.{name(t.number or t.id)} AS {_TEXT[dialect]})"
                where.append(
                    "NOT EXISTS (SELECT 1 FROM postroad_outbox_parked p "
                    f"WHERE p.outbox = {outbox} AND p.row_id = {row})"
                )
            return (
                f"SELECT {self._columns(dialect)} FROM {self._from(dialect)} "
                f"WHERE {' AND '.join(where)} ORDER BY {self._order(dialect)} LIMIT ?1"
            )

        return text

    @cached_property
    def mark(self) -> Statement:
        """([now in microseconds,] row ids (a list)): those of them that were not yet."""
        t = self.table

        def text(dialect: Dialect) -> str:
            name = self._name(dialect)
            now = "?1" if t.instants == "microseconds" else _NAME_OF_NOW[dialect]
            changes = [] if t.processed_at is None else [f"{name(t.processed_at)} = {now}"]
            if t.processed is not None:
                changes.append(f"{name(t.processed)} = TRUE")
            return (
                f"UPDATE {self._from(dialect)} SET {', '.join(changes)} "
                f"WHERE {name(t.number or t.id)} IN (?*) AND {self._pending(dialect)}"
            )

        return self._made("mark", text)

    @property
    def mark_takes_now(self) -> bool:
        """Whether `mark` begins with a parameter for now."""
        return self.table.instants == "microseconds" and self.table.processed_at is not None

    @cached_property
    def old(self) -> Statement:
        """Rows that may be due for deletion, in their order. With numbers: (number, limit) → row
        id, processed_at, whatever became of them. Without: (seconds, limit) → row id."""
        t = self.table

        def text(dialect: Dialect) -> str:
            name = self._name(dialect)
            if t.number is not None:
                number, at = name(t.number), name(t.processed_at or t.created_at)
                done = f"CASE WHEN {self._pending(dialect)} THEN NULL ELSE {at} END"
                return (
                    f"SELECT {number}, {done} FROM {self._from(dialect)} "
                    f"WHERE {number} > ? ORDER BY {number} LIMIT ?"
                )
            at = name(t.processed_at or t.created_at)
            return (
                f"SELECT {name(t.id)} FROM {self._from(dialect)} WHERE {self._done(dialect)} "
                f"AND {at} < {_CUTOFF[dialect]} ORDER BY {name(t.created_at)} LIMIT ?"
            )

        return self._made("old", text)

    @cached_property
    def delete(self) -> Statement:
        """(row ids (a list)): those of them that were published."""

        def text(dialect: Dialect) -> str:
            row = self._name(dialect)(self.table.number or self.table.id)
            return f"DELETE FROM {self._from(dialect)} WHERE {row} IN (?*)"

        return self._made("delete", text)

    @cached_property
    def depth(self) -> Statement:
        """() → rows that wait, when the oldest of them was added."""

        def text(dialect: Dialect) -> str:
            at = self._name(dialect)(self.table.created_at)
            return (
                f"SELECT count(*), min({at}) FROM {self._from(dialect)} "
                f"WHERE {self._pending(dialect)}"
            )

        return self._made("depth", text)

    # ------------------------------------------------ parts

    def _made(self, name: str, text: Callable[[Dialect], str]) -> Statement:
        return Statement(f"outbox_{name}", {dialect: text(dialect) for dialect in DIALECTS})

    def _name(self, dialect: Dialect) -> Callable[[str], str]:
        return lambda name: quoted(dialect, name)

    def _from(self, dialect: Dialect) -> str:
        return ".".join(quoted(dialect, part) for part in self.table.name.split("."))

    def _pending(self, dialect: Dialect) -> str:
        t, name = self.table, self._name(dialect)
        if t.processed is not None:
            return f"{name(t.processed)} = FALSE"
        return f"{name(t.processed_at or '')} IS NULL"

    def _done(self, dialect: Dialect) -> str:
        t, name = self.table, self._name(dialect)
        if t.processed is not None:
            return f"{name(t.processed)} = TRUE"
        return f"{name(t.processed_at or '')} IS NOT NULL"

    def _order(self, dialect: Dialect) -> str:
        t, name = self.table, self._name(dialect)
        return name(t.number) if t.number is not None else f"{name(t.created_at)}, {name(t.id)}"

    def _columns(self, dialect: Dialect) -> str:
        t, name = self.table, self._name(dialect)
        payload = name(t.payload)
        if dialect == "postgresql" and t.payload_as == "json":
            payload = f"CAST({payload} AS text)"
        found = [name(t.number or t.id), name(t.id), name(t.aggregate_type), name(t.aggregate_id)]
        found += [name(t.type), payload, name(t.created_at)]
        found += ["NULL" if column is None else name(column) for column in (t.source, t.headers)]
        return ", ".join(found)


@cache
def _read(sql: Sql, how: Reading) -> Statement:
    return sql._made("read", sql.reading(how))


@cache
def sql_of(table: OutboxTable) -> Sql:
    """The statements on a table, made once."""
    return Sql(table)


def lists(values: list[Any], size: int) -> list[list[Any]]:
    """Parts of a list for `IN`, of a few sizes only, so that the database meets the same few
    statements again and again: the last part repeats its last value."""
    parts = []
    for start in range(0, len(values), size):
        part = values[start : start + size]
        wanted = 1
        while wanted < len(part):
            wanted *= 4
        parts.append(part + [part[-1]] * (min(wanted, size) - len(part)))
    return parts
