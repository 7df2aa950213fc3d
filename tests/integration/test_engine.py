"""The engine on real roads: what a user declares is what happens, on memory and on SQLite."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import sqlite3
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from postroad import (
    Batch,
    Delivery,
    Discard,
    Failure,
    Hooks,
    Later,
    Message,
    Outgoing,
    PartialFailure,
    Postroad,
    Reject,
    Retry,
    Subscription,
    Topic,
    Transaction,
)
from postroad.core import filters
from postroad.core.message import new_id
from postroad.core.topic import Options
from postroad.delivery.audit import Audit
from postroad.errors import (
    ClosedError,
    NotSupportedError,
    PublishError,
    StorageBusyError,
    StorageCorruptError,
    TransportUnavailableError,
)
from postroad.testing.conformance.waiting import eventually


class Job(Struct):
    n: int
    key: str = "a"


class Done(Struct):
    n: int


NOW = Retry(attempts=3, backoff="immediate")
MS = timedelta(milliseconds=1)
SECOND = timedelta(seconds=1)


class Books(Hooks):
    """What the hooks were told."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.unsent: Counter[str] = Counter()
        self.arrived = 0
        self.failures: list[Failure] = []
        self.losses: list[tuple[Message, Failure]] = []

    def published(self, topic: str, count: int) -> None:
        self.sent[topic] += count

    def publish_failed(self, topic: str, count: int, error: Exception) -> None:
        self.unsent[topic] += count

    def received(self, subscription: Subscription, count: int) -> None:
        self.arrived += count

    def settled(self, subscription: Subscription, counts: Mapping[str, int]) -> None:
        assert all(counts.values())
        self.outcomes.update(counts)

    def failed(self, subscription: Subscription, delivery: Delivery, failure: Failure) -> None:
        self.failures.append(failure)

    def lost(self, subscription: Subscription, message: Message, failure: Failure) -> None:
        self.losses.append((message, failure))


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory://" if request.param == "memory" else sqlite_url(tmp_path)


@pytest.fixture
def file_url(tmp_path: Path) -> str:
    return sqlite_url(tmp_path)


def sqlite_url(folder: Path) -> str:
    return f"sqlite:///{folder}/road.db?durability=normal"


@pytest.fixture
def books() -> Books:
    return Books()


@pytest.fixture
def road(url: str, books: Books) -> Postroad:
    return Postroad(url, hooks=books, name="tests")


def jobs(**settings: Any) -> Topic[Job]:
    return Topic("jobs", Job, **settings)


async def publish(road: Postroad, topic: Topic[Job], numbers: Sequence[int], keys: int = 1) -> None:
    for n in numbers:
        await road.publish(topic, Job(n, f"k{n % keys}"))


async def raw(road: Postroad, topic: Topic[Any], *payloads: bytes) -> None:
    """Put bytes on the road that no topic of ours would have let through."""
    entries = [
        (topic, Message(id=new_id(), type="t", source="elsewhere", data=data, time_us=1))
        for data in payloads
    ]
    await transport_of(road).publish(entries)


def transport_of(road: Postroad) -> Any:
    return road._transport


async def settled(books: Books, count: int, *, but: Sequence[str] = ("retried",)) -> None:
    """Wait until so many messages have come to an end."""

    def ended() -> int:
        return sum(number for name, number in books.outcomes.items() if name not in but)

    await eventually(lambda: ended() >= count, f"{count} settlements")
    assert ended() == count


async def account(road: Postroad, group: str = "g") -> dict[str, int]:
    """Every non-zero figure of the only topic that the group reads; the audit must balance."""
    audit: Audit = await road.audit("#", group)
    assert audit.verdict == "balanced", audit
    (entry,) = audit.entries
    assert entry.account is not None
    figures = {name: number for name, number in entry.account.outcomes.items() if number}
    if entry.pending:
        figures["pending"] = entry.pending
    return figures


# ------------------------------------------------------------------ handlers


class Office:
    def __init__(self, seen: list[Any]) -> None:
        self.seen = seen

    async def method(self, job: Job) -> None:
        self.seen.append(job)

    async def __call__(self, job: Job) -> None:
        self.seen.append(job)


def kinds(seen: list[Any]) -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    async def plain(job: Job) -> None:
        seen.append(job)

    def in_thread(job: Job) -> None:
        assert threading.current_thread() is not threading.main_thread()
        seen.append(job)

    async def lists(batch: list[Job]) -> None:
        seen.extend(batch)

    def lists_in_thread(batch: Sequence[Job]) -> None:
        seen.extend(batch)

    async def generator(job: Job) -> AsyncIterator[Outgoing]:
        seen.append(job)
        return
        yield

    def generator_in_thread(job: Job) -> Iterator[Outgoing]:
        seen.append(job)
        yield from ()

    async def configured(prefix: str, job: Job) -> None:
        seen.append(job)

    def forwarding(job: Job) -> Any:
        return plain(job)

    async def message(message: Message) -> None:
        seen.append(jobs().decode(message.data))

    async def delivery(delivery: Delivery) -> None:
        assert (delivery.group, delivery.attempts) == ("g", 0)
        seen.append(jobs().decode(delivery.message.data))

    async def everything(job: Job, delivery: Delivery, message: Message) -> None:
        assert delivery.message is message
        seen.append(job)

    async def batches(batch: list[Job], deliveries: list[Delivery]) -> None:
        assert [jobs().decode(d.message.data) for d in deliveries] == batch
        seen.extend(batch)

    batch = {"batch": Batch(size=3, wait=20 * MS)}
    return {
        "async": (plain, {}),
        "sync": (in_thread, {}),
        "async batch": (lists, batch),
        "sync batch": (lists_in_thread, batch),
        "async generator": (generator, {}),
        "sync generator": (generator_in_thread, {}),
        "method": (Office(seen).method, {}),
        "callable object": (Office(seen), {}),
        "partial": (functools.partial(configured, "x"), {}),
        "returns a coroutine": (forwarding, {}),
        "builtin": (seen.append, {}),
        "message": (message, {}),
        "delivery": (delivery, {}),
        "everything": (everything, {}),
        "batch with deliveries": (batches, batch),
    }


@pytest.mark.parametrize("kind", kinds([]))
async def test_every_kind_of_handler_gets_every_message_once(
    road: Postroad, books: Books, kind: str
) -> None:
    seen: list[Any] = []
    handler, settings = kinds(seen)[kind]
    topic = jobs()
    bind: Callable[[Any], Any] = road.subscribe(topic, group="g", **settings)
    assert bind(handler) is handler
    async with road, road.consuming():
        await publish(road, topic, range(20))
        await settled(books, 20)
        assert sorted(job.n for job in seen) == list(range(20))
        assert await account(road) == {"handled": 20}
    assert books.failures == []
    assert (books.sent["jobs"], books.arrived) == (20, 20)


