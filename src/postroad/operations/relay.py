"""Relaying an outbox: which one, to which road, and looking after it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path

from postroad.app import Postroad
from postroad.core.clock import SystemClock
from postroad.delivery.outbox import (
    Outbox,
    OutboxDepth,
    OutboxTable,
    Relay,
    RelayFigures,
    RelayHooks,
    RelaySettings,
)
from postroad.delivery.outbox.parking import Parked, list_parked, unpark
from postroad.delivery.outbox.reading import depth
from postroad.delivery.outbox.sharing import scope_of
from postroad.delivery.outbox.sql import sql_of
from postroad.delivery.outbox.table import OWN
from postroad.errors import DeclarationError
from postroad.storage.database import Database
from postroad.storage.opening import place_of


def table_of(reference: str | None) -> OutboxTable:
    """The table of an `Outbox` or `OutboxTable` at `module:attribute`; Postroad's own if none is
    named.

    Raises:
        DeclarationError: there is no such thing.
    """
    if reference is None:
        return OWN
    module, colon, name = reference.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        found = getattr(import_module(module), name) if colon and module else None
    except (ModuleNotFoundError, AttributeError):
        found = None
    if isinstance(found, Outbox):
        return found.table
    if isinstance(found, OutboxTable):
        return found
    raise DeclarationError(
        f"{reference!r} is no outbox: name an Outbox or an OutboxTable as module:attribute "
        "(shop:outbox)"
    )


def database_of(road: Postroad, url: str | None) -> str:
    """The URL of the database that the outbox is in: the one that is named, or the road's.

    Raises:
        DeclarationError: there is none.
    """
    found = url or road.database_url
    if found is None:
        raise DeclarationError(
            f"{road.url} is no database and names none: an outbox is in the business database; "
            "give --database URL, or declare Postroad(…, database=URL)"
        )
    return found


async def relay(
    road: Postroad,
    url: str,
    stop: asyncio.Event,
    *,
    table: OutboxTable,
    settings: RelaySettings,
    hooks: RelayHooks,
    once: bool,
) -> RelayFigures:
    """Publish the outbox to the road until `stop` is set, or with `once` what waits now.

    Raises:
        StorageError, TransportError: what waiting does not cure.
    """
    made: list[Relay] = []
    place = place_of(url)
    async with road:
        database = await Database.open(place, lambda topics: _wake(made, topics))
        try:
            made.append(road.relay(database, table=table, settings=settings, hooks=hooks))
            await _until(made[0], stop, once)
        finally:
            for one in made:
                await one.close()
            await database.close()
    return made[0].figures


def _wake(relays: list[Relay], topics: frozenset[str] | None) -> None:
    for one in relays:
        one.wake(topics)


async def _until(relay: Relay, stop: asyncio.Event, once: bool) -> None:
    working = asyncio.create_task(relay.drain() if once else relay.run())
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        await asyncio.gather(stopping, return_exceptions=True)
        if not working.done():
            await relay.close()
    await working


@asynccontextmanager
async def _opened(url: str) -> AsyncIterator[Database]:
    database = await Database.open(place_of(url))
    try:
        yield database
    finally:
        await database.close()


async def outbox_depth(url: str, table: OutboxTable) -> OutboxDepth:
    """How much waits in an outbox, and since when. Needs no relay.

    Raises:
        StorageError: the database cannot be read.
    """
    async with _opened(url) as database:
        clock = database.place.clock or SystemClock()
        return await database.scan(lambda c: depth(c, sql_of(table), clock))


async def parked_rows(url: str, table: OutboxTable) -> list[Parked]:
    """What no relay touches, the oldest first; a thousand rows at the most. Raises
    `StorageError`s."""
    async with _opened(url) as database:
        return await database.read(lambda c: list_parked(c, table.name))


async def let_go(url: str, table: OutboxTable, message_id: str | None) -> int:
    """Let parked rows be published again, in their old places: that of a message and what waits
    behind it, or all. Returns how many.

    Raises:
        NotFoundError: no row of this message is parked.
        StorageError: the database cannot be written.
    """
    async with _opened(url) as database:
        return await database.write(
            lambda c: unpark(c, table.name, message_id), scope=scope_of(table.name)
        )
