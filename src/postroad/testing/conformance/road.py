"""What a transport gives the suite to be tested: how to make it, and how to hurt it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

from postroad.core.transport import Transport
from postroad.testing.conformance.waiting import PATIENCE


@dataclass(frozen=True, kw_only=True)
class Road:
    """One transport over data of its own, empty when a test begins.

    Attributes:
        make: a new instance, not opened. Where `Capabilities.shared` says so, every instance
            meets the same data, and each stands for another process.
        process: how a process of its own gets there: `module:callable` that makes a transport,
            and the text arguments to call it with. Needed where `shared` and `durable`, unless
            it is a model.
        model: its server is an object in the test's own process, which no other one reaches.
        restart: stops the server hard and starts it again on the same data; None where there is
            no server.
        disconnect: breaks every connection of one instance, which gets them back by itself; None
            where a broken connection is nothing that a consumer would notice.
        parameter: how a statement of a handler's transaction writes its only parameter.
        define: runs a statement that makes a table; None where a transaction can do that without
            being ended by it.
        lease: a lease short enough to wait for and long enough not to run out by accident.
        burst: how many messages are published at once in the test of it.
        backlog: where a full queue refuses, waits or drops (`Capabilities.backlog`), more than
            it holds.
        patience: seconds without progress after which what should come is given up.
    """

    make: Callable[[], Transport]
    process: tuple[str, ...] = ()
    model: bool = False
    restart: Callable[[], Awaitable[None]] | None = None
    disconnect: Callable[[Transport], Awaitable[None]] | None = None
    parameter: str = "?"
    define: Callable[[str], Awaitable[None]] | None = None
    lease: timedelta = timedelta(seconds=1)
    burst: int = 10_000
    backlog: int = 20_000
    patience: float = PATIENCE
