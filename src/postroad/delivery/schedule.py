"""Publishing by the clock: every so often, or by a cron line, once for all processes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import Any

from postroad.core.clock import Clock, duration_us, from_us
from postroad.core.message import Message
from postroad.core.topic import Outgoing, Topic
from postroad.core.transport import OnceTokens, Transport
from postroad.delivery.patience import patiently
from postroad.errors import DeclarationError, HandlerTypeError, MissingExtraError

Entries = list[tuple[Topic[Any], Message]]


@dataclass(frozen=True)
class Every:
    """A function that is called at each tick and returns what to publish then.

    Attributes:
        name: identifies it over processes and restarts.
        ticks: the ticks after an instant (µs since the epoch), in order.
        function: `async def` or `def`, without parameters or with the tick as a datetime.
    """

    name: str
    ticks: Callable[[int], Iterator[int]]
    function: Callable[..., Any]
    wants_tick: bool
    is_async: bool


def ticks_of(when: timedelta | str) -> Callable[[int], Iterator[int]]:
    """The ticks of an interval (counted from 1970-01-01 UTC, so that all processes agree) or of
    a five-field cron line in UTC.

    Raises:
        DeclarationError: neither a positive interval nor a cron line.
        MissingExtraError: a cron line, and cronsim is not installed.
    """
    if isinstance(when, timedelta):
        if when <= timedelta(0):
            raise DeclarationError("every(…): the interval must be positive")
        return _interval_ticks(duration_us(when))
    return _cron_ticks(when)


def _interval_ticks(step: int) -> Callable[[int], Iterator[int]]:
    def after(now_us: int) -> Iterator[int]:
        tick = (now_us // step + 1) * step
        while True:
            yield tick
            tick += step

    return after


def _cron_ticks(line: str) -> Callable[[int], Iterator[int]]:
    try:
        cronsim = import_module("cronsim")
    except ImportError:
        raise MissingExtraError(
            f"every({line!r}) needs cronsim: pip install 'postroad[cron]'"
        ) from None

    def after(now_us: int) -> Iterator[int]:
        for instant in cronsim.CronSim(line, from_us(now_us)):
            yield int(instant.replace(tzinfo=UTC).timestamp()) * 1_000_000

    try:
        next(after(0), None)
    except cronsim.CronSimError as error:
        raise DeclarationError(f"every({line!r}): not a cron line: {error}") from None
    return after


class Ticker:
    """Runs one `Every`. With several processes each tick is published by one of them.

    The function is called first and its messages are published together with the tick's token,
    so a crash in between repeats the call and never the publishing. Ticks that passed while
    nobody ran are missed.
    """

    def __init__(
        self,
        every: Every,
        transport: Transport,
        clock: Clock,
        *,
        source: str,
        prepare: Callable[[Topic[Any]], Awaitable[None]],
    ) -> None:
        self._every = every
        self._transport = transport
        self._clock = clock
        self._source = source
        self._prepare = prepare

    async def run(self) -> None:
        """Tick until cancelled.

        Raises:
            HandlerTypeError: the function returned something else than messages.
        """
        for tick in self._every.ticks(self._clock.now_us()):
            while (rest := tick - self._clock.now_us()) > 0:
                await self._clock.sleep(rest / 1e6)
            entries = await self._entries(tick)
            if entries:
                await patiently(self._clock, lambda: self._publish(tick, entries))  # noqa: B023

    async def _publish(self, tick: int, entries: Entries) -> None:
        if isinstance(self._transport, OnceTokens):
            await self._transport.publish_once(f"every:{self._every.name}:{tick}", entries)
        else:
            await self._transport.publish(entries)

    async def _entries(self, tick: int) -> Entries:
        result = await self._call(from_us(tick))
        items = result if isinstance(result, list | tuple) else [result]
        entries: Entries = []
        for item in items:
            if item is None:
                continue
            if not isinstance(item, Outgoing):
                raise HandlerTypeError(
                    f"every {self._every.name!r} returned {type(item).__name__}; "
                    "it may return topic.message(payload), a list of them, or None"
                )
            await self._prepare(item.topic)
            message = item.topic.envelope_with(
                item.payload, item.options, self._clock.now_us(), self._source
            )
            entries.append((item.topic, message))
        return entries

    async def _call(self, tick: datetime) -> Any:
        arguments = (tick,) if self._every.wants_tick else ()
        if self._every.is_async:
            return await self._every.function(*arguments)
        return await asyncio.to_thread(self._every.function, *arguments)
