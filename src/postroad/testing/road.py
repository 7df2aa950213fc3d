"""A user's road in a unit test: in memory, on a clock that the test moves, failing on demand."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from contextvars import ContextVar
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar, Unpack

from postroad.app import Bound, Postroad
from postroad.core.delivery import Receipt
from postroad.core.message import Message
from postroad.core.reports import DeadLetter
from postroad.core.topic import PublishOptions, Topic
from postroad.delivery.audit import Audit
from postroad.errors import ClosedError, DeclarationError, NotFoundError
from postroad.testing.clock import VirtualClock
from postroad.testing.faulty import FaultyTransport

T = TypeVar("T")

_GLANCE = 0.001
_inside: ContextVar[str | None] = ContextVar("postroad_test_handler", default=None)


class TestRoad:
    """The app under test on a fresh road in memory, whatever its URL says::

        async with TestRoad(road) as test:
            await test.publish(orders, Order(1, "ada"))
            assert test.published(invoices) == [Invoice(1)]
            await test.advance(timedelta(hours=1))

    On entering, every guarantee is checked against the road's real URL, which is not opened.
    Inside the block the app's own object is on the test's road, so that a handler that uses it
    publishes there too. Time stands still until `advance`. A retry, a delay, an `every` happen
    when their time comes; a batch does not wait to fill.

    `tx: Transaction` writes to `database`, an SQLite database in memory that commits and rolls
    back with the message as the real one does.

    Not for what only a real road does: reading history, several processes, `road.sync`.

    Args:
        road: the app's `Postroad`, or a function that makes it.
        patience: how long, in real time, a handler may run before the test fails. Handlers in
            threads and real I/O are waited for.

    Raises:
        GuaranteeError: on entering, if the real road cannot keep what the app asks for.
    """

    __test__ = False

    def __init__(
        self,
        road: Postroad | Callable[[], Postroad],
        *,
        patience: timedelta = timedelta(seconds=5),
    ) -> None:
        self.road = road if isinstance(road, Postroad) else road()
        self.clock = _PatientClock(patience.total_seconds())
        self._stack = ExitStack()
        self._stop = asyncio.Event()
        self._transport: FaultyTransport | None = None
        self._run: asyncio.Task[None] | None = None

    async def __aenter__(self) -> TestRoad:
        if self._transport is not None:
            raise DeclarationError("a TestRoad is entered once; make another one")
        self.road.check()
        self._transport = FaultyTransport(self.clock)
        self._stack.enter_context(self.road.rebound(self._transport, self.clock, self._adapt))
        try:
            await self.road.open()
            self._run = asyncio.create_task(self.road.run(stop=self._stop))
            await self.run_until_idle()
        except BaseException:
            await self._leave()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._leave()

    async def _leave(self) -> None:
        self._stop.set()
        try:
            if self._run is not None:
                await self._run
        finally:
            await self.road.close()
            self._stack.close()
            self._used().database.close()

    # --- doing ---------------------------------------------------------------------------------

    async def publish(
        self, topic: Topic[T], *payloads: T, **options: Unpack[PublishOptions]
    ) -> list[Receipt]:
        """Publish and run the handlers until nothing is left to do at this instant.

        Several payloads are all there before the first handler runs.

        Raises:
            AssertionError: a handler runs for longer than `patience`.
        """
        receipts = await self.road.publish_many(topic, payloads, **options)
        await self.run_until_idle()
        return receipts

    async def advance(self, duration: timedelta) -> None:
        """Let time pass: whatever becomes due on the way happens at its own instant.

        Raises:
            AssertionError: a handler runs for longer than `patience`.
        """
        await self.clock.advance(duration)
        self._check_running()

    async def run_until_idle(self) -> None:
        """Run the handlers until nothing is left to do at this instant."""
        await self.clock.settle()
        self._check_running()

    def _check_running(self) -> None:
        if self._run is not None and self._run.done():
            self._run.result()

    # --- faults --------------------------------------------------------------------------------

    def duplicate(self, topic: Topic[Any] | str, times: int = 1) -> None:
        """The next message that each group handles on the topic comes `times` times more: its
        answer gets lost, as a broken connection loses it. What its `tx` wrote is rolled back."""
        for group in self._groups(topic):
            self._used().faults.repeats[_name(topic), group] = times

    def reorder(self, topic: Topic[Any] | str, seed: int = 0) -> None:
        """From now on messages that arrive together on the topic come in another order: any that
        the subscription permits, so `order="key"` mixes the keys and keeps each one's order."""
        self._used().faults.shuffles[_name(topic)] = random.Random(seed)

    def crash(self, group: str) -> None:
        """The group's consumer dies after its next handler and before the answer, as by kill -9.
        What it held comes to its successor when its lease is over; see `advance`."""
        if group not in {bound.subscription.group for bound in self.road.subscriptions}:
            raise NotFoundError(f"no subscription of group {group!r}")
        self._used().faults.crashes.add(group)

    def _groups(self, topic: Topic[Any] | str) -> list[str]:
        name = _name(topic)
        subscriptions = [bound.subscription for bound in self.road.subscriptions]
        return [s.group for s in subscriptions if s.group is not None and s.reads(name)]

    # --- asking --------------------------------------------------------------------------------

    def published(self, topic: Topic[T]) -> list[T]:
        """Every payload that was accepted on the topic, in order, whoever published it."""
        return [topic.decode(message.data) for message in self.messages(topic)]

    def messages(self, topic: Topic[Any] | str) -> list[Message]:
        """The same as whole messages."""
        name = _name(topic)
        return [message for on, message in self._used().accepted if on == name]

    async def dead_letters(
        self, topic: Topic[Any] | str = "#", group: str | None = None
    ) -> Sequence[DeadLetter]:
        """What groups have given up; `road.dead_letters.redrive()` sends them back."""
        return await self.road.dead_letters.list(_name(topic), group)

    async def audit(self, topic: Topic[Any] | str = "#", group: str | None = None) -> Audit:
        """What became of every message accepted."""
        return await self.road.audit(_name(topic), group)

    @property
    def database(self) -> sqlite3.Connection:
        """Where `tx` writes: make the tables before, look at them after."""
        return self._used().database

    # --- inside --------------------------------------------------------------------------------

    def _used(self) -> FaultyTransport:
        if self._transport is None:
            raise ClosedError("use the test's road inside `async with TestRoad(…) as test:`")
        return self._transport

    def _adapt(self, bound: Bound) -> Bound:
        subscription, handler = bound.subscription, bound.handler
        if subscription.batch is not None:
            at_once = replace(subscription.batch, wait=timedelta(0))
            subscription = replace(subscription, batch=at_once)
        watched = self.clock.watched(handler.name, handler.function, handler)
        return Bound(subscription, replace(handler, function=watched, is_async=True, yields=False))


