"""Publishing from outside: typed through an app, or raw JSON onto a URL's road.

A URL says nothing of a topic's retention or key, so nothing is declared through it: the topic
stays as whoever declared it has it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Protocol

import msgspec

from postroad.app import Postroad, connect
from postroad.core.clock import Clock, SystemClock
from postroad.core.contract import check_delay
from postroad.core.delivery import Receipt
from postroad.core.message import Message
from postroad.core.topic import Options, PublishOptions, Topic, check_topic_name
from postroad.core.transport import Source, Transport
from postroad.errors import DeclarationError, NotSupportedError, PayloadError
from postroad.operations.loading import is_url, load_road, no_such_topic

SOURCE = "postroad-cli"
"""CloudEvents source of what is published onto a URL's road."""


class Outlet(Protocol):
    """Publishes JSON on one topic."""

    async def send(
        self, payloads: Sequence[bytes], options: PublishOptions, first: int = 1
    ) -> Sequence[Receipt]:
        """Publish in order; returns when all are accepted. `first` is the number of the first
        payload, for errors.

        Raises:
            PayloadError: one of them is not JSON, or does not fit the topic; none was sent.
            PublishError: not accepted, or of unknown fate.
        """
        ...


@asynccontextmanager
async def outlet(reference: str, name: str, *, create: bool = False) -> AsyncIterator[Outlet]:
    """The outlet of a topic, while the block lasts.

    Raises:
        NotFoundError: no such topic, and it shall not be made.
        DeclarationError: it cannot be a topic's name, or the reference is of no use.
    """
    check_topic_name(name)
    if not is_url(reference):
        road = load_road(reference)
        topic = _declared(road, name, create)
        async with road:
            yield _Typed(road, topic)
        return
    if not create:
        load_road(reference)  # refuses a file that is not there, and a road inside one process
    clock = SystemClock()
    transport = connect(reference, clock)
    try:
        await transport.open([], [])
        yield _Raw(transport, await _on_road(transport, name, create), clock)
    finally:
        await transport.close()


class _Typed:
    """Through an app: payloads have to fit the topic's type."""

    def __init__(self, road: Postroad, topic: Topic[Any]) -> None:
        self._road = road
        self._topic = topic

    async def send(
        self, payloads: Sequence[bytes], options: PublishOptions, first: int = 1
    ) -> Sequence[Receipt]:
        decoded = [
            _decoded(self._topic, payload, number) for number, payload in enumerate(payloads, first)
        ]
        return await self._road.publish_many(self._topic, decoded, **options)


class _Raw:
    """Onto a road: any JSON goes."""

    def __init__(self, transport: Transport, topic: Topic[Any], clock: Clock) -> None:
        self._transport = transport
        self._topic = topic
        self._clock = clock

    async def send(
        self, payloads: Sequence[bytes], options: PublishOptions, first: int = 1
    ) -> Sequence[Receipt]:
        chosen = Options(**options)
        now_us = self._clock.now_us()
        due_us = chosen.deliver_at_us(now_us)
        if due_us is not None:
            check_delay(timedelta(microseconds=due_us - now_us), self._transport.capabilities)
        entries = [
            (self._topic, self._envelope(payload, chosen, now_us, number))
            for number, payload in enumerate(payloads, first)
        ]
        return await self._transport.publish(entries)

    def _envelope(self, payload: bytes, options: Options, now_us: int, number: int) -> Message:
        raw = _decoded(self._topic, payload, number)
        return self._topic.envelope_with(raw, options, now_us, SOURCE)


def _decoded(topic: Topic[Any], payload: bytes, number: int) -> Any:
    try:
        return topic.decode(payload)
    except PayloadError as error:
        raise type(error)(f"payload {number} on {topic.name!r}: {error}") from None


def _declared(road: Postroad, name: str, create: bool) -> Topic[Any]:
    if create:
        raise DeclarationError("an app declares its topics itself; --create goes with a URL")
    topic = road.topics.get(name)
    if topic is None:
        raise no_such_topic(name, road.topics)
    return topic


async def _on_road(transport: Transport, name: str, create: bool) -> Topic[Any]:
    if not isinstance(transport, Source):
        raise NotSupportedError("this road cannot tell its topics; publish through an app")
    infos = {info.name: info for info in await transport.topics("#")}
    if name in infos:
        return Topic(name, msgspec.Raw, partitions=infos[name].partitions)
    if not create:
        raise no_such_topic(name, infos)
    topic = Topic(name, msgspec.Raw)
    await transport.open([topic], [])
    return topic