# ------------------------------------------------------------------ results


@pytest.mark.parametrize("how", ["return", "list", "yield", "sync", "batch"])
async def test_results_are_published_with_the_ack_and_name_their_cause(
    road: Postroad, books: Books, how: str
) -> None:
    topic, out = jobs(), Topic("done", Done)
    found: list[Message] = []

    async def one(job: Job) -> Outgoing:
        return out.message(Done(job.n))

    async def several(job: Job) -> list[Outgoing | None]:
        return [out.message(Done(job.n)), None]

    async def yielding(job: Job) -> AsyncIterator[Outgoing]:
        yield out.message(Done(job.n))

    def in_thread(job: Job) -> Iterator[Outgoing]:
        yield out.message(Done(job.n), Options(priority=2))

    async def batch(batch: list[Job]) -> list[Outgoing]:
        return [out.message(Done(job.n)) for job in batch]

    handlers = {
        "return": one,
        "list": several,
        "yield": yielding,
        "sync": in_thread,
        "batch": batch,
    }
    size = Batch(1) if how == "batch" else None
    bind: Callable[[Any], Any] = road.subscribe(topic, group="g", batch=size)
    bind(handlers[how])

    @road.subscribe(out, group="out")
    async def collect(message: Message) -> None:
        found.append(message)

    async with road, road.consuming():
        await road.publish(topic, Job(1), id="first", traceparent="00-1-2-01")
        await road.publish(topic, Job(2), id="second", correlation_id="talk")
        await settled(books, 4)
        causes = {m.causation_id: (m.correlation_id, m.source, m.traceparent) for m in found}
        assert causes == {
            "first": ("first", "tests", "00-1-2-01"),
            "second": ("talk", "tests", None),
        }
        assert await account(road) == {"handled": 2}
    assert books.sent == {"jobs": 2, "done": 2}


async def test_a_stale_settlement_publishes_nothing(road: Postroad, books: Books) -> None:
    topic, out = jobs(), Topic("done", Done)
    stuck: list[bool] = []

    @road.subscribe(topic, group="g", lease=300 * MS, retry=NOW)
    async def handler(job: Job) -> Outgoing:
        if job.n == 1 and not stuck:
            stuck.append(True)
            # Past the lease, in the loop's own thread: nothing can renew it.
            time.sleep(0.8)  # noqa: ASYNC251
        return out.message(Done(job.n))

    results: list[int] = []

    @road.subscribe(out, group="out", lease=5 * SECOND)
    async def collect(done: Done) -> None:
        results.append(done.n)

    async with road, road.consuming():
        await publish(road, topic, [1, 2, 3])
        await eventually(lambda: sorted(set(results)) == [1, 2, 3], "results")
        await eventually(lambda: books.outcomes["stale"], "a stale settlement")
        await eventually(lambda: books.outcomes["handled"] >= 6, "all handled")
        assert sorted(results) == [1, 2, 3]
        assert await account(road) == {"handled": 3}


async def test_a_wrong_result_is_the_messages_failure(road: Postroad, books: Books) -> None:
    topic = jobs()

    @road.subscribe(topic, group="g", retry=NOW)
    async def handler(job: Job) -> Any:
        return {"not": "a message"}

    async with road, road.consuming():
        await road.publish(topic, Job(1))
        await settled(books, 1)
        (letter,) = await road.dead_letters.list()
    assert "topic.message(payload)" in letter.failures[-1].detail


# ------------------------------------------------------------------ failures


class Flop(Exception):
    pass


class Fatal(Flop):
    pass


@pytest.mark.parametrize("order", ["none", "key"])
async def test_attempts_are_counted_and_the_dead_letter_tells_all(
    road: Postroad, books: Books, order: Any
) -> None:
    topic = jobs(key="key", partitions=2)
    attempts: list[tuple[int, int]] = []

    @road.subscribe(topic, group="g", order=order, retry=NOW)
    async def handler(job: Job, delivery: Delivery) -> None:
        attempts.append((delivery.attempts, len(delivery.failures)))
        raise Flop(f"number {len(attempts)}\nsecond line")

    async with road, road.consuming():
        receipt = await road.publish(topic, Job(1))
        await settled(books, 1)
        (letter,) = await road.dead_letters.list("jobs", "g")
        assert await account(road) == {"dead": 1}
    assert attempts == [(0, 0), (1, 1), (2, 2)]
    assert [failure.detail for failure in letter.failures] == ["number 1", "number 2", "number 3"]
    assert {failure.reason for failure in letter.failures} == {"exception"}
    assert all((f.exception or "").endswith("test_engine.Flop") for f in letter.failures)
    assert all("raise Flop" in (failure.traceback or "") for failure in letter.failures)
    position = None if receipt.position is None else str(receipt.position)
    assert (letter.topic, letter.group, letter.position) == ("jobs", "g", position)
    assert len(books.failures) == 3


async def test_a_retry_is_decided_by_the_exceptions_type(road: Postroad, books: Books) -> None:
    topic = jobs()
    calls: Counter[int] = Counter()
    policy = Retry(attempts=3, backoff="immediate", on=(Flop, ValueError), never=(Fatal,))

    @road.subscribe(topic, group="g", retry=policy)
    async def handler(job: Job) -> None:
        calls[job.n] += 1
        raise [Flop, Fatal, ValueError, KeyError][job.n]("x")

    async with road, road.consuming():
        await publish(road, topic, range(4))
        await settled(books, 4)
        assert await account(road) == {"dead": 4}
    assert calls == {0: 3, 1: 1, 2: 3, 3: 1}


async def test_a_handler_decides_itself(road: Postroad, books: Books) -> None:
    topic = jobs()
    calls: list[tuple[int, int, float]] = []

    @road.subscribe(topic, group="g", retry=Retry(attempts=2))
    async def handler(job: Job, delivery: Delivery) -> None:
        calls.append((job.n, delivery.attempts, time.monotonic()))
        if job.n == 1:
            raise Reject("no such customer")
        if job.n == 2:
            raise Discard
        if not delivery.attempts:
            raise Later(timedelta(milliseconds=200))

    async with road, road.consuming():
        await publish(road, topic, [1, 2, 3])
        await settled(books, 3)
        (letter,) = await road.dead_letters.list()
        assert await account(road) == {"dead": 1, "discarded": 1, "handled": 1}
    (failure,) = letter.failures
    assert (failure.reason, failure.detail) == ("rejected", "no such customer")
    first, second = [moment for n, _, moment in calls if n == 3]
    assert second - first >= 0.2
    assert books.outcomes == {"dead": 1, "discarded": 1, "handled": 1, "retried": 1}


