"""The processed-messages table: the inbox for code that the engine does not call.

A webhook, a script, a consumer of another library: `first_time` writes down that a message is
handled, in the caller's own open transaction, so that the record and the effect commit together.
It is the table that the engine's inbox uses; a scope here is what a group is there.
"""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import Any

from postroad.core.clock import duration_us
from postroad.errors import DeclarationError
from postroad.idempotency.records import SQL
from postroad.idempotency.steps import Steps, run
from postroad.storage.statements import load

_INBOX = load("inbox")
_LONGEST = 255
_WINDOW = timedelta(days=7)


def first_time(connection: Any, scope: str, message_id: str) -> Any:
    """Note that a message is handled; whether it is the first time. `await` it where the
    connection is asynchronous.

    Of two transactions that note the same message at once, the second waits for the first: it is
    told no when that commits, and yes when that rolls back. Nothing is poisoned either way. (Where
    several wait and the first rolls back, MySQL and MariaDB end some of them as deadlock victims:
    a transaction that ends so is run again, as always there.)

    Args:
        connection: the caller's, with a transaction open; see `postroad.storage.joining`.
        scope: who handles it: `invoicing`. Each scope handles each message once. Up to 255
            characters.
        message_id: what identifies it, over redelivery too: `delivery.idempotency_key`, or the
            sender's id together with the sender's name.
    """
    return run(connection, _first_time(_checked(scope), _name(message_id)))


def purge(
    connection: Any, scope: str, older_than: timedelta = _WINDOW, *, limit: int = 1000
) -> Any:
    """Remove up to `limit` records of a scope that are older; returns how many it were. Commit,
    and call it again while it is `limit`. A duplicate that comes later is handled again."""
    return run(connection, _purge(_checked(scope), duration_us(older_than), limit))


def _first_time(scope: str, name: str) -> Steps[bool]:
    reader = yield from _reader(scope)
    now = yield SQL["now"], ()
    written = yield _INBOX["record"], (reader, name, now.rows[0][0])
    return written.rowcount == 1


def _purge(scope: str, age_us: int, limit: int) -> Steps[int]:
    found = yield SQL["scope"], (scope,)
    if not found.rows:
        return 0
    now = yield SQL["now"], ()
    removed = yield _INBOX["expire"], (found.rows[0][0], now.rows[0][0] - age_us, limit)
    return removed.rowcount


def _reader(scope: str) -> Steps[int]:
    """The number of a scope; made at its first message, for which others of it wait that once."""
    found = yield SQL["scope"], (scope,)
    if not found.rows:
        now = yield SQL["now"], ()
        yield SQL["scope_insert"], (scope, duration_us(_WINDOW), now.rows[0][0])
        # Somebody else's may be newer than what a repeatable read shows; a lock shows it.
        found = yield SQL["scope_now"], (scope,)
    return int(found.rows[0][0])


def _checked(scope: str) -> str:
    if not scope.isprintable() or scope != scope.rstrip() or not 0 < len(scope) <= _LONGEST:
        raise DeclarationError(
            f"a scope is a printable name of 1 to {_LONGEST} characters that does not end with a "
            "space, such as 'invoicing'"
        )
    return scope


def _name(message_id: str) -> str:
    """The id as every database takes it and tells it from others: MySQL's binary collation takes
    `a` and `a ` for the same."""
    plain = message_id.isprintable() and not message_id.endswith(" ")
    if plain and len(message_id) <= _LONGEST and not message_id.startswith("#"):
        return message_id
    return "#" + hashlib.sha256(message_id.encode("utf-8", "surrogatepass")).hexdigest()
