"""Claiming: first what came back (leases that ended, retries that are due), then what is new."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from postroad.core.delivery import Delivery
from postroad.core.message import Message
from postroad.errors import DeclarationError
from postroad.storage.connection import Connection
from postroad.storage.statements import load
from postroad.transports.polling.rows import (
    failures_of,
    instant_us,
    kept,
    key_of,
    kind_of,
    restored,
)
from postroad.transports.polling.rows import message_of as plain_message
from postroad.transports.polling.table import Row, Table

_SQL = load("polling")


class Token(NamedTuple):
    """The handle of one delivery: a claim of a row, told from every other one by its fence."""

    number: int
    fence: int


class Known(NamedTuple):
    """What we know of a row that was claimed before."""

    number: int
    key_text: str
    kind: str
    session: str | None
    fence: int
    turns: int
    attempts: int
    starts: int
    alone: int
    begun: int
    failures: bytes | None
    restores: str
    since_us: int

    @property
    def key(self) -> Any:
        """The row's key."""
        return key_of(self.key_text, self.kind)

    @property
    def crashed(self) -> tuple[int, int]:
        """`starts` and `alone`, counting the claim that ended with its lease, if it did."""
        if self.session is None or not self.begun:
            return self.starts, self.alone
        return self.starts + 1, self.alone + (self.begun > 1)


class Found(NamedTuple):
    """A row on its way to be claimed."""

    row: Row
    message: Message
    known: Known | None


@dataclass(frozen=True)
class Want:
    """What one look is to bring.

    Attributes:
        session: whose claim it becomes.
        lease_us: for how long.
        limit: rows, at the most.
        max_bytes: of payload; at least one row is claimed.
        everything: new rows too; else only what came back.
    """

    session: str
    lease_us: int
    limit: int
    max_bytes: int
    everything: bool


class Claimed(NamedTuple):
    """What a look brought. `full`: there may be more at once."""

    deliveries: list[Delivery]
    full: bool


