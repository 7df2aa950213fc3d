"""Postroad: declare, check, wire. The only file that names concrete transports."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from importlib import import_module
from urllib.parse import parse_qsl, urlsplit

from postroad.core.capabilities import Capabilities
from postroad.core.clock import Clock, SystemClock
from postroad.core.hooks import HookChain, Hooks
from postroad.core.terms import Business
from postroad.core.transport import Keeps, Transport
from postroad.core.url import is_readable, mask
from postroad.delivery.inbox import Inbox
from postroad.delivery.sync import SyncRoad
from postroad.errors import (
    DeclarationError,
    InvalidURLError,
    MissingExtraError,
    NotSupportedError,
    UnknownTransportError,
)
from postroad.road.consuming import Consuming
from postroad.road.declarations import Bound, SubscribeOptions, Wiring
from postroad.road.numbering import Numbering
from postroad.road.questions import Questions
from postroad.road.reading import Reading
from postroad.storage.opening import SCHEMES, place_of
from postroad.storage.place import Place
from postroad.transports.polling import PollingSource

__all__ = [
    "TRANSPORTS",
    "Bound",
    "PollingSource",
    "Postroad",
    "SubscribeOptions",
    "catalog",
    "connect",
    "connect_database",
    "connect_store",
    "mask",
]

TRANSPORTS: Mapping[str, tuple[str, str, str | None]] = {
    "memory": ("postroad.transports.memory", "MemoryTransport", None),
    "sqlite": ("postroad.transports.sql", "SqlTransport", None),
    "postgresql": ("postroad.transports.sql", "SqlTransport", "postgresql"),
    "mysql": ("postroad.transports.sql", "SqlTransport", "mysql"),
}
"""URL scheme → module, class, and the extra that brings its client library."""

_SAMPLES = {
    "sqlite": "sqlite:///sample.db",
    "postgresql": "postgresql://postroad@localhost/sample",
    "mysql": "mysql://postroad@localhost/sample",
}
"""A URL of each scheme that needs more than the scheme, to ask for capabilities."""


class Postroad(Numbering, Consuming, Reading, Questions):
    """One road: topics to publish to, subscriptions to run, and everything to ask about them.

    Declaring costs no I/O. `async with road` connects, creates what was declared and checks every
    guarantee; `run` consumes. One object belongs to one event loop.

    Args:
        url: which transport, e.g. `sqlite:///shop.db`, `memory://`.
        store: the URL of another road that keeps what this one cannot: retries that wait, parked
            keys, dead letters. What a road keeps itself stays there. It is written first, then
            the road is told. A file serves the workers of one host only.
        database: the URL of the business database, where handlers' `tx` writes and the inbox of
            effectively-once lives: sqlite://, postgresql:// or mysql://. The road's own where that
            is one; opened, migrated and closed with the road.
        name: the CloudEvents source of what is published; the program's own name by default.
        hooks: where metrics, traces and logs attach.
        clock: time, for tests.

    Raises:
        InvalidURLError, UnknownTransportError, MissingExtraError: see there.
    """

    def __init__(
        self,
        url: str,
        *,
        database: str | None = None,
        store: str | None = None,
        name: str = "postroad",
        hooks: Hooks | None = None,
        clock: Clock | None = None,
    ) -> None:
        clock = clock or SystemClock()
        super().__init__(
            Wiring(
                url=mask(url),
                name=name,
                transport=connect(url, clock),
                store=None if store is None else connect_store(store, clock),
                hooks=HookChain(*([hooks] if hooks else [])),
                clock=clock,
                catalog=catalog,
                inbox=connect_database(database, url, clock),
                business=describe_database(url),
                database=database or (url if _is_database(url) else None),
                outbox=outbox_of(database, url),
            )
        )
        self._url = url
        self._database_url = database
        self._store_url = store
        self._sync: SyncRoad | None = None

    def __repr__(self) -> str:
        return f"Postroad({self.url!r})"

    async def close(self) -> None:
        """Send what was given, let go of the road. Idempotent."""
        await super().close()
        if self._sync is not None:
            await asyncio.to_thread(self._sync.close)

    @property
    def sync(self) -> SyncRoad:
        """The same road for code without an event loop: `road.sync.publish(topic, payload)` from
        Flask, Django or a script. It keeps a connection and a thread of its own.

        Raises:
            NotSupportedError: on memory://, whose messages live in the loop that publishes them.
        """
        if self._sync is None:
            if not self.capabilities.shared:
                raise NotSupportedError(
                    f"{self.url} lives inside one event loop; use a road that processes share"
                )
            self._sync = SyncRoad(
                lambda: Postroad(
                    self._url,
                    database=self._database_url,
                    store=self._store_url,
                    name=self.name,
                    hooks=self.hooks,
                )
            )
        return self._sync


def connect(url: str, clock: Clock) -> Transport:
    """The transport that a URL names, not yet opened.

    Raises:
        InvalidURLError: not a URL, or one that the transport cannot read.
        UnknownTransportError: no road answers to its scheme.
        MissingExtraError: its client library is not installed.
    """
    scheme, colon, _ = url.partition(":")
    if not colon or "//" not in url or not is_readable(url):
        raise InvalidURLError(f"{mask(url)!r} is not a road's URL; they look like {_examples()}")
    if scheme not in TRANSPORTS:
        raise UnknownTransportError(
            f"no road answers to {scheme}://; this version has {_examples()}"
        )
    module, name, extra = TRANSPORTS[scheme]
    try:
        make = getattr(import_module(module), name)
    except ImportError as error:
        if extra is None:
            raise
        raise MissingExtraError(
            f"{scheme}:// needs {error.name}: pip install 'postroad[{extra}]'"
        ) from None
    transport: Transport = make(url, clock=clock)
    return transport


def connect_store(url: str, clock: Clock) -> Transport:
    """As `connect`, for a road that is to keep what another one cannot.

    Raises:
        DeclarationError: it cannot keep that either.
    """
    store = connect(url, clock)
    able = store.capabilities
    if not isinstance(store, Keeps) or not (able.parking and able.dead_letters and able.durable):
        raise DeclarationError(
            f"{mask(url)} cannot be a store: that takes a durable road that keeps retries, parked "
            "keys and dead letters, such as sqlite:///store.db"
        )
    return store


def connect_database(url: str | None, road: str, clock: Clock) -> Inbox | None:
    """The business database that a URL names, not yet opened; None where that is the road itself,
    or there is none.

    Raises:
        DeclarationError: it names no database.
    """
    if url is None:
        return None
    place = place_of(url)
    if _is_database(road) and place_of(road).name == place.name and _schema(road) == _schema(url):
        return None
    return Inbox(place, clock)


def outbox_of(url: str | None, road: str) -> Place | None:
    """The road's own database, where somebody has named it as the business database as well."""
    if url is None or connect_database(url, road, SystemClock()) is not None:
        return None
    return place_of(road)


def describe_database(road: str) -> Business | None:
    """A road as a business database; None if it is none."""
    if not _is_database(road):
        return None
    place = place_of(road)
    return Business(place.name, 1 if place.one_writer else place.pool, outbox=True)


def _is_database(url: str) -> bool:
    return url.partition(":")[0] in SCHEMES


def _schema(url: str) -> str:
    """Where in its database the tables are, if the URL says so."""
    return dict(parse_qsl(urlsplit(url).query)).get("schema", "")


def catalog() -> Mapping[str, Capabilities]:
    """The capabilities of every road whose client library is installed, by scheme."""
    known: dict[str, Capabilities] = {}
    for scheme in TRANSPORTS:
        try:
            sample = connect(_SAMPLES.get(scheme, f"{scheme}://"), SystemClock())
        except MissingExtraError:
            continue
        known[f"{scheme}://"] = sample.capabilities
    return known


def _examples() -> str:
    return ", ".join(_SAMPLES.get(scheme, f"{scheme}://") for scheme in TRANSPORTS)