async def test_a_timeout_is_told_from_the_handlers_own(road: Postroad, books: Books) -> None:
    topic = jobs()
    cancelled: list[int] = []

    @road.subscribe(topic, group="g", timeout=50 * MS, retry=Retry(attempts=1))
    async def handler(job: Job) -> None:
        if job.n == 1:
            raise TimeoutError("of mine")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(job.n)
            raise

    async with road, road.consuming():
        await publish(road, topic, [1, 2])
        await settled(books, 2)
        letters = await road.dead_letters.list()
    reasons = {topic.decode(letter.message.data).n: letter.failures[-1] for letter in letters}
    assert (reasons[1].reason, reasons[1].exception) == ("exception", "builtins.TimeoutError")
    assert reasons[2].reason == "timeout"
    assert "0.05 s" in reasons[2].detail
    assert cancelled == [2]


async def test_a_handler_that_cancels_itself_or_stops_an_iteration_only_fails(
    road: Postroad, books: Books
) -> None:
    topic = jobs()

    @road.subscribe(topic, group="g", retry=Retry(attempts=1))
    async def cancels(job: Job) -> None:
        inner = asyncio.create_task(asyncio.sleep(60))
        inner.cancel()
        await inner

    @road.subscribe(topic, group="h", retry=Retry(attempts=1))
    def stops(job: Job) -> None:
        next(iter(()))

    async with road, road.consuming():
        await publish(road, topic, range(30))
        await settled(books, 60)
        assert await account(road, "g") == {"dead": 30}
        assert await account(road, "h") == {"dead": 30}


# ------------------------------------------------------------------ what never reaches a handler


async def test_bad_payloads_die_with_their_reason_and_the_consumer_goes_on(
    road: Postroad, books: Books
) -> None:
    topic = jobs(unknown_fields="reject", max_payload=100)
    seen: list[int] = []

    @road.subscribe(topic, group="g")
    async def handler(job: Job) -> None:
        seen.append(job.n)

    async with road, road.consuming():
        await raw(
            road,
            topic,
            b"{",
            b"\xff\xfe",
            b'{"n": "one"}',
            b'{"n": 1, "colour": "red"}',
            b'{"n": 1, "key": "%s"}' % (b"x" * 100),
            b'{"n": 7}',
        )
        await settled(books, 6)
        letters = await road.dead_letters.list()
        assert await account(road) == {"dead": 5, "handled": 1}
    assert seen == [7]
    assert [letter.failures[-1].reason for letter in letters] == [
        "undecodable",
        "undecodable",
        "wrong-type",
        "unknown-field",
        "oversized",
    ]
    assert all(len(letter.failures) == 1 for letter in letters)


async def test_expired_and_filtered_messages_are_counted(road: Postroad, books: Books) -> None:
    topic = jobs()
    seen: list[int] = []
    odd = filters.Where(lambda message: topic.decode(message.data).n % 2 == 1)
    wanted = filters.Prefix("subject", "eu/") & odd

    @road.subscribe(topic, group="g", filter=wanted)
    async def handler(job: Job) -> None:
        seen.append(job.n)

    async with road:
        for n in range(6):
            await road.publish(topic, Job(n), subject="eu/x" if n < 4 else "us/x")
        await road.publish(topic, Job(9), subject="eu/x", expires_in=20 * MS)
        await asyncio.sleep(0.03)
        async with road.consuming():
            await eventually(lambda: books.outcomes.total() >= 6, "settlements")

            async def ended() -> bool:
                return "pending" not in await account(road)

            await eventually(ended, "everything settled")
        assert await account(road) == {"handled": 2, "filtered": 4, "expired": 1}
    assert seen == [1, 3]


async def test_a_message_that_expires_in_line_is_not_handled(road: Postroad, books: Books) -> None:
    topic = jobs(key="key")
    seen: list[int] = []

    @road.subscribe(topic, group="g", order="key")
    async def handler(job: Job) -> None:
        seen.append(job.n)
        await asyncio.sleep(0.1)

    async with road, road.consuming():
        await road.publish(topic, Job(1))
        await road.publish(topic, Job(2), expires_in=40 * MS)
        await road.publish(topic, Job(3))
        await settled(books, 3)
        assert await account(road) == {"handled": 2, "expired": 1}
    assert seen == [1, 3]


async def test_a_pattern_reads_every_topic_as_its_handler_is_annotated(
    road: Postroad, books: Books
) -> None:
    one, two = Topic("orders.one", Job), Topic("orders.two", Done)
    typed: list[Any] = []
    plain: list[Any] = []

    @road.subscribe("orders.*", group="typed")
    async def union(event: Job | Done) -> None:
        typed.append(event)

    @road.subscribe("orders.#", group="plain", batch=Batch(10, 5 * MS))
    async def dicts(events: list[dict[str, Any]]) -> None:
        plain.extend(events)

    @road.subscribe("orders.*", group="wrong")
    async def wrong(event: Job) -> None: ...

    async with road, road.consuming():
        await road.publish(one, Job(1))
        await road.publish(two, Done(2))
        await settled(books, 6)
        assert (await road.audit("#", "wrong")).verdict == "balanced"
        letters = await road.dead_letters.list("orders.two", "wrong")
    assert sorted(map(repr, typed)) == ["Done(n=2)", "Job(n=1, key='a')"]
    assert sorted(event["n"] for event in plain) == [1, 2]
    # A Done is no Job; but its JSON reads as one, for Job's key has a default.
    assert letters == []


# ------------------------------------------------------------------ at most once, and for everyone


async def test_at_most_once_settles_first_and_counts_its_losses(
    road: Postroad, books: Books
) -> None:
    topic = jobs()
    calls: list[int] = []
    states: list[dict[str, int]] = []

    @road.subscribe(topic, group="g", delivery="at-most-once", retry=NOW)
    async def handler(job: Job) -> None:
        calls.append(job.n)
        states.append(await account(road))
        if job.n == 1:
            raise Flop("always")

    async with road:
        async with road.consuming():
            await road.publish(topic, Job(1))
            await eventually(lambda: books.losses, "a loss")
            await road.publish(topic, Job(2))
            await eventually(lambda: 2 in calls, "the next one")
        ((message, failure),) = books.losses
        assert topic.decode(message.data).n == 1
        assert failure.detail == "always"
        async with road.consuming():
            await road.publish(topic, Job(3))
            await eventually(lambda: 3 in calls, "one more")
        assert calls == [1, 1, 1, 2, 3]
        assert all(state.keys() == {"handled"} for state in states)
        assert await road.dead_letters.list() == []


