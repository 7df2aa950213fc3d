"""Lanes that wait: in a lane only the first message that waits is due by itself."""

from __future__ import annotations

from postroad.storage.connection import Connection
from postroad.storage.statements import load

_SQL = load("retries")
NEVER = 1 << 62
"""When what waits behind another one is due by itself."""


def due_behind(
    connection: Connection, group: int, stream: int, lane: str | None, offset: int, due_us: int
) -> int:
    """When a message that is to wait is due: never by itself, if one before it in its lane waits
    as long, or is a dead letter that parks the lane."""
    if lane is None:
        return due_us
    place = (group, stream, lane, offset, due_us)
    return due_us if connection.execute(_SQL["stands_behind"], place).fetchone() is None else NEVER
