"""Conditional updates: a change that is made only to the row that it was decided for.

`UPDATE … WHERE id = ? AND version = ?`, with quoted identifiers and bound values, in the caller's
own open transaction. The condition is part of the statement, so that of any number that run at
once one changes the row and the others change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any, TypeAlias

from postroad.errors import DeclarationError
from postroad.idempotency.steps import Steps, run
from postroad.storage.identifiers import quoted
from postroad.storage.statements import DIALECTS, Statement

Table: TypeAlias = str | tuple[str, ...]
"""A table's name, or (schema, name)."""


@dataclass(frozen=True)
class Plus:
    """In place of a value: what is there, and so much more (or less)."""

    amount: int | float | Decimal


def by_version(
    connection: Any,
    table: Table,
    changes: Mapping[str, Any],
    *,
    where: Mapping[str, Any],
    version: int,
    column: str = "version",
) -> Any:
    """Change the row if it still has the version that the decision was made on; its version grows
    by one. Whether it was changed: `await` it where the connection is asynchronous.

    A repetition finds another version and changes nothing. So does whoever decided on an older
    state: read the row again and decide again, or leave it.

    Args:
        connection: the caller's, with a transaction open.
        table: a name, or (schema, name).
        changes: column → value, or `Plus`.
        where: column → value; it names one row.
        version: the version that was read, or that a message carries.
        column: the column of the version.
    """
    if column in changes:
        raise DeclarationError(f"{column!r} is the guard and grows by itself; leave it out")
    guarded = {**changes, column: Plus(1)}
    return run(connection, _update(table, guarded, {**where, column: version}))


def by_state(
    connection: Any,
    table: Table,
    changes: Mapping[str, Any],
    *,
    where: Mapping[str, Any],
    state: Mapping[str, Any],
) -> Any:
    """Change the row if it is still in the state that the change starts from. Whether it was
    changed: `await` it where the connection is asynchronous.

    Args:
        connection: the caller's, with a transaction open.
        table: a name, or (schema, name).
        changes: column → value, or `Plus`.
        where: column → value; it names one row.
        state: column → the value that it must have now. At least one of them is changed to
            another value, or a repetition would not be told from the first time.

    Raises:
        DeclarationError: the change would leave the row in the state that it starts from.
    """
    if not any(
        column in changes and _leaves(changes[column], was) for column, was in state.items()
    ):
        columns = ", ".join(state) or "nothing"
        raise DeclarationError(
            f"the guard ({columns}) is left as it was, so that the change would be made again and "
            "again; change a column of the guard to another value, or use by_version"
        )
    return run(connection, _update(table, changes, {**where, **state}))


def _leaves(value: Any, was: Any) -> bool:
    return bool(value.amount) if isinstance(value, Plus) else value != was


def _update(table: Table, changes: Mapping[str, Any], where: Mapping[str, Any]) -> Steps[bool]:
    statement = _statement(
        (table,) if isinstance(table, str) else tuple(table),
        tuple((column, isinstance(value, Plus)) for column, value in changes.items()),
        tuple((column, value is None) for column, value in where.items()),
    )
    values = [v.amount if isinstance(v, Plus) else v for v in changes.values()]
    values += [value for value in where.values() if value is not None]
    result = yield statement, values
    return result.rowcount > 0


@lru_cache(maxsize=256)
def _statement(
    table: tuple[str, ...],
    changes: tuple[tuple[str, bool], ...],
    where: tuple[tuple[str, bool], ...],
) -> Statement:
    texts = {}
    for dialect in DIALECTS:
        name = ".".join(quoted(dialect, part) for part in table)
        to, keep = [], []
        for column, adds in changes:
            own = quoted(dialect, column)
            to.append(f"{own} = {own} + ?" if adds else f"{own} = ?")
        for column, is_null in where:
            keep.append(f"{quoted(dialect, column)} {'IS NULL' if is_null else '= ?'}")
        texts[dialect] = f"UPDATE {name} SET {', '.join(to)} WHERE {' AND '.join(keep)}"
    return Statement("guarded_update", texts)
