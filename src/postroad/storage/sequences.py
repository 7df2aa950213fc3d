"""How far groups have come with numbered messages, and which number a key's next one gets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b

from postroad.core.sequence import Change, LineId, Marked, Standing
from postroad.storage.connection import Connection
from postroad.storage.statements import load

_SQL = load("sequences")
_READ, _ADVANCE = _SQL["sequences"], _SQL["sequence_advance"]
_MARK, _UNMARK = _SQL["sequence_mark"], _SQL["sequence_unmark"]
_TAKE, _NUMBER = _SQL["sequence_number_take"], _SQL["sequence_number"]
_AT_ONCE = 16
"""How many lines one statement reads."""


def read(connection: Connection, group: str, lines: Iterable[LineId]) -> dict[LineId, Standing]:
    """Where the group stands with these; those that it has not begun are left out."""
    names = {_digest(group, line): line for line in lines}
    found: dict[LineId, Standing] = {}
    marks: dict[LineId, list[Marked]] = {}
    ordered = list(names)
    for start in range(0, len(ordered), _AT_ONCE):
        asked = ordered[start : start + _AT_ONCE]
        asked += [""] * (_AT_ONCE - len(asked))
        for name, first, after, low, high, mark, tag in connection.execute(_READ, asked).fetchall():
            line = names[name]
            found.setdefault(line, Standing(first, after))
            if low is not None:
                marks.setdefault(line, []).append(Marked(low, high, mark, tag))
    for line, some in marks.items():
        found[line].marks = tuple(sorted(some))
    return found


def write(connection: Connection, group: str, changes: Sequence[Change]) -> None:
    """Note where the group stands now; a line of which more is known already stays there."""
    rows, marked, removed = [], [], []
    for change in changes:
        line, name = change.line, _digest(group, change.line)
        rows.append((name, group, line.topic, line.key, line.epoch, change.first, change.next))
        removed += [(name, first) for first in change.removed]
        marked += [(name, one.first, one.last, one.mark, one.tag) for one in change.marked]
    # In one order in every process, so that nobody waits in a circle.
    connection.executemany(_ADVANCE, sorted(rows))
    if removed:
        connection.executemany(_UNMARK, sorted(removed))
    if marked:
        connection.executemany(_MARK, sorted(marked))


def forget(connection: Connection, group: str, topic: str) -> None:
    """The group begins anew with every key of the topic."""
    connection.execute(_SQL["sequence_forget_marks"], (group, topic))
    connection.execute(_SQL["sequence_forget"], (group, topic))


def take_number(connection: Connection, line: LineId) -> int:
    """The next number of a key, beginning with 1. Until the transaction ends nobody else gets
    one of this key, so numbers commit in order and none is lost with a rollback."""
    name = _digest("", line)
    connection.execute(_TAKE, (name, line.topic, line.key, line.epoch))
    return int(connection.execute(_NUMBER, (name,)).fetchone()[0])


def _digest(group: str, line: LineId) -> str:
    """A name of one length for names of any: no index takes a key of a megabyte."""
    parts = [f"{len(part)}:{part}" for part in (group, line.topic, line.epoch)]
    return blake2b("".join([*parts, line.key]).encode(), digest_size=16).hexdigest()
