"""A database that can be opened: which one, and what its kind does in its own way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

from postroad.core.clock import Clock
from postroad.errors import StorageError
from postroad.storage.connection import Connection
from postroad.storage.statements import Dialect

Changed: TypeAlias = Callable[[frozenset[str] | None], None]
"""Told that somebody else has committed: something on these topics, or anything (None)."""


Connected: TypeAlias = Callable[[bool], None]
"""Told that the server has come back, or (False) was lost."""


class Watch(Protocol):
    """Notices what others commit, in a thread of its own; see `Place.watch`."""

    def enter(self, *, fresh: bool = True) -> None:
        """Somebody waits from now on; `fresh`: who has just had something, and may soon have more,
        and not one who goes on waiting."""
        ...

    def leave(self) -> None:
        """One fewer waits."""
        ...

    def stop(self) -> None:
        """End the thread. Blocks for a moment."""
        ...


class Place(Protocol):
    """Which database, and how it is used. All of it blocks, and any thread may call it."""

    @property
    def dialect(self) -> Dialect:
        """Which SQL it speaks."""
        ...

    @property
    def name(self) -> str:
        """What errors call it; holds no secret."""
        ...

    @property
    def risk(self) -> str:
        """One sentence: what can be lost of what was committed, and by what."""
        ...

    @property
    def busy(self) -> float:
        """Seconds to wait for somebody else's lock."""
        ...

    @property
    def clock(self) -> Clock | None:
        """The server's own, which every `begin` sets right; None where there is no server."""
        ...

    @property
    def pool(self) -> int:
        """How many handlers' transactions may be open at once."""
        ...

    @property
    def one_writer(self) -> bool:
        """Whether a write transaction keeps every other one waiting."""
        ...

    @property
    def failure(self) -> type[Exception]:
        """The root of the driver's errors."""
        ...

    def prepare(self) -> None:
        """Create or migrate our tables; safe in several processes at once. Raises
        `StorageError`s."""
        ...

    def connect(self, *, read_only: bool = False) -> Connection:
        """Open a connection for the calling thread. Raises `StorageError`s."""
        ...

    def begin(self, connection: Connection, scope: str, *, durable: bool) -> None:
        """Begin a write transaction that holds the lock `scope` (empty: none but what a place
        with one writer needs). With `durable=False` its commit need not survive a power cut.
        Raises `StorageError`s."""
        ...

    def begin_reading(self, connection: Connection) -> None:
        """Begin a transaction whose reads are all of one instant. It ends with `abandon`."""
        ...

    def mapped(self, error: Exception, *, committing: bool = False) -> StorageError:
        """Our error for one of the driver's. A plain `StorageError` (no subclass) is one whose
        effect nobody can tell: with `committing` that is also a connection that was lost."""
        ...

    def again(self, error: Exception) -> bool:
        """Whether the transaction that ended so may be run again at once: it was a victim of
        others, or its connection was lost before it began to commit."""
        ...

    def watch(self, changed: Changed, connected: Connected) -> Watch:
        """Start noticing what others commit: `changed` is called, from another thread, while
        somebody is between `enter` and `leave`. `connected` is told when the server is lost, and
        when it is back."""
        ...

    def last(self, connection: Connection) -> None:
        """Close the writer's connection, which was the last to write here."""
        ...
