"""A connection as our code sees it, whatever the database: synchronous, in a thread of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

from postroad.storage.statements import Dialect, Statement


class Cursor(Protocol):
    """What a statement brought."""

    @property
    def rowcount(self) -> int:
        """The number of rows that it changed."""
        ...

    def fetchone(self) -> Any:
        """The next row, or None."""
        ...

    def fetchmany(self, size: int, /) -> list[Any]:
        """The next rows, up to so many."""
        ...

    def fetchall(self) -> list[Any]:
        """All rows that are left."""
        ...

    def __iter__(self) -> Iterator[Any]: ...


class Connection(Protocol):
    """One connection; belongs to one thread.

    `memo` holds facts of the database that were read inside write transactions. Whoever opens a
    transaction empties it, unless it knows that nobody else has committed since.
    """

    memo: dict[Any, Any]

    @property
    def dialect(self) -> Dialect:
        """Which SQL it speaks."""
        ...

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""
        ...

    @property
    def broken(self) -> bool:
        """Whether it has lost its server, and another one has to be opened."""
        ...

    def execute(self, statement: Statement | str, parameters: Sequence[Any] = (), /) -> Cursor:
        """Run one statement: a named one, or SQL in the driver's own style."""
        ...

    def executemany(self, statement: Statement | str, rows: Iterable[Sequence[Any]], /) -> Cursor:
        """Run one statement for each row."""
        ...

    def defer(self, statement: Statement, parameters: Sequence[Any] = (), /) -> None:
        """Run one statement whose answer nobody needs: before the next one that is executed, or
        with the commit. Where a round trip costs, it shares theirs."""
        ...

    def insert(self, statement: Statement, parameters: Sequence[Any], /) -> int:
        """Insert one row into a table that numbers its rows; returns the number."""
        ...

    def insert_many(self, statement: Statement, rows: Sequence[Sequence[Any]], /) -> None:
        """Insert rows by a plain `INSERT INTO … (…) VALUES (?, …)`, as fast as the database can."""
        ...

    def spelled(self, statement: str, /) -> str:
        """A statement of a migration as this server wants it written."""
        ...

    def define(self, statement: str, /) -> None:
        """Run a statement of a migration, `spelled`. Where such a statement is its own
        transaction, what it makes may be there already, left by a migration that was broken
        off."""
        ...

    def next_fence(self) -> int:
        """A higher number than every one that this database gave before."""
        ...

    def lock(self, name: str, /) -> None:
        """Until the transaction ends, nobody else holds the lock of this name. Locks are taken in
        this order, so that nobody waits in a circle: a group's, `schedule`, `topics`, and then
        the rows of streams, by number."""
        ...

    def announce(self, topic: str, /) -> None:
        """With the commit, tell those of other processes who wait that there is something on this
        topic; with an empty name, that there may be something anywhere."""
        ...

    def commit(self) -> None:
        """Make the transaction durable."""
        ...

    def abandon(self) -> None:
        """Roll back whatever is open, and forget what was read in it."""
        ...

    def close(self) -> None:
        """Let go of the database."""
        ...