async def test_at_most_once_loses_nothing_to_its_own_lease(road: Postroad, books: Books) -> None:
    topic = jobs()
    seen: list[int] = []
    settings: dict[str, Any] = {"delivery": "at-most-once", "concurrency": 1, "prefetch": 8}

    @road.subscribe(topic, group="g", lease=150 * MS, **settings)
    async def handler(job: Job) -> None:
        await asyncio.sleep(0.1)
        seen.append(job.n)

    async with road:
        await publish(road, topic, range(8))
        async with road.consuming():
            await eventually(lambda: len(seen) == 8, "eight messages")
    assert sorted(seen) == list(range(8))
    assert books.losses == []


async def test_stopping_an_at_most_once_consumer_handles_or_counts_what_it_took(
    road: Postroad, books: Books
) -> None:
    topic = jobs(key="key")
    started: list[int] = []
    finished: list[int] = []

    @road.subscribe(topic, group="g", delivery="at-most-once", concurrency=4, order="key")
    async def handler(job: Job) -> None:
        started.append(job.n)
        if job.n == 0:
            raise Flop("waits for its retry")
        await asyncio.sleep(60 if job.n == 3 else 0.05)
        finished.append(job.n)

    async with road:
        await publish(road, topic, range(8), keys=4)
        async with road.consuming(drain=500 * MS):
            await eventually(lambda: {0, 3} <= set(started), "handlers")
        lost = sorted(topic.decode(message.data).n for message, _ in books.losses)
        figures = await account(road)
    assert 0 in lost
    assert 3 in lost
    ended = lost + finished
    assert len(ended) == len(set(ended)) == figures["handled"]


async def test_without_a_group_every_consumer_gets_a_copy(road: Postroad, books: Books) -> None:
    topic = jobs()
    seen: dict[str, list[int]] = defaultdict(list)
    for name in ("a", "b"):

        def make(name: str = name) -> Callable[..., Any]:
            async def handler(job: Job) -> None:
                seen[name].append(job.n)
                if job.n == 1:
                    raise Reject

            return handler

        road.subscribe(topic, group=None)(make())
    async with road:
        await publish(road, topic, [100])
        async with road.consuming():

            async def both_listen() -> bool:
                await road.publish(topic, Job(50))
                return len(seen) == 2

            await eventually(both_listen, "two consumers")
            await publish(road, topic, [1, 2, 3])
            await eventually(lambda: seen["a"][-1] == seen["b"][-1] == 3, "copies")
    for numbers in seen.values():
        assert [n for n in numbers if n != 50] == [1, 2, 3]
    assert len(books.losses) == 2


# ------------------------------------------------------------------ order


async def test_key_order_holds_over_retries_and_other_keys_go_on(
    road: Postroad, books: Books
) -> None:
    topic = jobs(key="key", partitions=4)
    done: dict[str, list[int]] = defaultdict(list)
    running: Counter[str] = Counter()
    when: dict[int, float] = {}

    @road.subscribe(
        topic,
        group="g",
        order="key",
        concurrency=3,
        retry=Retry(attempts=5, backoff="fixed", first=100 * MS),
    )
    async def handler(job: Job, delivery: Delivery) -> None:
        running[job.key] += 1
        assert running[job.key] == 1, "two of one key at once"
        await asyncio.sleep(0.001)
        running[job.key] -= 1
        if job.n in (0, 8) and delivery.attempts < 2:
            raise Flop
        done[job.key].append(job.n)
        when[job.n] = time.monotonic()

    async with road:
        await publish(road, topic, range(80), keys=8)
        async with road.consuming():
            await settled(books, 80)
        assert await account(road) == {"handled": 80}
    assert {key: len(numbers) for key, numbers in done.items()} == {f"k{i}": 10 for i in range(8)}
    assert all(numbers == sorted(numbers) for numbers in done.values())
    # With three workers, and 0 waiting twice: no other key waited for it.
    others = [moment for n, moment in when.items() if n % 8]
    assert max(others) < when[0]


async def test_a_failing_key_that_dies_lets_the_next_one_run(road: Postroad, books: Books) -> None:
    topic = jobs(key="key")
    done: list[int] = []

    @road.subscribe(topic, group="g", order="key", retry=NOW)
    async def handler(job: Job) -> None:
        if job.n % 2:
            raise Flop
        done.append(job.n)

    async with road, road.consuming():
        await publish(road, topic, range(10))
        await settled(books, 10)
        assert await account(road) == {"handled": 5, "dead": 5}
        letters = await road.dead_letters.list()
    assert done == [0, 2, 4, 6, 8]
    assert [topic.decode(letter.message.data).n for letter in letters] == [1, 3, 5, 7, 9]
    assert all(len(letter.failures) == 3 for letter in letters)


async def test_many_short_waits_park_a_key_too(road: Postroad, books: Books) -> None:
    """Each wait is too short to be worth parking for; together they would let the partition rest
    for as long as the key fails."""
    topic = jobs(key="key", partitions=1)
    open_gate = asyncio.Event()
    done: dict[str, list[int]] = {"k": [], "other": []}

    @road.subscribe(
        topic,
        group="g",
        order="key",
        prefetch=1000,
        concurrency=4,
        retry=Retry(attempts=100_000, backoff="fixed", first=20 * MS, hold=10),
    )
    async def handler(job: Job) -> None:
        if job.key == "k" and not open_gate.is_set():
            raise Flop
        done[job.key].append(job.n)

    async with road, road.consuming():
        await road.publish_many(topic, [Job(n, "k") for n in range(300)])
        await road.publish_many(topic, [Job(n, "other") for n in range(100)])
        await eventually(lambda: len(done["other"]) == 100, "the other key goes on")
        assert not done["k"]
        open_gate.set()
        await eventually(lambda: len(done["k"]) >= 300, "the parked key drains")
    assert done == {"k": list(range(300)), "other": list(range(100))}


async def test_total_order_runs_one_at_a_time(road: Postroad, books: Books) -> None:
    topic = jobs(partitions=1)
    done: list[int] = []
    running = 0

    @road.subscribe(topic, group="g", order="total", concurrency=8, retry=NOW)
    async def handler(job: Job, delivery: Delivery) -> None:
        nonlocal running
        running += 1
        assert running == 1
        await asyncio.sleep(0)
        running -= 1
        if job.n % 7 == 0 and not delivery.attempts:
            raise Flop
        done.append(job.n)

    async with road:
        await publish(road, topic, range(50))
        async with road.consuming():
            await settled(books, 50)
    assert done == list(range(50))


