"""The runner in virtual time, over the memory road and over a road that settles by position."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from msgspec import Struct

from postroad.core.capabilities import Capabilities
from postroad.core.contract import Contract
from postroad.core.delivery import Delivery, Failure, Partition, Settled, Settlement
from postroad.core.hooks import Hooks
from postroad.core.message import Message, new_id
from postroad.core.notices import Lost, Notice, NoticeQueue, Revoking
from postroad.core.retry import Retry
from postroad.core.subscription import Batch, Subscription
from postroad.core.topic import Topic
from postroad.core.transport import Plan
from postroad.delivery.handler import inspect_handler
from postroad.delivery.runner import Runner, Work
from postroad.errors import NotSupportedError, StorageCorruptError, TransportUnavailableError
from postroad.testing.clock import VirtualClock

SECOND = timedelta(seconds=1)


class Job(Struct):
    n: int
    key: str = "k"


TOPIC: Topic[Job] = Topic("jobs", Job, key="key", partitions=2)


class Counts(Hooks):
    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.losses: list[tuple[int, str]] = []
        self.notices: list[Notice] = []

    def settled(self, subscription: Subscription, counts: Mapping[str, int]) -> None:
        self.outcomes.update(counts)

    def lost(self, subscription: Subscription, message: Message, failure: Failure) -> None:
        self.losses.append((TOPIC.decode(message.data).n, failure.reason))

    def noticed(self, subscription: Subscription | None, notice: Notice) -> None:
        self.notices.append(notice)


class Log:
    """A road of logs with one consumer. `cumulative`: a settlement moves its partition's
    position, and with it everything before; `closed` is where each position stood at the end."""

    def __init__(self, clock: VirtualClock, *, cumulative: bool = False) -> None:
        self.capabilities = Capabilities(
            settling="cumulative" if cumulative else "each", order="key-group", backlog="kept"
        )
        self.clock = clock
        self.logs: dict[int, list[Message]] = {0: [], 1: []}
        self.read = {0: 0, 1: 0}
        self.committed = {0: 0, 1: 0}
        self.settlements: list[Settlement] = []
        self.paused: set[Partition] = set()
        self.released: list[Partition] = []
        self.extended: list[int] = []
        self.given: list[Delivery] = []
        self.gone: set[int] = set()
        self.errors: dict[str, list[Exception]] = {}
        self.largest_request = 0
        self.closed = False
        self.news = asyncio.Event()
        self.queue = NoticeQueue()

    def put(self, n: int, partition: int = 0, key: str = "k", **settings: Any) -> None:
        message = Message(
            id=new_id(),
            type="t",
            source="s",
            data=b'{"n": %d}' % n,
            time_us=0,
            key=key,
            **settings,
        )
        self.logs[partition].append(message)
        self.news.set()

    def fail(self, name: str) -> None:
        if self.errors.get(name):
            raise self.errors[name].pop(0)

    async def subscribe(self, subscription: Subscription, plan: Plan) -> Log:
        self.fail("subscribe")
        self.read = dict(self.committed)
        self.closed = False
        self.queue = NoticeQueue()
        return self

    async def receive(self, limit: int, max_bytes: int, wait: timedelta) -> Sequence[Delivery]:
        self.fail("receive")
        self.largest_request = max(self.largest_request, limit)
        while True:
            batch: list[Delivery] = []
            for number, log in self.logs.items():
                if ("jobs", number) in self.paused:
                    continue
                for message in log[self.read[number] :][: limit - len(batch)]:
                    offset = self.read[number]
                    self.read[number] += 1
                    batch.append(
                        Delivery(
                            message=message,
                            topic="jobs",
                            group="g",
                            partition=number,
                            offset=offset,
                        )
                    )
            self.given += batch
            if batch:
                return batch
            self.news.clear()
            await self.news.wait()

    async def begin(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        self.fail("begin")
        return deliveries

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        self.fail("settle")
        assert not self.closed
        answers: list[Settled] = []
        for settlement in settlements:
            offset = settlement.delivery.offset
            assert isinstance(offset, int)
            if offset in self.gone:
                answers.append("stale")
                continue
            answers.append("done")
            self.settlements.append(settlement)
            if self.capabilities.settling == "cumulative":
                place = settlement.delivery.partition
                self.committed[place] = max(self.committed[place], offset + 1)
        return answers

    async def extend(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        self.extended.append(len(deliveries))
        return [one for one in deliveries if one.offset not in self.gone and one in self.given]

    def lose(self, partition: int) -> None:
        """It is another consumer's now; what was given of it is not ours any more."""
        self.given = [one for one in self.given if one.partition != partition]
        self.queue.put(Lost([("jobs", partition)]))

    async def pause(self, partitions: Sequence[Partition]) -> None:
        self.paused |= set(partitions)

    async def resume(self, partitions: Sequence[Partition]) -> None:
        self.paused -= set(partitions)
        self.news.set()

    async def release(self, partitions: Sequence[Partition]) -> None:
        self.released += partitions

    def notices(self) -> AsyncIterator[Notice]:
        return aiter(self.queue)

    async def close(self) -> None:
        self.closed = True
        self.queue.close()

    async def topics(self, pattern: str) -> Any: ...
    async def browse(self, topic: str, start: Any, limit: int) -> Any: ...
    async def seek(self, topic: str, group: str, to: Any) -> None: ...
    async def lag(self, topic: str, group: str) -> Any: ...
    async def open(self, topics: Any, subscriptions: Any) -> None: ...
    async def publish(self, messages: Any) -> Any: ...

    def answers(self, action: str = "ack") -> list[int]:
        return [number(one.delivery) for one in self.settlements if one.action == action]


