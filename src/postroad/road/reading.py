"""Reading along without a group: streams of what comes, and browsing what is kept."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from postroad.core.contract import check
from postroad.core.delivery import Delivery, Start
from postroad.core.subscription import Subscription
from postroad.core.topic import Topic
from postroad.delivery.execution import describe
from postroad.delivery.tail import tail
from postroad.errors import PayloadError
from postroad.road.connection import Connection

T = TypeVar("T")


class Reading(Connection):
    """A road's messages for who only looks at them."""

    async def stream(self, topic: Topic[T], *, start: Start = "latest") -> AsyncGenerator[T, None]:
        """The topic's payloads as they come, to this iterator alone; nothing outlives it. A
        payload that cannot be decoded is skipped and told to `Hooks.failed`."""
        async with aclosing(self.stream_messages(topic, start=start)) as deliveries:
            async for delivery in deliveries:
                try:
                    payload = topic.decode(delivery.message.data)
                except PayloadError as error:
                    failure = describe(error, self.clock.now_us())
                    self.hooks.failed(Subscription(source=topic, group=None), delivery, failure)
                else:
                    yield payload

    async def stream_messages(
        self, source: Topic[Any] | str, *, start: Start = "latest"
    ) -> AsyncGenerator[Delivery, None]:
        """As `stream`, over a topic or a pattern, with whole deliveries."""
        if isinstance(source, Topic):
            await self._prepare_to_publish(source)
        transport = await self._source()
        subscription = Subscription(source=source, group=None, start=start)
        check(subscription, self.capabilities, catalog=self._catalog)
        self._streams.append(subscription.source_name)
        self._needs_road.clear()
        try:
            async with aclosing(tail(transport, subscription, self.clock)) as deliveries:
                async for delivery in deliveries:
                    yield delivery
        finally:
            self._streams.remove(subscription.source_name)
            self._needs_road.clear()

    async def browse(
        self, topic: str, start: Start = "earliest", limit: int = 100
    ) -> Sequence[Delivery]:
        """Read kept messages without a group and without effect; see `Source.browse`."""
        return await (await self._source()).browse(topic, start, limit)