class Claims:
    """Claims rows of one table for one group.

    Args:
        source: CloudEvents `source` of the messages.
    """

    def __init__(self, table: Table, topic: str, group: str, source: str) -> None:
        self._table = table
        self._topic = topic
        self._group = group
        self._source = source
        self._proven = False

    def claim(self, connection: Connection, want: Want, now_us: int) -> Claimed:
        """Claim rows, in the transaction of the connection."""
        limit = min(want.limit, self._table.source.batch)
        known = self._over(connection, now_us, limit)
        returned = self._returned(connection, known)
        suspects = [one for one in returned if one.known is not None and one.known.crashed[0]]
        if suspects:
            # A crash tells more if what was in flight in the last one runs apart, in ever
            # smaller parts.
            returned = _part(suspects, self._table.source.batch)
        found = _fitting(returned, want.max_bytes)
        if found or not want.everything:
            claimed = self._again(connection, found, want, now_us)
            return Claimed(claimed, full=bool(found))
        rows = self._table.ready(connection, self._topic, self._group, limit)
        new = _fitting([self._new(row) for row in rows], want.max_bytes)
        return Claimed(self._first(connection, new, want, now_us), full=len(rows) == limit)

    # ------------------------------------------------ what came back

    def _over(self, connection: Connection, now_us: int, limit: int) -> list[Known]:
        values = (self._topic, self._group, now_us, limit)
        return [Known(*row) for row in connection.execute(_SQL["over"], values).fetchall()]

    def _returned(self, connection: Connection, known: Sequence[Known]) -> list[Found]:
        """Those that can be had. What somebody else has changed meanwhile is theirs."""
        if not known:
            return []
        states = {
            state.row.key: state
            for state in self._table.again(connection, [one.key for one in known])
        }
        found, changed, unseen = [], [], []
        for one in known:
            state = states.get(one.key)
            if state is None:
                unseen.append(one)
            elif state.is_ready if one.session is None else state.is_claimed:
                found.append(self._known(state.row, one))
            else:
                changed.append(one.number)
        if unseen:
            there = self._table.existing(connection, [one.key for one in unseen])
            changed += [one.number for one in unseen if one.key not in there]
        if changed:
            connection.execute(_SQL["forget"].many(len(changed)), changed)
        return found

    def _known(self, row: Row, known: Known) -> Found:
        overwritten = zip(self._table.source.claim, restored(known.restores), strict=True)
        return Found(row, self._message(row, known.number, dict(overwritten)), known)

    def _again(
        self, connection: Connection, found: Sequence[Found], want: Want, now_us: int
    ) -> list[Delivery]:
        until, claims, deliveries = now_us + want.lease_us, [], []
        for row, message, known in found:
            assert known is not None
            starts, alone = known.crashed
            fence = max(now_us, known.fence + 1)
            # Waiting for its turn is never held against a suspect: see `begin`.
            claims.append(
                (fence, until, starts, alone, int(not starts), want.session, known.number)
            )
            deliveries.append(
                self._delivery(
                    message,
                    Token(known.number, fence),
                    until,
                    deliveries=known.turns + 1,
                    starts=starts,
                    alone=alone,
                    attempts=known.attempts,
                    failures=failures_of(known.failures),
                    since_us=known.since_us,
                    row=row,
                )
            )
        if claims:
            connection.executemany(_SQL["claim_again"], claims)
        waited = [row.key for row, _, known in found if known is not None and known.session is None]
        self._table.take(connection, waited)
        return deliveries

    # ------------------------------------------------ what is new

    def _new(self, row: Row) -> Found:
        return Found(row, self._message(row, 0, {}), None)

    def _first(
        self, connection: Connection, found: Sequence[Found], want: Want, now_us: int
    ) -> list[Delivery]:
        if not found:
            return []
        numbers = self._number(connection, [one.row for one in found], want, now_us)
        mine = [one for one in found if one.row.key_text in numbers]
        taken = [one.row.key for one in mine]
        self._table.take(connection, taken)
        self._check_claim(connection, taken)
        return [
            self._delivery(
                _renumbered(message, self._topic, row.key_text, numbers[row.key_text]),
                Token(numbers[row.key_text], now_us),
                now_us + want.lease_us,
                deliveries=1,
                starts=0,
                since_us=now_us,
                row=row,
            )
            for row, message, _ in mine
        ]

    def _check_claim(self, connection: Connection, keys: Sequence[Any]) -> None:
        """The first time: a row that were still ready would come again for ever."""
        if self._proven or not keys:
            return
        if any(state.is_ready for state in self._table.again(connection, keys)):
            raise DeclarationError(
                f"{self._table.source}: `where` still holds once `claim` is set, so that a row "
                "would be handled again and again; claim by the column that `where` asks for"
            )
        self._proven = True

    def _number(
        self, connection: Connection, rows: Sequence[Row], want: Want, now_us: int
    ) -> dict[str, int]:
        """Key → number of what became ours; what somebody else claimed a moment ago did not."""
        keys = [row.key_text for row in rows]
        place = (self._topic, self._group)
        connection.execute(_SQL["bury_over"].many(len(keys)), (*place, *keys))
        until = now_us + want.lease_us
        claims = [
            (
                *place,
                row.key_text,
                kind_of(row.key),
                want.session,
                until,
                now_us,
                kept([row.columns[name] for name in self._table.source.claim]),
                now_us,
            )
            for row in rows
        ]
        connection.executemany(_SQL["claim_new"], claims)
        mine = (*place, want.session, now_us, *keys)
        found = connection.execute(_SQL["claimed_new"].many(len(keys)), mine).fetchall()
        return {str(key): int(number) for key, number in found}

    # ------------------------------------------------ deliveries

    def _message(self, row: Row, number: int, overwritten: dict[str, Any]) -> Message:
        columns = {**row.columns, **overwritten}
        return self.message(row.key_text, number, columns)

    def message(self, key: str, number: int, columns: dict[str, Any]) -> Message:
        """A row as a message: the columns of the payload, as they were before the claim."""
        visible = {name: columns[name] for name in self._table.payload}
        return plain_message(self._topic, self._source, key, number, visible)

    def _delivery(
        self,
        message: Message,
        token: Token,
        until_us: int,
        *,
        since_us: int,
        row: Row,
        **counts: Any,
    ) -> Delivery:
        if not message.time_us:
            name = self._table.source.time
            stated = None if name is None else instant_us(row.columns[name])
            time_us = since_us if stated is None else stated
            message = msgspec.structs.replace(message, time_us=time_us)
        return Delivery(
            message=message,
            topic=self._topic,
            group=self._group,
            lease_until_us=until_us,
            fence=token.fence,
            token=token,
            **counts,
        )


def _renumbered(message: Message, topic: str, key: str, number: int) -> Message:
    if message.id != f"{topic}/{key}/0":
        return message  # it has an id of its own
    return msgspec.structs.replace(message, id=f"{topic}/{key}/{number}")


def _part(suspects: Sequence[Found], batch: int) -> list[Found]:
    """Those that crashed as often as the first one, in a part that halves with each crash."""
    crashes = [one.known.crashed[0] for one in suspects if one.known is not None]
    alike = [one for one, count in zip(suspects, crashes, strict=True) if count == crashes[0]]
    return alike[: max(1, batch >> crashes[0])]


def _fitting(found: Sequence[Found], max_bytes: int) -> list[Found]:
    """As many as the bytes allow, one at least."""
    taken: list[Found] = []
    for one in found:
        max_bytes -= len(one.message.data)
        if taken and max_bytes < 0:
            break
        taken.append(one)
    return taken