def number(delivery: Delivery) -> int:
    return TOPIC.decode(delivery.message.data).n


class Bench:
    """A running runner."""

    def __init__(self, function: Callable[..., Any], log: Log, **settings: Any) -> None:
        self.log = log
        self.clock = log.clock
        self.counts = Counts()
        self.stop = asyncio.Event()
        self.results: list[Message] = []
        self.refusals: list[Exception] = []
        self.settings = {"group": "g", "lease": timedelta(days=300), **settings}
        subscription = Subscription(source=TOPIC, **self.settings)
        work = Work(
            subscription=subscription,
            contract=Contract("", ()),
            handler=inspect_handler(function, subscription),
            decode_for=lambda name: TOPIC.decode,
            max_payload=lambda name: None,
            publish=self.publish,
            source="tests",
        )
        transport: Any = log
        self.runner = Runner(work, transport, self.counts, self.clock)

    async def publish(self, entries: list[tuple[Topic[Any], Message]]) -> None:
        if self.refusals:
            raise self.refusals.pop(0)
        self.results += [message for _, message in entries]

    def start(self, drain: timedelta = 30 * SECOND) -> None:
        self.task = asyncio.create_task(self.runner.run(self.stop, drain))

    async def passes(self, seconds: float = 0) -> None:
        await self.clock.advance(timedelta(seconds=seconds))

    async def stops(self, seconds: float = 0) -> None:
        """Stop; assert that it has ended after so many seconds and not before."""
        self.stop.set()
        if seconds:
            await self.passes(seconds - 0.001)
            assert not self.task.done()
            await self.passes(0.001)
        await asyncio.wait_for(self.task, 5)
        assert self.log.closed


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def log(clock: VirtualClock) -> Log:
    return Log(clock)


@asynccontextmanager
async def running(bench: Bench, drain: timedelta = 30 * SECOND) -> AsyncIterator[Bench]:
    bench.start(drain)
    try:
        await bench.passes()
        yield bench
    finally:
        bench.task.cancel()
        await asyncio.gather(bench.task, return_exceptions=True)


