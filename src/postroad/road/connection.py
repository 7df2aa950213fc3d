"""Being connected: opening a road, preparing its topics, and closing it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Self

from postroad.core.clock import Clock
from postroad.core.contract import check_topic
from postroad.core.message import Message
from postroad.core.topic import Topic
from postroad.core.transport import KeepsSequences, Source, Transport
from postroad.delivery.delaying import Delaying
from postroad.delivery.moving import prefix_of
from postroad.delivery.publisher import Publisher
from postroad.delivery.resequencing import DatabaseStandings, Standings
from postroad.errors import ClosedError, DeclarationError, NotSupportedError
from postroad.road.declarations import Bound, Declarations, Wiring


class Connection(Declarations):
    """The connection to a road, with which every use of it begins."""

    def __init__(self, wiring: Wiring) -> None:
        super().__init__(wiring)
        self._publisher: Publisher | None = None
        self._prepared: set[Topic[Any]] = set()
        self._delaying: Delaying | None = None
        self._opening = asyncio.Lock()
        self._watching: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connect, check, and create what was declared: topics, and groups at their start.
        Idempotent.

        Raises:
            GuaranteeError: before anything is created.
            TransportError, StorageError: the road cannot be reached or used.
        """
        async with self._opening:
            if self._publisher is not None:
                return
            self.check()
            topics = list(self.topics.values())
            if self._inbox is not None:
                self._inbox.prepare = self._prepare_once
                await self._inbox.open()
            over = [one.subscription for one in self.subscriptions if one.transport is None]
            try:
                await self._transport.open(topics, over)
            except BaseException:
                if self._inbox is not None:
                    await self._inbox.close()
                raise
            for transport, subscription in self._external():
                await transport.open([], [subscription])
            if self._store is not None:
                await self._store.open([], [])
                if self.capabilities.delay < self._store.capabilities.delay:
                    self._delaying = Delaying(
                        self._transport, self._store, self.clock, road=self._place
                    )
                    await self._delaying.open()
            self._prepared.update(topics)
            self._publisher = Publisher(self._delaying or self._transport, self.hooks)
            self._watching = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Send what was given, let go of the road. Idempotent."""
        publisher, self._publisher = self._publisher, None
        if publisher is not None:
            await publisher.close()
        self._delaying = None
        try:
            for transport, _ in self._external():
                await transport.close()
            await self._transport.close()
        finally:
            if self._store is not None:
                await self._store.close()
            if self._inbox is not None:
                await self._inbox.close()
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @contextmanager
    def rebound(
        self, transport: Transport, clock: Clock, adapt: Callable[[Bound], Bound]
    ) -> Iterator[Self]:
        """Inside the block the same object, with all that was declared, is on another transport
        and another clock, its subscriptions adapted; `postroad.testing.TestRoad` is made of it.

        Raises:
            DeclarationError: the road is open.
        """
        if self._publisher is not None:
            raise DeclarationError(f"{self!r} is open; close it before it goes elsewhere")
        before = self._transport, self.clock, self.subscriptions, self._store
        database = self._inbox, self._business
        self._transport, self.clock, self._store = transport, clock, None
        self._inbox = self._business = None
        self.subscriptions = [adapt(_over_road(bound)) for bound in before[2]]
        try:
            yield self
        finally:
            self._transport, self.clock, self.subscriptions, self._store = before
            self._inbox, self._business = database
            self._prepared.clear()

    async def _watch(self) -> None:
        async for notice in self._transport.notices():
            self.hooks.noticed(None, notice)

    async def _publish_entries(self, entries: list[tuple[Topic[Any], Message]]) -> None:
        for topic, _ in entries:
            if topic not in self._prepared:
                await self._prepare(topic)
        await self._open_publisher().publish_many(iter(entries))

    async def _prepare_to_publish(self, topic: Topic[Any]) -> Publisher:
        publisher = self._open_publisher()
        if topic not in self._prepared:
            await self._prepare(topic)
        return publisher

    async def _prepare_once(self, topic: Topic[Any]) -> None:
        if topic not in self._prepared:
            await self._prepare(topic)

    async def _prepare(self, topic: Topic[Any]) -> None:
        self._declare(topic)
        check_topic(topic, self.capabilities, self._catalog)
        await self._transport.open([topic], [])
        self._prepared.add(topic)

    def _open_publisher(self) -> Publisher:
        if self._publisher is None:
            raise ClosedError("the road is not open; use it inside `async with road:`")
        return self._publisher

    async def _ready(self) -> Transport:
        self._open_publisher()
        return self._transport

    def _standings(self, group: str) -> Standings | None:
        """Where it is kept how far a group is with numbered messages."""
        if self.capabilities.sequences and isinstance(self._transport, KeepsSequences):
            return Standings(self._transport, group, durable=False)
        name = prefix_of(group, self._place)
        if self._inbox is not None:
            inbox = self._inbox
            return Standings(DatabaseStandings(lambda: inbox.database), name, durable=True)
        store: object = self._store
        return Standings(store, name, durable=True) if isinstance(store, KeepsSequences) else None

    async def _source(self) -> Source:
        transport = await self._ready()
        if not isinstance(transport, Source):
            raise NotSupportedError(f"{self.url} can only be published to")
        return transport


def _over_road(bound: Bound) -> Bound:
    """A subscription as one of the road, whatever it is read from."""
    if bound.transport is None:
        return bound
    return Bound(replace(bound.subscription, start="latest"), bound.handler)
