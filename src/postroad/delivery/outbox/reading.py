"""What a relay does on the outbox's table: read a batch, mark it, delete what is old, count."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple

import msgspec

from postroad.core.clock import Clock
from postroad.delivery.outbox.parking import any_parked, count_parked, poisoned
from postroad.delivery.outbox.rows import Record, instant_us, record_of
from postroad.delivery.outbox.sql import Reading, Sql, lists
from postroad.storage.connection import Connection

_LIST = 1024
"""Values in one `IN` list at the most."""
_CHUNK = 1000
"""Rows deleted in one transaction."""


class OutboxDepth(msgspec.Struct, frozen=True):
    """How much waits in an outbox.

    Attributes:
        pending: rows that wait to be published, without those that are parked.
        age: since when the oldest row waits (parked or not); zero if none does.
        parked: rows that no relay touches.
        poison: those among them that are the trouble themselves.
    """

    outbox: str
    pending: int
    age: timedelta
    parked: int
    poison: int


class Rows(NamedTuple):
    """What a read brought: the records in their order, and the aggregates with poison then."""

    records: list[Record]
    poisoned: frozenset[str]


def read(
    connection: Connection, sql: Sql, start: int, slices: Sequence[int] | None, limit: int
) -> Rows:
    """The next rows that wait, of these slices or all."""
    outbox = sql.table.name
    has_parked = any_parked(connection, outbox)
    numbered = sql.table.number is not None
    some = slices is not None and sql.table.slice is not None
    parameters: list[Any] = [limit]
    if numbered:
        parameters.append(start)
    if has_parked:
        parameters.append(outbox)
    statement = sql.read(Reading(numbered, some, has_parked))
    if some and slices is not None:
        statement = statement.many(len(slices))
        parameters += slices
    found = connection.execute(statement, parameters).fetchall()
    keys = poisoned(connection, outbox) if has_parked else frozenset[str]()
    return Rows([record_of(row, sql.table) for row in found], keys)


def mark(connection: Connection, sql: Sql, rows: list[Any], now_us: int) -> int:
    """Mark rows as published; how many were not marked before."""
    now = (now_us,) if sql.mark_takes_now else ()
    total = 0
    for part in lists(rows, _LIST):
        total += connection.execute(sql.mark.many(len(part)), (*now, *part)).rowcount
    return total


def delete(connection: Connection, sql: Sql, rows: list[Any]) -> int:
    """Delete rows; how many were there."""
    total = 0
    for part in lists(rows, _LIST):
        total += connection.execute(sql.delete.many(len(part)), part).rowcount
    return total


class Old(NamedTuple):
    """A chunk of rows due for deletion: which, where to go on, and whether there may be more."""

    rows: list[Any]
    next: int
    more: bool


def find_old(connection: Connection, sql: Sql, start: int, keep: timedelta, now_us: int) -> Old:
    """The next chunk of rows that were published so long ago."""
    if sql.table.number is None:
        seconds = int(keep.total_seconds())
        rows = connection.execute(sql.old, (seconds, _CHUNK)).fetchall()
        return Old([row for (row,) in rows], 0, len(rows) == _CHUNK)
    found = connection.execute(sql.old, (start, _CHUNK)).fetchall()
    cutoff = now_us - keep // timedelta(microseconds=1)
    done = [(row, instant_us(at)) for row, at in found]
    old = [row for row, at in done if at is not None and at < cutoff]
    has_young = any(at is not None and at >= cutoff for _, at in done)
    more = len(found) == _CHUNK and not (has_young and not old)
    return Old(old, found[-1][0] if found else start, more)


def depth(connection: Connection, sql: Sql, clock: Clock) -> OutboxDepth:
    """How much waits."""
    waiting, oldest = connection.execute(sql.depth).fetchone()
    parked, poison = count_parked(connection, sql.table.name)
    since = instant_us(oldest)
    age_us = 0 if since is None else max(0, clock.now_us() - since)
    pending = max(0, int(waiting) - parked)
    return OutboxDepth(sql.table.name, pending, timedelta(microseconds=age_us), parked, poison)