class Gate:
    """A handler that holds some messages until they are let through."""

    def __init__(self, *numbers: int) -> None:
        self.closed = set(numbers)
        self.started: list[int] = []
        self.finished: list[int] = []
        self.cancelled: list[int] = []
        self._moved = asyncio.Event()

    def open(self, *numbers: int) -> None:
        self.closed -= set(numbers) if numbers else set(self.closed)
        self._moved.set()
        self._moved = asyncio.Event()

    async def __call__(self, job: Job) -> None:
        self.started.append(job.n)
        try:
            while job.n in self.closed:
                await self._moved.wait()
        except asyncio.CancelledError:
            self.cancelled.append(job.n)
            raise
        self.finished.append(job.n)


# ------------------------------------------------------------------ settling by position


async def test_nothing_is_committed_past_a_message_that_hangs(clock: VirtualClock) -> None:
    log, gate = Log(clock, cumulative=True), Gate(1)
    for n in range(1, 501):
        log.put(n)
    bench = Bench(gate, log, concurrency=4)
    async with running(bench):
        await bench.passes(60)
        assert sorted(gate.finished) == list(range(2, 501))
        assert log.committed[0] == 0
        await bench.stops(30)
    assert log.committed == {0: 0, 1: 0}
    assert gate.cancelled == [1]
    again = Gate()
    bench = Bench(again, log)
    async with running(bench):
        await bench.passes()
        assert log.committed[0] == 500
        assert again.started[0] == 1
        await bench.stops()


async def test_one_that_finishes_late_lets_the_prefix_go(clock: VirtualClock) -> None:
    log, gate = Log(clock, cumulative=True), Gate(1, 3)
    for n in range(1, 6):
        log.put(n)
    bench = Bench(gate, log, concurrency=4)
    async with running(bench):
        gate.open(1)
        await bench.passes()
        assert log.committed[0] == 2
        gate.open(3)
        await bench.passes()
        assert log.committed[0] == 5
        assert bench.counts.outcomes == {"handled": 5}


async def test_a_lost_partition_that_comes_back_commits_from_where_it_stood(
    clock: VirtualClock,
) -> None:
    log, gate = Log(clock, cumulative=True), Gate(0)
    for n in range(5):
        log.put(n)
    bench = Bench(gate, log, concurrency=4)
    async with running(bench):
        log.lose(0)
        await bench.passes()
        log.read[0] = 0
        log.news.set()
        await bench.passes()
        gate.open()
        await bench.passes()
        assert log.committed[0] == 5
        assert bench.counts.outcomes["stale"] == 5
        log.put(5)
        await bench.passes()
        assert log.committed[0] == 6


# ------------------------------------------------------------------ holding


async def test_a_held_message_occupies_no_worker_and_its_key_waits(log: Log) -> None:
    calls: list[int] = []

    async def handler(job: Job, delivery: Delivery) -> None:
        calls.append(job.n)
        if job.n == 0 and delivery.attempts < 2:
            raise ValueError

    log.put(0, key="a")
    log.put(1, key="a")
    for n in range(2, 30):
        log.put(n, key=f"other{n % 3}")
    policy = Retry(attempts=5, backoff="fixed", first=10 * SECOND)
    bench = Bench(handler, log, order="key", concurrency=1, retry=policy)
    async with running(bench):
        assert sorted(log.answers()) == list(range(2, 30))
        await bench.passes(9.99)
        assert calls.count(0) == 1
        await bench.passes(0.01)
        assert calls.count(0) == 2
        await bench.passes(10)
        assert calls[-2:] == [0, 1]
        assert sorted(log.answers()) == list(range(30))


async def test_many_blocked_keys_leave_room_for_the_others(log: Log) -> None:
    async def handler(job: Job) -> None:
        if job.n < 700:
            raise ValueError

    for n in range(700):
        log.put(n, key=f"bad{n % 70}")
    for n in range(700, 900):
        log.put(n, key=f"good{n}")
    policy = Retry(attempts=5, backoff="fixed", first=timedelta(minutes=9))
    bench = Bench(handler, log, order="key", concurrency=4, retry=policy)
    async with running(bench):
        await bench.passes(1)
        assert sorted(log.answers()) == list(range(700, 900))


