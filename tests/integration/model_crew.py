"""Processes over one model's server, in virtual time: started, stopped and killed by a test."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any, Generic, TypeVar

from msgspec import Struct

from postroad.core.contract import PLAIN, Contract, draft
from postroad.core.delivery import Delivery, Failure
from postroad.core.hooks import Hooks
from postroad.core.message import Message
from postroad.core.notices import Notice
from postroad.core.subscription import Subscription
from postroad.core.topic import Topic
from postroad.delivery.handler import inspect_handler
from postroad.delivery.runner import Runner, Work
from postroad.testing.clock import VirtualClock
from postroad.testing.models import Broker
from postroad.testing.models.base import ModelTransport

M = TypeVar("M", bound=ModelTransport[Any])
Function = Callable[[Delivery], Awaitable[Any]]
SECOND = timedelta(seconds=1)
LEASE = timedelta(seconds=10)


class Job(Struct):
    n: int
    key: str = "k"


class Done(Struct):
    n: int


DONE: Topic[Done] = Topic("done", Done, partitions=1)


def jobs(partitions: int = 1) -> Topic[Job]:
    """The topic of these tests."""
    return Topic("jobs", Job, key="key", partitions=partitions)


def number(message: Message) -> int:
    """Which job, or whose result, a message is."""
    return int(message.id)


class Books(Hooks):
    """What one process's hooks were told."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.notices: list[Notice] = []
        self.lost_numbers: list[int] = []
        self.failures = 0

    def settled(self, subscription: Subscription, counts: Mapping[str, int]) -> None:
        self.outcomes.update(counts)

    def failed(self, subscription: Subscription, delivery: Delivery, failure: Failure) -> None:
        self.failures += 1

    def lost(self, subscription: Subscription, message: Message, failure: Failure) -> None:
        self.lost_numbers.append(number(message))

    def noticed(self, subscription: Subscription | None, notice: Notice) -> None:
        self.notices.append(notice)

    def were_told(self, kind: type) -> list[Any]:
        """The notices of a kind."""
        return [notice for notice in self.notices if isinstance(notice, kind)]


class Process(Generic[M]):
    """One process: an instance of the model, and a runner on it with one handler."""

    def __init__(
        self, crew: Crew[M], function: Function, road: M, settings: dict[str, Any]
    ) -> None:
        self.books = Books()
        self.road = road
        self.dead = False
        self.handled: list[Delivery] = []
        self._crew = crew
        self._function = function
        self._stop = asyncio.Event()
        subscription = Subscription(source=crew.topic, **settings)
        # What a road lacks is refused by `check`; the runner is held to its word all the same.
        plan = draft(subscription, road.capabilities, PLAIN).plan
        work = Work(
            subscription=subscription,
            contract=Contract(str(subscription), (), plan),
            handler=inspect_handler(self._handle, subscription),
            decode_for=lambda name: crew.topic.decode,
            max_payload=lambda name: None,
            publish=road.publish,
            source="tests",
        )
        self._runner = Runner(work, road, self.books, crew.clock)
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        await self.road.open([self._crew.topic, DONE], [])
        await self._runner.run(self._stop, 30 * SECOND)

    async def _handle(self, delivery: Delivery) -> Any:
        await self._alive()
        result = await self._function(delivery)
        # The effect of a handler is here: a killed process has none any more.
        await self._alive()
        self.handled.append(delivery)
        self._crew.handled.append(delivery)
        return result

    async def _alive(self) -> None:
        if self.dead:
            await asyncio.Event().wait()

    def kill(self) -> None:
        """SIGKILL: neither its handlers nor its runner do anything from now on."""
        self.dead = True
        self.road.kill()

    def ask_to_stop(self) -> None:
        """SIGTERM."""
        self._stop.set()

    async def finish(self) -> None:
        """Free what the test still holds of it."""
        await self.road.close()
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


