"""Deleting what was published long ago, in small transactions."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

from postroad.core.clock import Clock
from postroad.delivery.outbox import reading
from postroad.delivery.outbox.sql import Sql
from postroad.storage.database import Database

_CHUNKS = 50
"""Chunks in one go: what there is beyond waits for the next time."""


async def clean(database: Database, sql: Sql, keep: timedelta, clock: Clock) -> int:
    """Delete rows that were published longer ago than `keep`; returns how many. Rows that wait or
    are parked stay, however old. Raises `StorageError`s; what was deleted before stays so."""
    start = total = 0
    for _ in range(_CHUNKS):
        find = partial(reading.find_old, sql=sql, start=start, keep=keep, now_us=clock.now_us())
        old = await database.scan(find)
        if old.rows:
            delete = partial(reading.delete, sql=sql, rows=old.rows)
            total += await database.write(delete, durable=False)
        if not old.more:
            break
        start = old.next
    return total