async def test_a_partition_rests_while_its_key_holds_too_many(log: Log) -> None:
    broken = True

    async def handler(job: Job) -> None:
        if broken and job.key == "k" and job.n < 50:
            raise ValueError

    log.put(0)
    policy = Retry(attempts=100, backoff="fixed", first=10 * SECOND, hold=5)
    bench = Bench(handler, log, order="key", concurrency=2, retry=policy)
    async with running(bench):
        for n in range(1, 5):
            log.put(n)
        await bench.passes(30)
        assert log.paused == set()
        log.put(5)
        await bench.passes()
        assert log.paused == {("jobs", 0)}
        for n in range(6, 10):
            log.put(n)
        log.put(60, partition=1, key="z")
        await bench.passes(30)
        assert log.paused == {("jobs", 0)}
        assert log.read[0] == 6
        assert log.answers() == [60]
        broken = False
        await bench.passes(10)
        assert log.paused == set()
        assert log.answers() == [60, *range(10)]


async def test_an_unordered_retry_without_help_of_the_road_is_held_too(log: Log) -> None:
    async def handler(job: Job, delivery: Delivery) -> None:
        if delivery.attempts < 2:
            raise ValueError

    log.put(1)
    bench = Bench(handler, log, retry=Retry(backoff="fixed", first=SECOND))
    async with running(bench):
        await bench.passes(1.9)
        assert log.answers() == []
        await bench.passes(0.1)
        assert log.answers() == [1]


# ------------------------------------------------------------------ the window


async def test_a_slow_worker_asks_for_no_more_than_it_runs(log: Log) -> None:
    async def handler(job: Job) -> None:
        await log.clock.sleep(10)

    for n in range(100):
        log.put(n, key=str(n))
    bench = Bench(handler, log, concurrency=3)
    async with running(bench):
        await bench.passes(100)
        assert log.largest_request <= 3
        assert log.read[0] - len(log.answers()) <= 3


async def test_an_at_most_once_worker_takes_no_more_than_it_runs_either(log: Log) -> None:
    async def handler(job: Job) -> None:
        await log.clock.sleep(10)

    for n in range(100):
        log.put(n, key=str(n))
    bench = Bench(handler, log, concurrency=3, delivery="at-most-once")
    async with running(bench):
        await bench.passes(100)
        assert len(log.answers()) <= 36


# ------------------------------------------------------------------ ownership


async def test_leases_are_renewed_while_handlers_run_and_what_is_lost_is_not_started(
    log: Log,
) -> None:
    gate = Gate(0, 1)
    for n in range(4):
        log.put(n, key="one")
    bench = Bench(gate, log, order="key", concurrency=2, lease=30 * SECOND, prefetch=10)
    async with running(bench):
        await bench.passes(10)
        assert log.extended
        log.gone = {0, 1}
        await bench.passes(10)
        gate.open()
        await bench.passes()
        assert 1 not in gate.started
        assert log.answers() == [2, 3]
        assert bench.counts.outcomes == {"stale": 1, "handled": 2}


async def test_what_is_settled_ahead_is_not_renewed_and_not_lost(log: Log) -> None:
    gate = Gate(0)
    for n in range(4):
        log.put(n)
    bench = Bench(gate, log, order="key", lease=30 * SECOND, delivery="at-most-once", concurrency=4)
    async with running(bench):
        log.gone = {0, 1, 2, 3}
        await bench.passes(100)
        assert set(log.extended) == {0}
        gate.open()
        await bench.passes()
        assert gate.finished == [0, 1, 2, 3]


async def test_a_revoked_partition_is_given_up_when_its_handlers_are_done(log: Log) -> None:
    gate = Gate(0, 10)
    for n in range(3):
        log.put(n, key="a")
    log.put(10, partition=1, key="b")
    bench = Bench(gate, log, order="key", concurrency=4)
    async with running(bench):
        log.queue.put(Revoking([("jobs", 0)], log.clock.monotonic() + 20))
        await bench.passes(10)
        assert sorted(log.answers("nack")) == [1, 2]
        assert log.released == []
        gate.open(0)
        await bench.passes()
        assert log.released == [("jobs", 0)]
        assert log.answers() == [0]
        assert gate.started == [0, 10]


