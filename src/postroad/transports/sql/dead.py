"""Dead letters: whole copies of messages that a group gave up."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from postroad.core.delivery import Position
from postroad.core.pattern import matches
from postroad.core.reports import DeadLetter
from postroad.storage.connection import Connection
from postroad.storage.statements import load
from postroad.transports.sql import groups
from postroad.transports.sql.lines import due_behind
from postroad.transports.sql.rows import Origin, Origins, Row, exposed, failures_of, message_of

_SQL = load("reports")
_NEXT_IN_LINE = load("retries")["next_in_line"]
_DUE = 0
"""At once, on any clock: one that is set back must not hold up what was redriven."""


def rows(
    connection: Connection, origins: Origins, topic: str, group: str | None, limit: int
) -> list[Row]:
    """The oldest dead letters that fit, in the order of the log."""
    found: list[Row] = []
    cursor = connection.execute(_SQL["dead_letters"])
    while len(found) < limit and (some := cursor.fetchmany(200)):
        for row in some:
            fits = row[1] == topic or matches(topic, row[1])
            if fits and group in (None, row[2]) and len(found) < limit:
                found.append(row)
    origins.learn(connection, found)
    return found


def letter(row: Row, origins: Mapping[int, Origin]) -> DeadLetter:
    """The dead letter of a row."""
    number, topic, group, partition, priority, offset, died_us, failures = row[:8]
    return DeadLetter(
        id=str(number),
        message=message_of(row, origins[row[-7]], priority),
        topic=topic,
        group=group,
        position=str(Position(partition, exposed(offset, priority))),
        failures=failures_of(failures),
        died_us=died_us,
    )


def redrive(connection: Connection, ids: Sequence[str]) -> int:
    """Let them go out again, as if they had never failed, and behind each what its lane parked
    meanwhile; how many there were."""
    return _each(connection, ids, None)


def discard(connection: Connection, ids: Sequence[str]) -> int:
    """Drop them, counted as discarded, and let go what their lanes parked behind them; how many
    there were."""
    return _each(connection, ids, "discarded")


def _each(connection: Connection, ids: Sequence[str], outcome: str | None) -> int:
    number = 0
    letters = dict.fromkeys(map(_number, ids))
    _lock_groups(connection, letters)
    for letter in letters:
        row = connection.execute(_SQL["dead_group"], (letter,)).fetchone()
        if row is None:
            continue
        group, stream, lane, offset = row
        if outcome is None:
            due = due_behind(connection, group, stream, lane, offset, _DUE)
            connection.execute(_SQL["redrive"], (due, letter))
        else:
            groups.count(connection, group, outcome, 1)
        connection.execute(_SQL["dead_delete"], (letter,))
        if lane is not None:
            connection.execute(_NEXT_IN_LINE, (group, stream, lane))
        groups.count(connection, group, "dead", -1)
        number += 1
    if number:
        connection.announce("")
    return number


def _lock_groups(connection: Connection, letters: Collection[int]) -> None:
    """Keep their groups from claiming and settling meanwhile."""
    if not letters:
        return
    found = connection.execute(_SQL["dead_groups"].many(len(letters)), list(letters)).fetchall()
    for (name,) in sorted(found):
        connection.lock(groups.scope(name))


def _number(id_: str) -> int:
    """The row that an id names; one that can be none names none."""
    return int(id_) if id_.isdigit() and len(id_) < 19 else -1
