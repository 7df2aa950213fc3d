"""Which relay publishes which part of an outbox: slices with one owner at a time, by lease."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import getpid

from postroad.core.clock import Clock
from postroad.storage.connection import Connection
from postroad.storage.statements import load

_SQL = load("outbox")


def scope_of(outbox: str) -> str:
    """The lock under which relays of an outbox agree."""
    return f"outbox {outbox}"


@dataclass(frozen=True)
class Share:
    """What a relay owns.

    Attributes:
        slices: those that it may publish from.
        surplus: owned, and to be handed to others once nothing of them is on its way.
        relays: how many are at work.
    """

    slices: tuple[int, ...]
    surplus: tuple[int, ...]
    relays: int


class Membership:
    """One relay's place among those of an outbox. Its functions run in a transaction that holds
    `scope_of`; `clock` is the database's, where it has one."""

    def __init__(self, outbox: str, slices: int, lease_us: int, clock: Clock) -> None:
        self.outbox = outbox
        self.owner = f"{socket.gethostname()[:100]}:{getpid()}:{secrets.token_hex(4)}"
        self._slices = slices
        self._lease_us = lease_us
        self._clock = clock

    def renew(self, connection: Connection) -> Share:
        """Renew the lease, and take what nobody else has, up to a fair part."""
        now = self._clock.now_us()
        until = now + self._lease_us
        connection.execute(_SQL["expire"], (self.outbox, now))
        if connection.execute(_SQL["renew"], (until, self.outbox, self.owner)).rowcount != 1:
            connection.execute(_SQL["join"], (self.outbox, self.owner, until))
        owners = [owner for (owner,) in connection.execute(_SQL["owners"], (self.outbox,))]
        owned = dict(connection.execute(_SQL["slices"], (self.outbox,)).fetchall())
        fair = _fair(self._slices, owners, self.owner)
        mine = [slice_ for slice_, owner in owned.items() if owner == self.owner]
        for slice_ in _free(self._slices, owned, set(owners))[: max(0, fair - len(mine))]:
            connection.execute(_SQL["free"], (self.outbox, slice_))
            connection.execute(_SQL["take"], (self.outbox, slice_, self.owner))
            mine.append(slice_)
        mine.sort()
        return Share(tuple(mine[:fair]), tuple(mine[fair:]), len(owners))

    def hand_over(self, connection: Connection, slices: Iterable[int]) -> None:
        """Give slices up, of which nothing is on its way any more."""
        owned = dict(connection.execute(_SQL["slices"], (self.outbox,)).fetchall())
        for slice_ in slices:
            if owned.get(slice_) == self.owner:
                connection.execute(_SQL["free"], (self.outbox, slice_))

    def leave(self, connection: Connection) -> None:
        """Give everything up."""
        connection.execute(_SQL["leave"], (self.outbox, self.owner))


def _free(slices: int, owned: dict[int, str], owners: set[str]) -> list[int]:
    return [slice_ for slice_ in range(slices) if owned.get(slice_) not in owners]


def _fair(slices: int, owners: Sequence[str], me: str) -> int:
    """How many slices are this relay's part; the parts of all relays add up."""
    most, rest = divmod(slices, len(owners))
    return most + (sorted(owners).index(me) < rest)