async def test_a_revocation_waits_no_longer_than_its_deadline(log: Log) -> None:
    gate = Gate(0)
    log.put(0)
    bench = Bench(gate, log, order="key")
    async with running(bench):
        log.queue.put(Revoking([("jobs", 0)], log.clock.monotonic() + 20))
        await bench.passes(19)
        log.lose(1)
        await bench.passes()
        assert len(bench.counts.notices) == 2, "a notice waited for a revocation"
        assert log.released == []
        await bench.passes(1)
        assert log.released == [("jobs", 0)]


async def test_a_failure_in_a_partition_that_leaves_goes_back_with_all_behind_it(log: Log) -> None:
    failing = asyncio.Event()

    async def handler(job: Job) -> None:
        await failing.wait()
        raise ValueError

    log.put(0)
    bench = Bench(handler, log, order="key", concurrency=4)
    async with running(bench):
        log.queue.put(Revoking([("jobs", 0)], log.clock.monotonic() + 20))
        await bench.passes()
        log.put(1)
        await bench.passes()
        failing.set()
        await bench.passes()
        assert log.answers("nack") == [0, 1]
        assert [len(one.delivery.failures) for one in log.settlements] == [1, 0]
        assert log.released == [("jobs", 0)]


# ------------------------------------------------------------------ the drain


async def test_a_drain_hands_back_at_once_and_waits_for_what_runs(log: Log) -> None:
    gate = Gate(0, 1)
    for n in range(6):
        log.put(n, key="ab"[n % 2])
    bench = Bench(gate, log, order="key", concurrency=6)
    async with running(bench):
        bench.stop.set()
        await bench.passes()
        assert sorted(log.answers("nack")) == [2, 3, 4, 5]
        assert all(not one.delivery.attempts for one in log.settlements)
        await bench.passes(20)
        assert not bench.task.done()
        gate.open()
        await bench.passes()
        await bench.stops()
        assert sorted(log.answers()) == [0, 1]
        assert bench.counts.outcomes == {"returned": 4, "handled": 2}
        assert log.read[0] == 6


async def test_a_failure_during_the_drain_goes_back_with_its_attempt(log: Log) -> None:
    failing = asyncio.Event()

    async def handler(job: Job) -> None:
        await failing.wait()
        raise ValueError("late")

    log.put(0)
    bench = Bench(handler, log, order="key", retry=Retry(backoff="fixed", first=600 * SECOND))
    async with running(bench):
        bench.stop.set()
        await bench.passes(5)
        failing.set()
        await bench.passes()
        await bench.stops()
    (answer,) = log.settlements
    assert (answer.action, answer.delivery.attempts, answer.failure) == ("nack", 1, None)
    assert [failure.detail for failure in answer.delivery.failures] == ["late"]


async def test_at_most_once_losses_at_the_end_are_counted(log: Log) -> None:
    gate = Gate(0)

    async def handler(job: Job) -> None:
        if job.n == 3:
            raise ValueError
        await gate(job)

    for n, key in enumerate("aaab"):
        log.put(n, key=key)
    bench = Bench(handler, log, order="key", delivery="at-most-once", concurrency=4)
    async with running(bench):
        await bench.passes(0)
        await bench.stops(30)
    assert sorted(bench.counts.losses) == [
        (0, "interrupted"),
        (1, "interrupted"),
        (2, "interrupted"),
        (3, "exception"),
    ]
    assert log.answers() == [0, 1, 2, 3]