async def test_a_higher_priority_goes_first(road: Postroad, books: Books) -> None:
    topic = jobs()
    done: list[int] = []

    @road.subscribe(topic, group="g", concurrency=1, prefetch=1)
    async def handler(job: Job) -> None:
        done.append(job.n)

    async with road:
        for n, priority in enumerate([0, 5, 9, 5, 0]):
            await road.publish(topic, Job(n), priority=priority)
        async with road.consuming():
            await settled(books, 5)
    assert done == [2, 1, 3, 0, 4]


# ------------------------------------------------------------------ batches


async def test_a_batch_fails_in_part(road: Postroad, books: Books) -> None:
    topic = jobs()
    handled: list[int] = []
    attempts: Counter[int] = Counter()

    @road.subscribe(topic, group="g", batch=Batch(10, 100 * MS), retry=NOW, concurrency=1)
    async def handler(batch: list[Job]) -> None:
        attempts.update(job.n for job in batch)
        failed: dict[int, Exception] = {
            i: Flop("x") if job.n == 3 else Reject("y")
            for i, job in enumerate(batch)
            if job.n in (3, 4)
        }
        if failed:
            raise PartialFailure(failed)
        handled.extend(job.n for job in batch)

    async with road:
        await publish(road, topic, range(10))
        async with road.consuming():
            await settled(books, 10)
        assert await account(road) == {"handled": 8, "dead": 2}
    assert (attempts[3], attempts[4], attempts[5]) == (3, 1, 1)


async def test_halving_a_batch_finds_the_poison(road: Postroad, books: Books) -> None:
    topic = jobs()
    sizes: list[int] = []
    good: list[int] = []

    @road.subscribe(
        topic, group="g", batch=Batch(16, 200 * MS), concurrency=1, retry=Retry(attempts=1)
    )
    async def handler(batch: list[Job]) -> None:
        sizes.append(len(batch))
        if any(job.n == 11 for job in batch):
            raise Flop("poison")
        good.extend(job.n for job in batch)

    async with road:
        await publish(road, topic, range(15))
        await raw(road, topic, b"not json")
        async with road.consuming():
            await settled(books, 16)
        assert await account(road) == {"handled": 14, "dead": 2}
        letters = await road.dead_letters.list()
    assert sorted(good) == [n for n in range(15) if n != 11]
    assert sizes[0] == 15
    assert [letter.failures[-1].reason for letter in letters] == ["exception", "undecodable"]
    assert len(books.failures) == 2


async def test_a_batch_fills_up_to_its_size_or_its_wait(road: Postroad, books: Books) -> None:
    topic = jobs()
    sizes: list[int] = []

    @road.subscribe(topic, group="g", batch=Batch(50, SECOND), concurrency=1)
    async def handler(batch: list[Job]) -> None:
        sizes.append(len(batch))

    async with road, road.consuming():
        began = time.monotonic()
        for n in range(100):
            await road.publish(topic, Job(n))
        await settled(books, 100)
        assert sizes == [50, 50]
        assert time.monotonic() - began < 1
        await publish(road, topic, range(3))
        await settled(books, 103)
        assert sizes == [50, 50, 3]
        assert time.monotonic() - began >= 1


# ------------------------------------------------------------------ the drain


@pytest.mark.parametrize("order", ["none", "key"])
async def test_a_drain_hands_back_what_waits_and_finishes_what_runs(
    road: Postroad, books: Books, order: Any
) -> None:
    topic = jobs(key="key")
    gate, finished = asyncio.Event(), []

    @road.subscribe(topic, group="g", concurrency=4, order=order)
    async def handler(job: Job, delivery: Delivery) -> None:
        assert delivery.attempts == 0
        await gate.wait()
        await asyncio.sleep(0.05)
        finished.append(job.n)

    async with road:
        await publish(road, topic, range(40), keys=40)
        stop = asyncio.Event()
        run = asyncio.create_task(road.run(stop=stop, drain=10 * SECOND))
        await eventually(lambda: books.arrived >= 4, "messages")
        await asyncio.sleep(0)
        stop.set()
        gate.set()
        await run
        assert len(finished) == 4
        assert await account(road) == {"handled": 4, "pending": 36}
        async with road.consuming():
            await settled(books, 40, but=("returned",))
        assert sorted(finished) == list(range(40))
        assert await account(road) == {"handled": 40}


async def test_beyond_the_limit_a_handler_is_cancelled_and_its_message_goes_back(
    road: Postroad, books: Books
) -> None:
    topic = jobs()
    calls: list[tuple[int, int]] = []
    cancelled: list[int] = []

    @road.subscribe(topic, group="g", concurrency=2)
    async def handler(job: Job, delivery: Delivery) -> None:
        calls.append((job.n, delivery.attempts))
        if len(calls) <= 2:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled.append(job.n)
                raise

    async with road:
        await publish(road, topic, range(5))
        began = time.monotonic()
        async with road.consuming(drain=100 * MS):
            await eventually(lambda: len(calls) == 2, "two handlers")
        assert 0.1 <= time.monotonic() - began < 3
        assert await account(road) == {"pending": 5}
        async with road.consuming():
            await settled(books, 5, but=("returned",))
        assert await account(road) == {"handled": 5}
    assert sorted(cancelled) == [0, 1]
    assert sorted(calls[2:]) == [(n, 0) for n in range(5)]


async def test_a_held_retry_comes_back_with_its_attempts(road: Postroad, books: Books) -> None:
    topic = jobs(key="key")
    calls: list[tuple[int, int, list[str]]] = []
    began: list[float] = []

    @road.subscribe(
        topic,
        group="g",
        order="key",
        retry=Retry(attempts=3, backoff="fixed", first=4 * SECOND),
    )
    async def handler(job: Job, delivery: Delivery) -> None:
        calls.append((job.n, delivery.attempts, [f.detail for f in delivery.failures]))
        began.append(time.monotonic())
        if job.n == 1:
            raise Flop(f"number {delivery.attempts + 1}")

    async with road:
        await publish(road, topic, [1, 2])
        for attempt in range(3):
            async with road.consuming(drain=10 * SECOND):
                await eventually(lambda n=attempt: len(calls) > n, "an attempt")  # type: ignore[misc]
                if attempt == 2:
                    await eventually(lambda: books.outcomes["handled"], "the one behind")
            assert time.monotonic() - began[attempt] < 3, "the drain waited for a retry"
        assert all(later - one > 3.9 for one, later in pairwise(began[:3])), "what was left to wait"
        assert await account(road) == {"handled": 1, "dead": 1}
        (letter,) = await road.dead_letters.list()
    assert calls == [
        (1, 0, []),
        (1, 1, ["number 1"]),
        (1, 2, ["number 1", "number 2"]),
        (2, 0, []),
    ]
    assert [f.detail for f in letter.failures] == ["number 1", "number 2", "number 3"]


