"""The inbox's records: which messages a group has handled, kept for a window, in one database.

A record is written in the transaction of the handler's own writes. Two transactions that write the
same one are told apart by its unique key: the second waits for the first, and finds it there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import timedelta

from postroad.core.clock import Clock, duration_us
from postroad.core.message import Message
from postroad.storage.connection import Connection
from postroad.storage.database import Database
from postroad.storage.statements import load

_SQL = load("inbox")
_RECORD, _KNOWN = _SQL["record"], _SQL["known"]
_LONGEST_NAME = 255
_CHUNK = 500
"""Records removed in one transaction: a few milliseconds."""
_AWAY = 8
"""A group that consumed nothing for longer than this fraction of its window was away."""
_NOTED = 64
"""How often a window it is noted that the group is there."""
_SELDOM = 60.0
_OFTEN = 0.05


def name_of(message: Message) -> str:
    """What identifies a message, by CloudEvents its id and source together, as one key. Ids that
    grow with time come first, so that what is handled together is kept together."""
    name = f"{message.id} {message.source}"
    plain = name.isprintable() and " " not in message.id and not name.endswith(" ")
    if plain and len(name) <= _LONGEST_NAME:
        return name
    source, id_ = (text.encode("utf-8", "surrogatepass") for text in (message.source, message.id))
    digest = hashlib.sha256(b"%d:%b%b" % (len(source), source, id_))
    return f"#{digest.hexdigest()}"


def record(connection: Connection, reader: int, name: str, now_us: int) -> bool:
    """Note that a message is handled, in the open transaction; False if it was handled before.
    Waits for another transaction that is about to note the same."""
    return connection.execute(_RECORD, (reader, name, now_us)).rowcount == 1


def known(connection: Connection, reader: int, name: str) -> bool:
    """Whether a message was handled, as far as it is committed. Only reads."""
    return connection.execute(_KNOWN, (reader, name)).fetchone() is not None


def forget(connection: Connection, topic: str, group: str) -> None:
    """Drop what a group has handled of a topic: it is to be handled again."""
    row = connection.execute(_SQL["reader"], (group, topic)).fetchone()
    if row is not None:
        connection.execute(_SQL["forget"], (row[0],))


class Records:
    """The records of one group, on every topic that it reads.

    They are removed when they are older than the window, a few at a time. While the group is away
    nothing is: what it handled and could not acknowledge comes again when it is back, however
    late. After it was away, its records are kept for one window more.

    Attributes:
        interval: seconds between two calls of `tidy` that do anything.
    """

    def __init__(
        self, database: Callable[[], Database], clock: Clock, group: str, window: timedelta
    ) -> None:
        self._database = database
        self._clock = clock
        self._group = group
        self._window_us = duration_us(window)
        self.interval = min(_SELDOM, max(_OFTEN, window.total_seconds() / _NOTED))
        self._next = 0.0
        self._readers: dict[str, int] = {}

    async def reader(self, topic: str) -> int:
        """The number under which the group's records of a topic are kept; asked once for each."""
        found = self._readers.get(topic)
        if found is None:
            found = await self._database().write(lambda c: self._ensure(c, topic))
            self._readers[topic] = found
        return found

    def _ensure(self, connection: Connection, topic: str) -> int:
        name = (self._group, topic)
        row = connection.execute(_SQL["reader"], name).fetchone()
        if row is None:
            values = (*name, self._window_us, self._clock.now_us())
            connection.execute(_SQL["reader_insert"], values)
            row = connection.execute(_SQL["reader"], name).fetchone()
        if row[1] != self._window_us:
            connection.execute(_SQL["reader_window"], (self._window_us, row[0]))
        return int(row[0])

    async def count_duplicate(self, reader: int) -> None:
        """Count one delivery more whose message was handled before. What is acknowledged after
        that was counted, whoever is killed. Raises `StorageError`s."""
        await self._database().write(
            lambda c: c.execute(_SQL["duplicates"], (1, reader)).rowcount,
            scope=f"inbox {reader}",
            durable=False,
        )

    async def tidy(self) -> None:
        """Remove what is older than the window, if it is time to.

        Raises:
            StorageError: not done; the next call goes on.
        """
        if self._clock.monotonic() < self._next:
            return
        self._next = self._clock.monotonic() + self.interval
        for reader in list(self._readers.values()):
            if await self._note(reader):
                await self._expire(reader)

    async def _note(self, reader: int) -> bool:
        """Note that the group is there; whether its old records may go."""
        row = await self._database().read(
            lambda c: c.execute(_SQL["cleaning"], (reader,)).fetchone()
        )
        now = self._clock.now_us()
        window, seen, keeps_until = row
        if seen <= now <= seen + window // _NOTED:
            return bool(now >= keeps_until)
        if now > seen + window // _AWAY:
            keeps_until = now + window
        values = (now, keeps_until, reader)
        await self._database().write(lambda c: c.execute(_SQL["cleaned"], values), durable=False)
        return bool(now >= keeps_until)

    async def _expire(self, reader: int) -> None:
        before = self._clock.now_us() - self._window_us
        chunk = (reader, before, _CHUNK)
        while await self._database().read(
            lambda c: c.execute(_SQL["expired"], (reader, before)).fetchone()
        ):
            await self._database().write(
                lambda c: c.execute(_SQL["expire"], chunk).rowcount, durable=False
            )
