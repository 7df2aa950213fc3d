"""Answers: done, failed, or back to what it was; only for what is still ours and untouched."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from postroad.core.clock import duration_us
from postroad.core.delivery import Delivery, Settled, Settlement
from postroad.storage.connection import Connection
from postroad.storage.statements import load
from postroad.transports.polling.claims import Token
from postroad.transports.polling.rows import (
    attempts_in,
    failures_in,
    key_of,
    message_bytes,
    restored,
)
from postroad.transports.polling.table import Table

_SQL = load("polling")
_LATEST_US = 1 << 61
"""No retry is due later than this; a dead letter never is."""


class Held(NamedTuple):
    """A claim as it stands in our table."""

    number: int
    fence: int
    key_text: str
    kind: str
    restores: str

    @property
    def key(self) -> Any:
        """The row's key."""
        return key_of(self.key_text, self.kind)


def settle(
    connection: Connection,
    table: Table,
    session: str,
    settlements: Sequence[Settlement],
    now_us: int,
) -> list[Settled]:
    """Answer deliveries of one session. `stale`: somebody else has claimed the row meanwhile, or
    has changed what the claim had set; the row stays as it is."""
    held = _held(connection, session, [one.delivery for one in settlements])
    first: dict[int, Settlement] = {}
    for settlement in settlements:
        token: Token = settlement.delivery.token
        found = held.get(token.number)
        if found is not None and found.fence == token.fence:
            first.setdefault(token.number, settlement)
    standing = table.claimed(connection, [held[number].key for number in first])
    ours = {number: held[number] for number in first if held[number].key in standing}
    _forget(connection, [number for number in first if number not in ours])
    answers = [(ours[number], one) for number, one in first.items() if number in ours]
    _finish(connection, table, [pair for pair in answers if pair[1].action == "ack"])
    _return(connection, table, [pair for pair in answers if pair[1].action == "nack"], now_us)
    _bury(connection, table, [pair for pair in answers if pair[1].action == "reject"], now_us)
    done = {id(one) for _, one in answers}
    return ["done" if id(one) in done else "stale" for one in settlements]


def hand_back(connection: Connection, table: Table, held: Sequence[Held]) -> None:
    """Return claims as they are: it costs nothing and counts as nothing."""
    standing = table.claimed(connection, [one.key for one in held])
    ours = [one for one in held if one.key in standing]
    _forget(connection, [one.number for one in held if one.key not in standing])
    restore(connection, table, ours)
    if ours:
        connection.executemany(_SQL["give_back"], [(0, one.number) for one in ours])


def held_by(connection: Connection, session: str) -> list[Held]:
    """Claims of a session, up to some hundreds."""
    return [Held(*row) for row in connection.execute(_SQL["held_by"], (session,)).fetchall()]


def held_of(connection: Connection, session: str, deliveries: Sequence[Delivery]) -> list[Held]:
    """Those of these deliveries whose claim is still the session's."""
    held = _held(connection, session, deliveries)
    tokens = [delivery.token for delivery in deliveries]
    return [
        held[token.number]
        for token in tokens
        if token.number in held and held[token.number].fence == token.fence
    ]


def renew(
    connection: Connection, session: str, tokens: Sequence[Token], until_us: int
) -> set[Token]:
    """Renew the leases of what is still the session's; returns that."""
    numbers = [token.number for token in tokens]
    connection.execute(_SQL["renew"].many(len(numbers)), (until_us, session, *numbers))
    rows = connection.execute(_SQL["renewed"].many(len(numbers)), (session, *numbers)).fetchall()
    return {Token(int(number), int(fence)) for number, fence in rows}.intersection(tokens)


def begin(connection: Connection, session: str, tokens: Sequence[Token]) -> set[Token]:
    """Note that work on suspects starts: a crash from here on is on their account. Returns what
    is still the session's."""
    numbers = [token.number for token in tokens]
    mark = 2 if len(numbers) == 1 else 1
    connection.execute(_SQL["begin"].many(len(numbers)), (mark, session, *numbers))
    return owned(connection, session, tokens)


def owned(connection: Connection, session: str, tokens: Sequence[Token]) -> set[Token]:
    """Which of these claims are still the session's."""
    numbers = [token.number for token in tokens]
    rows = connection.execute(_SQL["renewed"].many(len(numbers)), (session, *numbers)).fetchall()
    return {Token(int(number), int(fence)) for number, fence in rows}.intersection(tokens)


# ------------------------------------------------------------ parts


def _held(connection: Connection, session: str, deliveries: Iterable[Delivery]) -> dict[int, Held]:
    numbers = sorted({delivery.token.number for delivery in deliveries})
    if not numbers:
        return {}
    rows = connection.execute(_SQL["held"].many(len(numbers)), (session, *numbers)).fetchall()
    return {int(row[0]): Held(*row) for row in rows}


Pairs = Sequence[tuple[Held, Settlement]]


def _finish(connection: Connection, table: Table, answers: Pairs) -> None:
    table.finish(connection, [held.key for held, _ in answers])
    _forget(connection, [held.number for held, _ in answers])


def _return(connection: Connection, table: Table, answers: Pairs, now_us: int) -> None:
    restore(connection, table, [held for held, _ in answers])
    rows = [
        (
            min(now_us + duration_us(one.delay), _LATEST_US),
            attempts_in(one),
            failures_in(one),
            held.number,
        )
        for held, one in answers
    ]
    if rows:
        connection.executemany(_SQL["wait"], rows)


def _bury(connection: Connection, table: Table, answers: Pairs, now_us: int) -> None:
    table.fail(connection, [held.key for held, _ in answers])
    rows = [
        (
            attempts_in(one),
            failures_in(one),
            message_bytes(one.delivery.message),
            now_us,
            held.number,
        )
        for held, one in answers
    ]
    if rows:
        connection.executemany(_SQL["die"], rows)


def restore(connection: Connection, table: Table, held: Sequence[Held]) -> None:
    """Put back what the claims overwrote."""
    alike: dict[str, list[Any]] = {}
    for one in held:
        alike.setdefault(one.restores, []).append(one.key)
    for restores, keys in alike.items():
        table.restore(connection, keys, restored(restores))


def _forget(connection: Connection, numbers: Sequence[int]) -> None:
    if numbers:
        connection.execute(_SQL["forget"].many(len(numbers)), numbers)