async def test_no_drain_at_all_loses_nothing(road: Postroad, books: Books) -> None:
    topic = jobs()
    seen: set[int] = set()

    @road.subscribe(topic, group="g", concurrency=8)
    async def handler(job: Job) -> None:
        await asyncio.sleep(0)
        seen.add(job.n)

    async with road:
        await publish(road, topic, range(200))
        for _ in range(5):
            async with road.consuming(drain=timedelta(0)):
                before = len(seen)
                await eventually(lambda n=before: len(seen) > n or n >= 200, "work")  # type: ignore[misc]
            await account(road)
        async with road.consuming():

            async def ended() -> bool:
                return "pending" not in await account(road)

            await eventually(ended, "everything")
        assert await account(road) == {"handled": 200}
    assert seen == set(range(200))


# ------------------------------------------------------------------ company


@pytest.mark.parametrize("order", ["none", "key"])
async def test_consumers_of_a_group_share_and_a_slow_one_hoards_nothing(
    road: Postroad, books: Books, order: Any
) -> None:
    topic = jobs(key="key", partitions=8)
    by: dict[str, list[int]] = defaultdict(list)

    @road.subscribe(topic, group="g", concurrency=2, order=order)
    async def slow(job: Job) -> None:
        by["slow"].append(job.n)
        await asyncio.sleep(0.05)

    @road.subscribe(topic, group="g", concurrency=2, order=order)
    async def fast(job: Job) -> None:
        by["fast"].append(job.n)
        await asyncio.sleep(0.001)

    async with road:
        async with road.consuming():
            await asyncio.sleep(0.3 if order == "key" else 0)
            await road.publish_many(topic, [Job(n, f"k{n % 64}") for n in range(100)])
            await settled(books, 100, but=("returned",))
        assert await account(road) == {"handled": 100}
    assert sorted(by["slow"] + by["fast"]) == list(range(100))
    if order == "none":
        assert 0 < len(by["slow"]) < 20
    else:
        assert min(len(by["slow"]), len(by["fast"])) >= 20


async def test_two_roads_on_one_file_share_a_group(file_url: str) -> None:
    topic = jobs(key="key")
    by: dict[str, list[int]] = {"a": [], "b": []}
    roads = {name: Postroad(file_url) for name in by}
    for name, road in roads.items():

        def make(name: str = name) -> Callable[..., Any]:
            async def handler(job: Job) -> None:
                by[name].append(job.n)
                await asyncio.sleep(0.01)

            return handler

        road.subscribe(topic, group="g", order="key", concurrency=4)(make())
    async with roads["a"] as one, roads["b"] as two, one.consuming(), two.consuming():
        await asyncio.sleep(0.5)
        await one.publish_many(topic, [Job(n, f"k{n % 50}") for n in range(200)])
        await eventually(lambda: sum(map(len, by.values())) >= 200, "200 messages")
    assert sorted(by["a"] + by["b"]) == list(range(200))
    assert min(map(len, by.values())) >= 50


async def test_a_consumer_that_lost_its_lease_cannot_settle(road: Postroad, books: Books) -> None:
    topic = jobs()
    handled: list[tuple[str, int | None]] = []

    @road.subscribe(topic, group="g", lease=400 * MS, concurrency=1)
    async def first(job: Job, delivery: Delivery) -> None:
        handled.append(("first", delivery.fence))
        if len(handled) == 1:
            time.sleep(1.0)  # noqa: ASYNC251 - a handler that blocks the loop is the point

    async with road, road.consuming():
        await road.publish(topic, Job(1))
        await eventually(lambda: books.outcomes["stale"] == 1, "a stale settlement")
        await eventually(lambda: books.outcomes["handled"] == 1, "the second delivery")
        assert len(handled) == 2
        fences = [fence for _, fence in handled]
        assert None not in fences
        assert sorted(fences, key=lambda fence: fence or 0) == fences
        assert fences[0] != fences[1]
        assert await account(road) == {"handled": 1}


# ------------------------------------------------------------------ a road in trouble


