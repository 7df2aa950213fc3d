"""Dispatch inside the process: one event to one or five async receivers, awaited."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from benchmarks.subjects.order import TOPIC, OrderCreated, order
from benchmarks.subjects.stopwatch import Stopwatch
from postroad import Postroad

Handler = Callable[[OrderCreated], Awaitable[None]]


class _Calls:
    """So many receivers, and how often they were called together."""

    def __init__(self, receivers: int) -> None:
        self.number = 0
        self.handlers: list[Handler] = [self._make() for _ in range(receivers)]

    def _make(self) -> Handler:
        async def handler(event: OrderCreated) -> None:
            self.number += 1

        return handler

    def check(self, events: int) -> None:
        """Nobody was forgotten."""
        if self.number != events * len(self.handlers):
            raise RuntimeError(f"{self.number} calls of {len(self.handlers)} × {events}")


def road(figure: str, receivers: int, count: int) -> Mapping[str, float]:
    """Postroad: `road.publish` to `@road.observe`, on memory://."""

    async def run() -> Mapping[str, float]:
        calls = _Calls(receivers)
        road = Postroad("memory://")
        for handler in calls.handlers:
            road.observe(TOPIC)(handler)
        event = order(0)
        async with road:
            with Stopwatch() as watch:
                for _ in range(count):
                    await road.publish(TOPIC, event)
            seconds = watch.seconds
        calls.check(count)
        return {figure: count / seconds}

    return asyncio.run(run())


def bare(figure: str, receivers: int, count: int) -> Mapping[str, float]:
    """The limit: await one function after the other, without protection."""

    async def run() -> Mapping[str, float]:
        calls = _Calls(receivers)
        handlers, event = calls.handlers, order(0)
        with Stopwatch() as watch:
            for _ in range(count):
                for handler in handlers:
                    await handler(event)
        seconds = watch.seconds
        calls.check(count)
        return {figure: count / seconds}

    return asyncio.run(run())


def gathered(figure: str, receivers: int, count: int) -> Mapping[str, float]:
    """`asyncio.gather` over the receivers."""

    async def run() -> Mapping[str, float]:
        calls = _Calls(receivers)
        handlers, event = calls.handlers, order(0)
        with Stopwatch() as watch:
            for _ in range(count):
                await asyncio.gather(*[handler(event) for handler in handlers])
        seconds = watch.seconds
        calls.check(count)
        return {figure: count / seconds}

    return asyncio.run(run())


def blinker(figure: str, receivers: int, count: int) -> Mapping[str, float]:
    """blinker's `send_async`. Receivers are held, as blinker itself holds them weakly."""
    from blinker import Signal

    async def run() -> Mapping[str, float]:
        calls = _Calls(receivers)
        signal, event = Signal(), order(0)
        for handler in calls.handlers:
            signal.connect(handler)
        with Stopwatch() as watch:
            for _ in range(count):
                await signal.send_async(event)
        seconds = watch.seconds
        calls.check(count)
        return {figure: count / seconds}

    return asyncio.run(run())


def pyee(figure: str, receivers: int, count: int) -> Mapping[str, float]:
    """pyee's AsyncIOEventEmitter, awaited until its receivers have run."""
    from pyee.asyncio import AsyncIOEventEmitter

    async def run() -> Mapping[str, float]:
        calls = _Calls(receivers)
        emitter, event = AsyncIOEventEmitter(), order(0)
        for handler in calls.handlers:
            emitter.add_listener("order", handler)
        with Stopwatch() as watch:
            for _ in range(count):
                emitter.emit("order", event)
                await emitter.wait_for_complete()
        seconds = watch.seconds
        calls.check(count)
        return {figure: count / seconds}

    return asyncio.run(run())


def bubus(figure: str, receivers: int, count: int) -> Mapping[str, float]:
    """bubus: dispatch and await the event. Its events are pydantic models."""
    os.environ.setdefault("BUBUS_LOGGING_LEVEL", "ERROR")
    from bubus import BaseEvent, EventBus, models

    logging.getLogger("bubus").setLevel(logging.ERROR)

    class Order(BaseEvent[Any]):  # type: ignore[misc]
        order_id: int
        customer: str
        cents: int

    Order.model_rebuild(_types_namespace=vars(models))

    async def run() -> Mapping[str, float]:
        bus = EventBus()
        called = 0
        for number in range(receivers):

            async def handler(event: Any) -> None:
                nonlocal called
                called += 1

            handler.__name__ = f"handler_{number}"
            bus.on(Order, handler)
        with Stopwatch() as watch:
            for number in range(count):
                await bus.dispatch(Order(order_id=number, customer="adele", cents=12_990))
        seconds = watch.seconds
        await bus.stop()
        if called != count * receivers:
            raise RuntimeError(f"{called} calls of {receivers} × {count}")
        return {figure: count / seconds}

    return asyncio.run(run())