async def test_a_batch_that_is_being_settled_ahead_still_comes_in(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, settle, slowly = Gate(), log.settle, asyncio.Event()

    async def slow(settlements: Sequence[Settlement]) -> Sequence[Settled]:
        answers = await settle(settlements)
        await slowly.wait()
        return answers

    monkeypatch.setattr(log, "settle", slow)
    log.put(1)
    bench = Bench(gate, log, delivery="at-most-once")
    async with running(bench):
        bench.stop.set()
        await bench.passes(5)
        slowly.set()
        await bench.passes()
        await bench.stops()
    assert gate.finished == [1]
    assert bench.counts.losses == []


async def test_a_batch_that_fills_asks_for_what_it_lacks(log: Log) -> None:
    sizes: list[int] = []

    async def handler(jobs: list[Job]) -> None:
        sizes.append(len(jobs))

    bench = Bench(handler, log, batch=Batch(10, 5 * SECOND), concurrency=1)
    async with running(bench):
        for n in range(8):
            log.put(n, key=str(n))
        await bench.passes(1)
        for n in range(8, 10):
            log.put(n, key=str(n))
        await bench.passes(1)
        assert sizes == [10]
        log.put(10)
        await bench.passes(4.9)
        assert sizes == [10]
        await bench.passes(0.2)
        assert sizes == [10, 1]


async def test_a_handler_that_swallows_its_cancellation_does_not_stop_the_end(log: Log) -> None:
    async def handler(job: Job) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)

    log.put(0)
    bench = Bench(handler, log)
    async with running(bench):
        await bench.stops(30)


async def test_the_results_of_at_most_once_go_out_or_count_as_lost(log: Log) -> None:
    async def handler(job: Job) -> Any:
        return TOPIC.message(job)

    bench = Bench(handler, log, delivery="at-most-once")
    async with running(bench):
        bench.refusals = [TransportUnavailableError("away")] * 3
        log.put(1)
        await bench.passes()
        bench.stop.set()
        await bench.passes()
        assert bench.results == []
        await bench.passes(5)
        await bench.stops()
        assert len(bench.results) == 1
    bench = Bench(handler, log, delivery="at-most-once")
    log.committed[0] = 1
    async with running(bench):
        bench.refusals = [StorageCorruptError("gone")]
        log.put(2)
        await bench.passes()
        assert bench.counts.losses == [(2, "exception")]
        await bench.stops()


# ------------------------------------------------------------------ trouble


@pytest.mark.parametrize("where", ["subscribe", "receive", "begin", "settle"])
async def test_a_transient_error_anywhere_is_waited_out(log: Log, where: str) -> None:
    gate = Gate()
    log.put(1)
    log.errors = {where: [TransportUnavailableError("away")] * 6}
    bench = Bench(gate, log)
    async with running(bench):
        await bench.passes(1)
        assert log.answers() == []
        await bench.passes(10)
        assert log.answers() == [1]
        assert gate.started == [1]
        await bench.stops()


@pytest.mark.parametrize("where", ["subscribe", "receive", "begin", "settle"])
async def test_a_permanent_error_ends_it_at_once(log: Log, where: str) -> None:
    gate = Gate()
    log.put(1)
    error = StorageCorruptError("gone")
    log.errors = {where: [error]}
    bench = Bench(gate, log)
    bench.start()
    await bench.passes()
    assert bench.task.done()
    assert bench.task.exception() is error
    assert log.answers() == []


async def test_an_error_of_the_settler_waits_for_running_handlers_only(log: Log) -> None:
    gate = Gate(1)
    bench = Bench(gate, log, concurrency=2)
    bench.start()
    log.put(1, key="a")
    log.put(2, key="b")
    log.put(3, key="c")
    error = StorageCorruptError("gone")
    log.errors = {"settle": [error] * 9}
    await bench.passes(5)
    assert not bench.task.done()
    gate.open()
    await bench.passes()
    assert bench.task.done()
    assert bench.task.exception() is error
    assert gate.finished[-1] == 1


async def test_stopping_before_the_road_is_there_ends_too(log: Log) -> None:
    log.errors = {"subscribe": [TransportUnavailableError("away")] * 1000}
    bench = Bench(Gate(), log)
    bench.start()
    await bench.passes(60)
    bench.stop.set()
    await bench.passes(3)
    assert bench.task.done()
    assert bench.task.exception() is None


async def test_a_road_that_cannot_be_read_is_refused(clock: VirtualClock) -> None:
    bench = Bench(Gate(), Log(clock))
    bench.runner._transport = object()  # type: ignore[assignment]
    with pytest.raises(NotSupportedError):
        await bench.runner.run(bench.stop, SECOND)
