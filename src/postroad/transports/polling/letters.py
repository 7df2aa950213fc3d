"""Dead letters of a polled table: the row is set to failed, the letter is kept beside it."""

from __future__ import annotations

from collections.abc import Sequence

from postroad.core.reports import DeadLetter
from postroad.storage.connection import Connection
from postroad.storage.statements import load
from postroad.transports.polling.rows import failures_of, whole_message
from postroad.transports.polling.settling import Held, restore
from postroad.transports.polling.table import Table

_SQL = load("polling")


def listed(connection: Connection, topic: str, group: str | None, limit: int) -> list[DeadLetter]:
    """The oldest ones, in the order in which their rows were first claimed."""
    rows = connection.execute(_SQL["dead"], (topic,)).fetchall()
    return [
        DeadLetter(
            id=str(number),
            message=whole_message(message),
            topic=topic,
            group=name,
            position=None,
            failures=failures_of(failures),
            died_us=int(died_us),
        )
        for number, name, failures, died_us, message in rows
        if group in (None, name)
    ][:limit]


def redrive(
    connection: Connection, table: Table, topic: str, ids: Sequence[str], now_us: int
) -> int:
    """Make their rows ready again, attempts reset. One whose row somebody has changed since stays
    a dead letter; returns how many others there were."""
    held = _found(connection, topic, ids)
    standing = table.failed(connection, [one.key for one in held])
    ours = [one for one in held if one.key in standing]
    restore(connection, table, ours)
    if ours:
        connection.executemany(_SQL["revive"], [(now_us, one.number) for one in ours])
    return len(ours)


def discard(connection: Connection, topic: str, ids: Sequence[str]) -> int:
    """Forget them; their rows stay failed. Returns how many there were."""
    numbers = [one.number for one in _found(connection, topic, ids)]
    if numbers:
        connection.execute(_SQL["forget"].many(len(numbers)), numbers)
    return len(numbers)


def _found(connection: Connection, topic: str, ids: Sequence[str]) -> list[Held]:
    numbers = sorted({int(one) for one in ids if one.isdecimal() and len(one) < 19})
    if not numbers:
        return []
    rows = connection.execute(_SQL["dead_held"].many(len(numbers)), (topic, *numbers)).fetchall()
    return [Held(*row) for row in rows]
