"""Tokens with an expiry, redeemed at most once: a link to confirm, a voucher, a new password.

All of it runs in the caller's own open transaction, on a connection of any kind that
`postroad.storage.joining` knows: what a token stands for, and that it is redeemed, commit
together or not at all. `await` the answers of an asynchronous connection.
"""

from __future__ import annotations

import secrets
from datetime import timedelta
from typing import Any

from postroad.core.clock import duration_us
from postroad.errors import TokenRefusedError
from postroad.idempotency.records import SQL, identity, readable
from postroad.idempotency.steps import Steps, run


def issue(connection: Any, purpose: str, *, valid: timedelta, content: bytes = b"") -> Any:
    """Make a token of 256 random bits, as text that fits into a URL.

    Only its hash is kept, so that who reads the database cannot redeem it.

    Args:
        connection: the caller's, with a transaction open.
        purpose: what it is for; it can be redeemed for nothing else. Kept readable.
        valid: how long from now, by the database's clock.
        content: given back when it is redeemed. Kept as it is.
    """
    if valid <= timedelta(0):
        raise ValueError("a token is valid for longer than nothing")
    return run(connection, _issue(purpose, duration_us(valid), content))


def redeem(connection: Any, purpose: str, token: str) -> Any:
    """Redeem a token and return its content. Of any number that try at once one does.

    It is redeemed when the caller's transaction commits; rolled back, it can be redeemed still.

    Raises:
        TokenRefusedError: it is unknown, expired, or was redeemed before; nothing was changed.
    """
    return run(connection, _redeem(identity(purpose, token)))


def purge(connection: Any, limit: int = 1000) -> Any:
    """Remove up to `limit` expired tokens, redeemed or not; returns how many it were. Commit, and
    call it again while it is `limit`."""
    return run(connection, _purge(limit))


def _issue(purpose: str, valid_us: int, content: bytes) -> Steps[str]:
    token = secrets.token_urlsafe(32)
    now = yield from _now()
    yield (
        SQL["token_insert"],
        (identity(purpose, token), readable(purpose), content, now + valid_us),
    )
    return token


def _redeem(id_: bytes) -> Steps[bytes]:
    now = yield from _now()
    redeemed = yield SQL["token_redeem"], (now, id_)
    found = yield SQL["token_select"], (id_,)
    if redeemed.rowcount != 1:
        raise _refused(found.rows[0] if found.rows else None)
    return bytes(found.rows[0][0])


def _refused(row: tuple[Any, ...] | None) -> TokenRefusedError:
    if row is None:
        return TokenRefusedError(
            "there is no such token for this purpose, or it expired long ago; issue a new one",
            "unknown",
        )
    if row[1] is not None:
        return TokenRefusedError("this token was redeemed before; issue a new one", "redeemed")
    return TokenRefusedError("this token has expired; issue a new one", "expired")


def _purge(limit: int) -> Steps[int]:
    now = yield from _now()
    removed = yield SQL["token_purge"], (now, limit)
    return removed.rowcount


def _now() -> Steps[int]:
    found = yield SQL["now"], ()
    return int(found.rows[0][0])