class Crew(Generic[M]):
    """The server, the time, every process, and what was published and handled."""

    def __init__(
        self,
        make: Callable[[Broker[Any]], M],
        seed: int,
        partitions: int = 1,
        hasty: bool = False,
        **settings: Any,
    ) -> None:
        self.clock = VirtualClock()
        self.broker: Broker[Any] = Broker(seed=seed, clock=self.clock, hasty=hasty)
        self.random = self.broker.random
        self.topic = jobs(partitions)
        self.handled: list[Delivery] = []
        self.processes: list[Process[M]] = []
        self.keys: dict[str, list[int]] = defaultdict(list)
        self.publisher = make(self.broker)
        self._make = make
        self._settings = {"group": "g", "start": "earliest", "lease": LEASE, **settings}

    async def __aenter__(self) -> Crew[M]:
        await self.publisher.open([self.topic, DONE], [])
        if self.publisher.capabilities.groups:
            group = Subscription(source=self.topic, group="g", start="latest")
            results = Subscription(source=DONE, group="results", start="latest")
            await self.publisher.open([], [group, results])
        return self

    async def __aexit__(self, *exc: object) -> None:
        await asyncio.gather(*(process.finish() for process in self.processes))
        await self.publisher.close()

    async def publish(self, count: int, keys: int | None = 1) -> None:
        """So many jobs more, numbered on, their keys at random, or each with its own."""
        first = sum(map(len, self.keys.values()))
        entries = []
        for n in range(first, first + count):
            key = f"k{n if keys is None else self.random.randrange(keys)}"
            self.keys[key].append(n)
            data = b'{"n": %d, "key": "%s"}' % (n, key.encode())
            entries.append((self.topic, self._message(n, data, key)))
        await self.publisher.publish(entries)

    def _message(self, n: int, data: bytes, key: str) -> Message:
        now = self.clock.now_us()
        return Message(id=str(n), type="job", source="tests", data=data, time_us=now, key=key)

    async def start(self, function: Function, **settings: Any) -> Process[M]:
        """One process more."""
        road = self._make(self.broker)
        process = Process(self, function, road, self._settings | settings)
        self.processes.append(process)
        await self.passes(0)
        return process

    async def passes(self, seconds: float) -> None:
        """Let so much time pass."""
        await self.clock.advance(timedelta(seconds=seconds))

    async def until(self, condition: Callable[[], object], within: float = 600) -> None:
        """Let time pass until it is true.

        Raises:
            AssertionError: it was not within so many seconds of the clock, or a runner ended.
        """
        waited = 0.0
        while not condition():
            assert waited < within, f"not within {within} s (seed {self.broker.seed})"
            await self.passes(0.25)
            waited += 0.25
            for process in self.processes:
                if process.task.done():
                    process.task.result()

    async def stop(self, process: Process, within: float) -> None:
        """Drain a process; it has to end within so many seconds of the clock."""
        process.ask_to_stop()
        await self.passes(within)
        # What runs on real time, such as a loop's own turn.
        done, _ = await asyncio.wait([process.task], timeout=5)
        assert done, f"it does not end within {within} s"
        process.task.result()

    # ------------------------------------------------------------- what came of it

    @property
    def numbers(self) -> list[int]:
        """What was handled, in that order, repetitions among it."""
        return [number(delivery.message) for delivery in self.handled]

    @property
    def complete(self) -> bool:
        """Whether every job was handled at least once."""
        return set(self.numbers) == {n for line in self.keys.values() for n in line}

    def keys_of(self, n: int) -> list[int]:
        """The jobs of the key of one of them."""
        return next(line for line in self.keys.values() if n in line)

    def assert_key_order(self) -> None:
        """Nothing of a key is handled before everything that stands before it was. Repetitions
        are allowed: they begin at some place behind and go on in order."""
        reached: dict[str, int] = defaultdict(int)
        for delivery in self.handled:
            key = delivery.message.key or ""
            at = self.keys[key].index(number(delivery.message))
            assert at <= reached[key], f"{key}: {at} before {reached[key]}"
            reached[key] = max(reached[key], at + 1)

    def results(self) -> list[int]:
        """Whose results stand in the results' topic."""
        (line,) = self.broker.channels[DONE.name].lines
        return [DONE.decode(record.message.data).n for record in line]


async def nothing(delivery: Delivery) -> None:
    """A handler that is done at once."""


async def result(delivery: Delivery) -> Any:
    """A handler that publishes one result."""
    return DONE.message(Done(number(delivery.message)))


class Gate:
    """A handler that holds some jobs until they are let through."""

    def __init__(self, *numbers: int, then: Function = nothing) -> None:
        self.closed = set(numbers)
        self.started: list[int] = []
        self._then = then
        self._moved = asyncio.Event()

    def open(self) -> None:
        """Let all through."""
        self.closed.clear()
        self._moved.set()

    async def __call__(self, delivery: Delivery) -> Any:
        self.started.append(number(delivery.message))
        while number(delivery.message) in self.closed:
            self._moved.clear()
            await self._moved.wait()
        return await self._then(delivery)