class Trouble:
    """Makes the methods of a transport and of its consumers fail, each so many times."""

    def __init__(self, road: Postroad, error: Exception, times: int, *names: str) -> None:
        self.left = dict.fromkeys(names, times)
        self._error = error
        transport = transport_of(road)
        subscribe = transport.subscribe
        self._spoil(transport, "publish", "publish_once", "subscribe")

        async def subscribing(*args: Any) -> Any:
            consumer = await subscribe(*args)
            methods = ("receive", "begin", "settle", "settle_and_publish", "extend")
            self._spoil(consumer, *(name for name in methods if hasattr(consumer, name)))
            return consumer

        subscribe_spoiled = transport.subscribe

        async def entry(*args: Any) -> Any:
            if self.left.get("subscribe", 0) > 0:
                return await subscribe_spoiled(*args)
            return await subscribing(*args)

        transport.subscribe = entry

    def _spoil(self, target: Any, *names: str) -> None:
        for name in names:
            setattr(target, name, self._spoiled(name, getattr(target, name)))

    def _spoiled(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        async def call(*args: Any) -> Any:
            if self.left.get(name, 0) > 0:
                self.left[name] -= 1
                raise self._error
            return await method(*args)

        return call


@pytest.mark.parametrize(
    "error", [TransportUnavailableError("away"), StorageBusyError("locked")], ids=["away", "busy"]
)
async def test_a_road_that_is_away_for_a_while_is_waited_for(
    road: Postroad, books: Books, error: Exception
) -> None:
    topic, out = jobs(), Topic("done", Done)
    results: list[int] = []

    @road.subscribe(topic, group="g", retry=NOW)
    async def handler(job: Job, delivery: Delivery) -> Outgoing | None:
        if job.n == 1 and not delivery.attempts:
            raise Flop
        return out.message(Done(job.n)) if job.n % 2 else None

    @road.subscribe(out, group="out")
    async def collect(done: Done) -> None:
        results.append(done.n)

    names = ("subscribe", "receive", "begin", "settle", "settle_and_publish", "extend")
    trouble = Trouble(road, error, 3, *names)
    async with road:
        await publish(road, topic, range(10))
        async with road.consuming():
            await settled(books, 15)
        assert sorted(results) == [1, 3, 5, 7, 9]
        assert {name: n for name, n in trouble.left.items() if n} == {"extend": 3}
        assert await account(road) == {"handled": 10}


@pytest.mark.parametrize("where", ["receive", "settle", "settle_and_publish"])
async def test_a_road_that_is_gone_for_good_ends_the_run_with_nothing_lost(
    road: Postroad, books: Books, where: str
) -> None:
    topic, out = jobs(), Topic("done", Done)
    seen: list[int] = []

    @road.subscribe(topic, group="g", concurrency=2)
    async def handler(job: Job) -> Outgoing | None:
        seen.append(job.n)
        await asyncio.sleep(0.01)
        return out.message(Done(job.n)) if where == "settle_and_publish" else None

    other: list[int] = []

    @road.subscribe(topic, group="other")
    async def bystander(job: Job) -> None:
        await asyncio.sleep(0.2)
        other.append(job.n)

    trouble = Trouble(road, StorageCorruptError("the disk is broken"), 0, where)
    async with road:
        began = time.monotonic()

        async def consume() -> None:
            async with road.consuming(drain=20 * SECOND):
                await publish(road, topic, range(4))
                await eventually(lambda: len(other) or len(seen) >= 2, "handlers")
                trouble.left[where] = 1000
                await publish(road, topic, [4, 5])
                await asyncio.sleep(60)

        with pytest.raises(StorageCorruptError, match="broken"):
            await consume()
        assert time.monotonic() - began < 10, "the drain waited for a road that is gone"
        trouble.left[where] = 0
        async with road.consuming():

            async def ended() -> bool:
                mine, theirs = await account(road, "g"), await account(road, "other")
                return mine == theirs == {"handled": 6}

            await eventually(ended, "everything handled after all")
    assert set(seen) == set(range(6))


async def test_the_results_of_a_full_queue_are_waited_out(books: Books) -> None:
    road = Postroad("memory://?capacity=2&when_full=refuse", hooks=books)
    topic, out = jobs(), Topic("done", Done)
    done: list[int] = []

    @road.subscribe(topic, group="g")
    async def handler(job: Job) -> list[Outgoing]:
        return [out.message(Done(job.n))]

    @road.subscribe(out, group="out", concurrency=1)
    async def collect(done_: Done) -> None:
        await asyncio.sleep(0.02)
        done.append(done_.n)

    async with road, road.consuming():
        for n in range(10):
            while True:
                try:
                    await road.publish(topic, Job(n))
                    break
                except PublishError:
                    await asyncio.sleep(0.01)
        await eventually(lambda: len(done) >= 10, "results")
    assert sorted(done) == list(range(10))


# ------------------------------------------------------------------ publishing


async def test_delays_and_their_withdrawal(road: Postroad, books: Books) -> None:
    topic = jobs()
    seen: list[tuple[int, float]] = []

    @road.subscribe(topic, group="g")
    async def handler(job: Job) -> None:
        seen.append((job.n, time.time()))

    async with road, road.consuming():
        due = datetime.now(UTC) + timedelta(milliseconds=150)
        await road.publish(topic, Job(1), delay=300 * MS, id="one")
        await road.publish(topic, Job(2), deliver_at=due)
        await road.publish(topic, Job(3), delay=200 * MS, id="three")
        await road.publish(topic, Job(4))
        assert await road.cancel("three")
        assert not await road.cancel("three")
        assert not await road.cancel("never")
        await eventually(lambda: len(seen) == 3, "three messages")
        assert not await road.cancel("one")
        assert "pending" not in await account(road)
    assert [n for n, _ in seen] == [4, 2, 1]
    assert seen[1][1] >= due.timestamp()


async def test_a_cancelled_publisher_harms_no_other(road: Postroad, books: Books) -> None:
    topic = jobs()
    seen: list[int] = []

    @road.subscribe(topic, group="g")
    async def handler(job: Job) -> None:
        seen.append(job.n)

    async with road, road.consuming():
        tasks = [asyncio.create_task(road.publish(topic, Job(n))) for n in range(50)]
        await asyncio.sleep(0)
        for task in tasks[::10]:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        kept = [n for n, end in enumerate(ended) if not isinstance(end, BaseException)]
        assert kept == [n for n in range(50) if n % 10]
        await eventually(lambda: set(kept) <= set(seen), "those that were not cancelled")
    assert len(seen) == len(set(seen))


async def test_fire_and_forget_returns_at_once_and_tells_the_hooks(
    road: Postroad, books: Books
) -> None:
    topic = jobs(publish="fire-and-forget")
    seen: list[int] = []

    @road.subscribe(topic, group="g")
    async def handler(job: Job) -> None:
        seen.append(job.n)

    async with road, road.consuming():
        await publish(road, topic, range(10))
        await settled(books, 10)
        trouble = Trouble(road, TransportUnavailableError("away"), 1, "publish")
        await road.publish(topic, Job(10))
        await eventually(lambda: books.unsent["jobs"] == 1, "a counted failure")
        assert trouble.left["publish"] == 0
    assert sorted(seen) == list(range(10))
    assert books.sent["jobs"] == 10


async def test_closing_sends_what_was_given_and_then_refuses(
    road: Postroad, url: str, books: Books
) -> None:
    topic = jobs(publish="fire-and-forget")

    @road.subscribe(topic, group="g")
    async def handler(job: Job) -> None: ...

    async with road:
        await publish(road, topic, range(100))
    assert books.sent["jobs"] == 100
    with pytest.raises(ClosedError):
        await road.publish(topic, Job(1))
    with pytest.raises(ClosedError):
        await road.publish_many(topic, [Job(1)])
    await asyncio.gather(*(road.close() for _ in range(10)))
    with pytest.raises(ClosedError):
        await Postroad(url).publish(topic, Job(1))


async def test_a_chunk_that_fails_is_named_by_its_indices(road: Postroad, books: Books) -> None:
    topic = jobs()

    @road.subscribe(topic, group="g")
    async def handler(job: Job) -> None: ...

    async with road:
        receipts = await road.publish_many(topic, (Job(n) for n in range(2500)))
        assert len(receipts) == 2500
        calls = 0
        publish_ = transport_of(road).publish

        async def second_fails(messages: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == 2:
                raise PublishError({5: StorageBusyError("locked")})
            return await publish_(messages)

        transport_of(road).publish = second_fails
        with pytest.raises(PublishError) as caught:
            await road.publish_many(topic, (Job(n) for n in range(3500)))
        assert list(caught.value.failed) == [1005]
        assert calls == 2
        assert await account(road) == {"pending": 3500}


# ------------------------------------------------------------------ schedules


async def test_each_tick_is_published_once_by_all_roads(file_url: str) -> None:
    topic = Topic("ticks", dict)
    roads = [Postroad(file_url), Postroad(file_url)]
    calls: Counter[datetime] = Counter()
    seen: list[str] = []
    for road in roads:

        @road.every(100 * MS, name="tick")
        async def tick(at: datetime) -> Any:
            calls[at] += 1
            return topic.message({"at": at.isoformat()})

    @roads[0].subscribe(topic, group="g")
    async def handler(payload: dict[str, Any]) -> None:
        seen.append(payload["at"])

    async with roads[0] as one, roads[1] as two, one.consuming(), two.consuming():
        await eventually(lambda: len(seen) >= 6, "ticks")
    assert len(seen) == len(set(seen))
    times = [datetime.fromisoformat(at) for at in sorted(seen)]
    assert {later - first for first, later in pairwise(times)} == {100 * MS}
    assert max(calls.values()) == 2


# ------------------------------------------------------------------ reading along


async def test_a_stream_yields_payloads_and_skips_what_it_cannot_read(
    road: Postroad, books: Books
) -> None:
    topic = jobs()
    found: list[int] = []
    async with road:

        async def read() -> None:
            async for job in road.stream(topic):
                found.append(job.n)  # noqa: PERF401 - the list is read meanwhile

        reading = asyncio.create_task(read())

        async def listening() -> bool:
            await road.publish(topic, Job(0))
            return bool(found)

        await eventually(listening, "a stream")
        await raw(road, topic, b"nonsense")
        await publish(road, topic, [1, 2])
        await eventually(lambda: found[-1:] == [2], "payloads")
        assert [failure.reason for failure in books.failures] == ["undecodable"]
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        assert [n for n in found if n] == [1, 2]


async def test_leaving_a_stream_lets_go_of_its_consumer(road: Postroad) -> None:
    topic = jobs()
    async with road:
        stream = road.stream(topic)
        first = asyncio.ensure_future(anext(stream))

        async def listening() -> bool:
            await road.publish(topic, Job(0))
            return first.done()

        await eventually(listening, "a stream")
        assert len(road._streams) == 1
        await stream.aclose()
        assert road._streams == []


async def test_code_without_a_loop_publishes(file_url: str, books: Books) -> None:
    road = Postroad(file_url, hooks=books)
    topic = jobs()
    seen: list[int] = []

    @road.subscribe(topic, group="g")
    def handler(job: Job) -> None:
        seen.append(job.n)
        if job.n < 3:
            road.sync.publish(topic, Job(job.n + 100))

    def publish_from_a_thread(n: int) -> None:
        road.sync.publish(topic, Job(n))

    async with road, road.consuming():
        await asyncio.gather(*(asyncio.to_thread(publish_from_a_thread, n) for n in range(20)))
        many = await asyncio.to_thread(road.sync.publish_many, topic, [Job(50), Job(51)])
        assert len(many) == 2
        await asyncio.to_thread(
            functools.partial(road.sync.publish, topic, Job(60), delay=SECOND * 60, id="later")
        )
        assert await asyncio.to_thread(road.sync.cancel, "later")
        await eventually(lambda: len(seen) >= 25, "messages")
    assert sorted(seen) == [*range(20), 50, 51, 100, 101, 102]
    with pytest.raises(ClosedError):
        road.sync.publish(topic, Job(1))


# ------------------------------------------------------------------ effectively once


def bookings(path: str) -> list[int]:
    with sqlite3.connect(path) as connection:
        rows = connection.execute("SELECT n FROM bookings ORDER BY n").fetchall()
    connection.close()
    return [n for (n,) in rows]


def create_bookings(path: str) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE bookings (n INTEGER)")
    connection.close()


INSERT = "INSERT INTO bookings VALUES (?)"


async def test_business_writes_and_settlement_are_one(
    file_url: str, tmp_path: Path, books: Books
) -> None:
    path = str(tmp_path / "road.db")
    create_bookings(path)
    road = Postroad(file_url, hooks=books)
    topic, out = jobs(), Topic("done", Done)
    results: list[Message] = []
    refused: list[Exception] = []
    never_declared = Topic("elsewhere", Done)

    @road.subscribe(topic, group="g", delivery="effectively-once", retry=NOW, concurrency=4)
    async def book(job: Job, delivery: Delivery, tx: Transaction) -> Outgoing | None:
        await tx.execute(INSERT, (job.n,))
        assert (job.n,) in await tx.fetch("SELECT n FROM bookings")
        await tx.publish(out, Done(job.n))
        if job.n == 1:
            raise Flop("after the write")
        if job.n == 2 and delivery.attempts == 0:
            raise Flop("only once")
        if job.n == 3:
            for target in (out, never_declared):
                for call in (road.publish(target, Done(3)), road.publish_many(target, [Done(3)])):
                    try:
                        await call
                    except NotSupportedError as error:
                        refused.append(error)
        return out.message(Done(job.n + 100)) if job.n == 4 else None

    @road.subscribe(out, group="out")
    async def collect(message: Message) -> None:
        results.append(message)

    async with road, road.consuming():
        for n in range(6):
            await road.publish(topic, Job(n), id=f"job-{n}")
        await settled(books, 6 + 6)
        assert await account(road) == {"handled": 5, "dead": 1}
    assert bookings(path) == [0, 2, 3, 4, 5]
    numbers = {out.decode(m.data).n: m.causation_id for m in results}
    assert sorted(numbers) == [0, 2, 3, 4, 5, 104]
    assert numbers[104] == "job-4"
    assert len(refused) == 4
    assert "tx.publish" in str(refused[0])


_CRASHER = """
import asyncio, os, signal, sys
from datetime import timedelta
from msgspec import Struct
from postroad import Postroad, Topic, Transaction

class Job(Struct):
    n: int
    key: str = "a"

road = Postroad(sys.argv[1])
topic = Topic("jobs", Job)
seen = 0

@road.subscribe(topic, group="g", delivery="effectively-once", lease=timedelta(seconds=1))
async def book(job: Job, tx: Transaction) -> None:
    global seen
    await tx.execute("INSERT INTO bookings VALUES (?)", (job.n,))
    seen += 1
    if seen == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(road.run())
"""


async def test_a_kill_between_write_and_commit_books_nothing_twice(
    file_url: str, tmp_path: Path, books: Books
) -> None:
    path = str(tmp_path / "road.db")
    create_bookings(path)
    road = Postroad(file_url, hooks=books)
    topic = jobs()

    @road.subscribe(topic, group="g", delivery="effectively-once", lease=SECOND)
    async def book(job: Job, tx: Transaction) -> None:
        await tx.execute(INSERT, (job.n,))

    async with road:
        await road.publish_many(topic, [Job(n) for n in range(30)])
        for after in ("1", "7"):
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", _CRASHER, file_url, after, env=dict(os.environ)
            )
            assert await asyncio.wait_for(process.wait(), 20) == -signal.SIGKILL
        before = bookings(path)
        assert len(before) == 6
        async with road.consuming():
            await settled(books, 24)
        assert await account(road) == {"handled": 30}
    assert bookings(path) == list(range(30))
