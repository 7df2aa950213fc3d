"""The record of an idempotency key: one row, changed in short transactions of its own.

In progress it has a lease and the mark of its owner; done it has a result and a window. Whoever
comes later finds one of the two, or takes over what a crash has left.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import TypeAlias

from postroad.errors import StorageBusyError
from postroad.storage.connection import Connection
from postroad.storage.statements import load

SQL = load("idempotency")
_TRIES = 10
"""A record that is released between our two looks at it is looked for again, so often."""


@dataclass(frozen=True)
class Asked:
    """What somebody wants to claim.

    Attributes:
        id: which record, of `identity`.
        scope: for people who look into the table.
        fingerprint: SHA-256 of the payload.
        owner: the claim's own mark. A claim that is repeated with it finds itself.
        lease_us: how long it may be held without a renewal.
        window_us: how long a result is kept.
    """

    id: bytes
    scope: str
    fingerprint: bytes
    owner: bytes
    lease_us: int
    window_us: int


@dataclass(frozen=True)
class Held:
    """It is ours. `earlier`: how many claims of it ended with their process, not with a result."""

    earlier: int


@dataclass(frozen=True)
class Done:
    """It was done before, with this result."""

    result: bytes


@dataclass(frozen=True)
class InProgress:
    """Somebody else has it, for so long if the lease is not renewed."""

    left_us: int


@dataclass(frozen=True)
class Reused:
    """It was used with another payload."""


Answer: TypeAlias = Held | Done | InProgress | Reused
_Row: TypeAlias = tuple[bytes, bytes, int | None, int, bytes | None, int]


def identity(scope: str, key: str) -> bytes:
    """Which record a key of a scope has. A hash, so that neither length nor collation matters:
    MySQL's binary collation takes `a` and `a ` for the same."""
    first = scope.encode("utf-8", "surrogatepass")
    size = len(first).to_bytes(8, "big")
    return sha256(size + first + key.encode("utf-8", "surrogatepass")).digest()


def readable(scope: str) -> str:
    """A scope as every database takes it."""
    return scope.encode("utf-8", "replace").decode().replace("\0", "�")[:255]


def clock(connection: Connection) -> int:
    """The database's own time: the clocks of hosts differ, and leases are compared."""
    return int(connection.execute(SQL["now"]).fetchone()[0])


def claim(connection: Connection, asked: Asked, now: int) -> Answer:
    """Take a record, or say who has it. Raises nothing of its own, since operations that share a
    commit would be run again for it.

    Raises:
        StorageBusyError: others claimed and released it all the time.
    """
    # Without a lock first: a duplicate must not wait for the transaction that keeps the result.
    found = connection.execute(SQL["key_peek"], (asked.id,)).fetchone()
    if found is not None and not _free(found, asked, now):
        return _answer(found, asked, now)
    values = (asked.id, asked.scope, asked.fingerprint, asked.owner, now + asked.lease_us)
    for _ in range(_TRIES):
        connection.execute(SQL["key_insert"], (*values, now + asked.window_us))
        row = connection.execute(SQL["key_select"], (asked.id,)).fetchone()
        if row is not None:
            return (
                _answer(row, asked, now)
                if not _free(row, asked, now)
                else _take(connection, row, asked, now)
            )
    raise StorageBusyError("an idempotency key is claimed and released all the time; try again")


def _free(row: _Row, asked: Asked, now: int) -> bool:
    fingerprint, owner, lease_until, _, _, expires = row
    if owner == asked.owner:
        return False
    if lease_until is not None:  # with another payload, somebody else's operation is not ours
        return lease_until <= now and (fingerprint == asked.fingerprint or expires <= now)
    return expires <= now


def _answer(row: _Row, asked: Asked, now: int) -> Answer:
    fingerprint, owner, lease_until, claims, result, _ = row
    if fingerprint != asked.fingerprint:
        return Reused()
    if lease_until is None:
        return Done(bytes(result or b""))
    return Held(claims - 1) if owner == asked.owner else InProgress(max(0, lease_until - now))


def _take(connection: Connection, row: _Row, asked: Asked, now: int) -> Held:
    _, _, lease_until, claims, _, expires = row
    earlier = claims if lease_until is not None and expires > now else 0
    mark = (asked.fingerprint, asked.owner, now + asked.lease_us)
    connection.execute(SQL["key_take_over"], (*mark, earlier + 1, now + asked.window_us, asked.id))
    return Held(earlier)


def renew(connection: Connection, held: Iterable[tuple[bytes, bytes]], until: int) -> None:
    """Prolong the leases of records (id, owner) that are still their owner's."""
    for id_, owner in held:
        connection.execute(SQL["key_renew"], (until, id_, owner))


def finish(connection: Connection, id_: bytes, owner: bytes, result: bytes, expires: int) -> bool:
    """Keep a result. False if the record is no longer the owner's."""
    connection.execute(SQL["key_finish"], (result, expires, id_, owner))
    return finished(connection, id_, owner)  # so a repeated try of this finds what it did


def finished(connection: Connection, id_: bytes, owner: bytes) -> bool:
    """Whether the owner's result is kept."""
    return connection.execute(SQL["key_finished"], (id_, owner)).fetchone() is not None


def release(connection: Connection, id_: bytes, owner: bytes) -> None:
    """Forget a claim, so that the next one finds nothing."""
    connection.execute(SQL["key_release"], (id_, owner))


def purge(connection: Connection, now: int, limit: int) -> int:
    """Remove so many records whose window is over. Returns how many it were."""
    return connection.execute(SQL["key_purge"], (now, limit)).rowcount