class _PatientClock(VirtualClock):
    """Time does not move while a handler runs: what happens in threads and on real I/O takes no
    time here, but it is waited for."""

    def __init__(self, patience: float) -> None:
        super().__init__()
        self._patience = patience
        self._busy: Counter[str] = Counter()

    def watched(self, name: str, function: Callable[..., Any], handler: Any) -> Callable[..., Any]:
        """The handler's function as a coroutine function that is known to run while it runs."""

        async def run(*args: Any, **named: Any) -> Any:
            self._busy[name] += 1
            token = _inside.set(name)
            try:
                return await call(*args, **named)
            finally:
                _inside.reset(token)
                self._busy[name] -= 1

        async def call(*args: Any, **named: Any) -> Any:
            if handler.is_async and handler.yields:
                return [item async for item in function(*args, **named)]
            if handler.is_async:
                return await function(*args, **named)
            if handler.yields:
                return await asyncio.to_thread(lambda: list(function(*args, **named)))
            return await asyncio.to_thread(function, *args, **named)

        return run

    async def sleep(self, seconds: float) -> None:
        name = _inside.get()
        if name is None:
            return await super().sleep(seconds)
        self._busy[name] -= 1  # only the test can end this
        try:
            return await super().sleep(seconds)
        finally:
            self._busy[name] += 1

    async def settle(self) -> None:
        deadline = time.monotonic() + self._patience
        while True:
            await super().settle()
            running = sorted(+self._busy)
            if not running:
                return
            if time.monotonic() > deadline:
                raise AssertionError(
                    f"still running after {self._patience:g} s: {', '.join(running)}"
                )
            await asyncio.sleep(_GLANCE)


def _name(topic: Topic[Any] | str) -> str:
    return topic if isinstance(topic, str) else topic.name
