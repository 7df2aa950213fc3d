"""Rows that can never be published: left alone, reported, and let go again when told to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from postroad.delivery.outbox.rows import Record
from postroad.errors import (
    DeclarationError,
    NotFoundError,
    NotSupportedError,
    PayloadError,
    PostroadError,
)
from postroad.storage.connection import Connection
from postroad.storage.statements import load

_SQL = load("outbox")
_LONGEST = 500
"""Characters of a reason that are kept."""


class Parked(msgspec.Struct, frozen=True):
    """A row that no relay touches.

    Attributes:
        key: the aggregate's id, empty for none.
        poison: it is the trouble itself; else it waits behind one of its aggregate.
        reason: a short, stable word.
        detail: a sentence.
        parked_us: since when, in microseconds since the epoch.
    """

    row: str
    message_id: str
    topic: str
    key: str
    poison: bool
    reason: str
    detail: str
    parked_us: int


def reason_of(error: BaseException) -> str | None:
    """Why this can never be published, in a word; None if it may be worth another try."""
    if isinstance(error, PayloadError):
        return error.reason
    if isinstance(error, DeclarationError | NotFoundError | NotSupportedError):
        return "refused"
    return None


def detail_of(error: BaseException) -> str:
    """The error in a sentence. Of one that is not ours only the kind: its text may hold a
    payload."""
    if not isinstance(error, PostroadError):
        return type(error).__name__
    return str(error).splitlines()[0][:_LONGEST] if str(error) else type(error).__name__


def park(connection: Connection, outbox: str, rows: Iterable[Parked]) -> None:
    """Leave these rows alone from now on. Idempotent."""
    for row in rows:
        values = (row.row, row.message_id, row.topic, row.key, int(row.poison))
        connection.execute(_SQL["park"], (outbox, *values, row.reason, row.detail, row.parked_us))


def park_behind(
    connection: Connection, outbox: str, records: Sequence[Record], now_us: int
) -> list[Any]:
    """Let rows wait behind the poison of their aggregate, as far as it is still there: it may have
    been let go meanwhile. Returns what finds those that wait now."""
    keys = poisoned(connection, outbox)
    behind = [record for record in records if record.key in keys]
    rows = [parked(one, False, "behind", "waits behind the poison", now_us) for one in behind]
    park(connection, outbox, rows)
    return [record.row for record in behind]


def parked(record: Record, poison: bool, reason: str, detail: str, now_us: int) -> Parked:
    """A record as a parked row."""
    key = record.key or ""
    return Parked(
        str(record.row), record.id, str(record.routed_by), key, poison, reason, detail, now_us
    )


def any_parked(connection: Connection, outbox: str) -> bool:
    """Whether any row is."""
    return connection.execute(_SQL["any_parked"], (outbox,)).fetchone() is not None


def poisoned(connection: Connection, outbox: str) -> frozenset[str]:
    """The aggregates with a poison row."""
    found = connection.execute(_SQL["poisoned"], (outbox,)).fetchall()
    return frozenset(key for (key,) in found if key)


def list_parked(connection: Connection, outbox: str, limit: int = 1000) -> list[Parked]:
    """Parked rows, the oldest first."""
    return [_of(row) for row in connection.execute(_SQL["parked"], (outbox, limit)).fetchall()]


def count_parked(connection: Connection, outbox: str) -> tuple[int, int]:
    """(parked rows, poison among them)."""
    rows, poison = connection.execute(_SQL["count_parked"], (outbox,)).fetchone()
    return int(rows), int(poison)


def unpark(connection: Connection, outbox: str, message_id: str | None = None) -> int:
    """Let rows go to be published again, in their old places: all, or that of a message together
    with all that is parked of its aggregate. Returns how many. Runs in a transaction that holds the
    outbox's lock.

    Raises:
        NotFoundError: no row of that message is parked.
    """
    if message_id is None:
        return connection.execute(_SQL["unpark_all"], (outbox,)).rowcount
    found = connection.execute(_SQL["aggregate_of"], (outbox, message_id)).fetchone()
    if found is None:
        raise NotFoundError(f"no row of message {message_id!r} is parked in {outbox}")
    if found[0]:
        return connection.execute(_SQL["unpark_aggregate"], (outbox, found[0])).rowcount
    return connection.execute(_SQL["unpark"], (outbox, message_id)).rowcount


def _of(row: Sequence[Any]) -> Parked:
    id_, message_id, topic, key, poison, reason, detail, since = row
    return Parked(id_, message_id, topic, key, bool(poison), reason, detail, since)
