"""Publishing by the clock: every so often, or by a cron line, once for all processes."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from postroad.core.clock import Clock, from_us
from postroad.core.message import Message
from postroad.core.topic import Outgoing, Topic
from postroad.core.transport import OnceTokens, Transport
from postroad.delivery.patience import patiently
from postroad.errors import HandlerTypeError

Entries = list[tuple[Topic[Any], Message]]
_LOOK_AGAIN = 1.0
"""Seconds to sleep at most before looking at the clock again, which may have been set."""


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


class Ticker:
    """Runs one `Every`. With several processes each tick is published by one of them.

    The function is called first and its messages are published together with the tick's token,
    so a crash in between repeats the call and never the publishing. Ticks that passed while
    nobody ran are missed. What the function raises goes to the event loop's exception handler
    and costs this process that tick.
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
        """Tick until cancelled. A tick that is over before the last one was done is missed, and
        so is what lies between when the clock jumps."""
        while True:
            tick = next(self._every.ticks(self._clock.now_us()), None)
            if tick is None:
                await asyncio.Event().wait()  # a cron line without another day
            elif await self._is_due(tick):
                await self._tick(tick)

    async def _is_due(self, tick: int) -> bool:
        """Sleep until the tick; False if the clock went back meanwhile, so that others come
        before it."""
        before = self._clock.now_us()
        while (rest := tick - self._clock.now_us()) > 0:
            if self._clock.now_us() < before:
                return False
            before = self._clock.now_us()
            await self._clock.sleep(min(rest / 1e6, _LOOK_AGAIN))
        return True

    async def _tick(self, tick: int) -> None:
        try:
            outgoing = self._outgoing(await self._call(from_us(tick)))
            entries = self._entries(outgoing)
        except Exception as error:  # noqa: BLE001 - the function's trouble is not the road's
            asyncio.get_running_loop().call_exception_handler(
                {"message": f"every {self._every.name!r} raised", "exception": error}
            )
            return
        if entries:
            for topic in {item.topic for item in outgoing}:
                await patiently(self._clock, lambda: self._prepare(topic))  # noqa: B023
            await patiently(self._clock, lambda: self._publish(tick, entries))

    async def _publish(self, tick: int, entries: Entries) -> None:
        if isinstance(self._transport, OnceTokens):
            await self._transport.publish_once(f"every:{self._every.name}:{tick}", entries)
        else:
            await self._transport.publish(entries)

    def _outgoing(self, result: Any) -> list[Outgoing]:
        items = result if isinstance(result, list | tuple) else [result]
        wrong = [item for item in items if not isinstance(item, Outgoing | None)]
        if wrong:
            raise HandlerTypeError(
                f"every {self._every.name!r} returned {type(wrong[0]).__name__}; "
                "it may return topic.message(payload), a list of them, or None"
            )
        return [item for item in items if item is not None]

    def _entries(self, outgoing: list[Outgoing]) -> Entries:
        now = self._clock.now_us()
        return [
            (item.topic, item.topic.envelope_with(item.payload, item.options, now, self._source))
            for item in outgoing
        ]

    async def _call(self, tick: datetime) -> Any:
        arguments = (tick,) if self._every.wants_tick else ()
        if self._every.is_async:
            return await self._every.function(*arguments)
        result = await asyncio.to_thread(self._every.function, *arguments)
        return await result if inspect.isawaitable(result) else result
