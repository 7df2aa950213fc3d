"""From a delivery to its verdict: decode, call, judge."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

import pytest
from msgspec import Struct

from postroad.core.delivery import Delivery, Failure, Settlement
from postroad.core.message import Message
from postroad.core.outcome import Discard, Later, PartialFailure, Reject
from postroad.core.retry import Retry
from postroad.core.subscription import Batch, Subscription
from postroad.core.topic import Topic
from postroad.core.transport import Transaction
from postroad.delivery.execution import Answer, Executor, Held, Rules, Verdict, inside_transaction
from postroad.delivery.handler import inspect_handler
from postroad.errors import DuplicateError, LeaseLostError
from postroad.testing.clock import VirtualClock


class Job(Struct):
    n: int


TOPIC: Topic[Job] = Topic("jobs", Job)
OUT: Topic[int] = Topic("out", int)
_NOTE = contextvars.ContextVar("note", default="")
NOW = timedelta(0)
THREE = Retry(attempts=3, backoff="fixed", first=timedelta(seconds=5))


def delivery(n: int = 1, data: bytes | None = None, **settings: Any) -> Delivery:
    data = b'{"n": %d}' % n if data is None else data
    message = Message(id=f"m{n}", type="t", source="s", data=data, time_us=0, key="k")
    return Delivery(message=message, topic="jobs", group="g", **settings)


class Bench:
    def __init__(
        self,
        function: Callable[..., Any],
        *,
        retry: Retry = THREE,
        gives_back: bool = True,
        timeout: timedelta | None = None,
        sql_log: Any = None,
        batch: Batch | None = None,
        max_payload: int = 100,
    ) -> None:
        self.failures: list[Failure] = []
        self.duplicates: list[Delivery] = []
        self.decoded = 0
        rules = Rules(retry, gives_back, timeout, "tests", lambda name: max_payload)
        subscription = Subscription(source=TOPIC, group="g", batch=batch)
        self.executor = Executor(
            inspect_handler(function, subscription),
            rules,
            VirtualClock(),
            decode_for=lambda name: self.decode,
            sql_log=sql_log,
            threads=2,
            on_failure=lambda delivery, failure: self.failures.append(failure),
            on_duplicate=self.duplicates.append,
        )

    def decode(self, data: bytes) -> Job:
        self.decoded += 1
        return TOPIC.decode(data)

    async def run(self, one: Delivery | None = None) -> Any:
        try:
            return await self.executor.run(one or delivery())
        finally:
            self.executor.close()


def rejected(verdict: Verdict) -> Failure:
    assert isinstance(verdict, Settlement)
    assert verdict.action == "reject"
    assert verdict.failure is not None
    return verdict.failure


async def ok(job: Job) -> None: ...


def raising(error: BaseException) -> Callable[..., Any]:
    async def handler(job: Job) -> None:
        raise error

    return handler


async def test_success_is_an_ack() -> None:
    verdict = await Bench(ok).run()
    assert (verdict.action, verdict.outcome, verdict.failure) == ("ack", "handled", None)


async def test_a_failure_goes_back_with_a_delay_and_its_reason() -> None:
    bench = Bench(raising(ValueError("no\nluck")))
    verdict = await bench.run()
    assert (verdict.action, verdict.delay) == ("nack", timedelta(seconds=5))
    assert bench.failures == [verdict.failure]
    failure = bench.failures[0]
    assert (failure.reason, failure.detail) == ("exception", "no")
    assert failure.exception == "builtins.ValueError"
    assert "ValueError: no" in (failure.traceback or "")
    assert failure.at_us == VirtualClock().now_us()


async def test_where_order_counts_it_is_held_and_remembers_its_attempts() -> None:
    bench = Bench(raising(ValueError("no luck")), gives_back=False)
    one = delivery()
    for attempt in (1, 2):
        verdict = await bench.executor.run(one)
        assert isinstance(verdict, Held)
        assert (verdict.delivery, verdict.delay) == (one, timedelta(seconds=5))
        assert (one.attempts, len(one.failures)) == (attempt, attempt)
    assert rejected(await bench.run(one)) == bench.failures[2]
    assert one.failures == tuple(bench.failures[:2])


async def test_attempts_that_the_road_kept_count() -> None:
    verdict = await Bench(raising(ValueError())).run(delivery(attempts=2))
    assert rejected(verdict).reason == "exception"


@pytest.mark.parametrize(
    ("error", "reason", "dead"),
    [
        (Reject("never"), "rejected", True),
        (Later(timedelta(minutes=7), "tomorrow"), "later", False),
        (KeyError("x"), "exception", True),
        (LookupError("x"), "exception", False),
        (OSError("x"), "exception", True),
    ],
)
async def test_the_kind_of_failure_decides(error: Exception, reason: str, dead: bool) -> None:
    policy = Retry(attempts=5, backoff="immediate", on=(LookupError,), never=(KeyError,))
    verdict = await Bench(raising(error), retry=policy).run()
    assert verdict.failure.reason == reason
    assert verdict.action == ("reject" if dead else "nack")
    if isinstance(error, Later):
        assert verdict.delay == timedelta(minutes=7)
        assert verdict.failure.detail == "tomorrow"


async def test_later_ends_too() -> None:
    verdict = await Bench(raising(Later(NOW))).run(delivery(attempts=2))
    assert rejected(verdict).reason == "later"


async def test_a_discard_is_no_failure() -> None:
    bench = Bench(raising(Discard()))
    verdict = await bench.run()
    assert (verdict.action, verdict.outcome, bench.failures) == ("ack", "discarded", [])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"{", "undecodable"),
        (b'{"n": "x"}', "wrong-type"),
        (b'{"n": 1, "x": "%s"}' % (b"x" * 100), "oversized"),
    ],
)
async def test_a_bad_payload_is_dead_at_once(data: bytes, reason: str) -> None:
    bench = Bench(ok)
    failure = rejected(await bench.run(delivery(data=data)))
    assert failure.reason == reason
    assert "xxx" not in failure.detail
    assert bench.decoded == (0 if reason == "oversized" else 1)


async def test_a_handler_of_envelopes_decodes_nothing() -> None:
    async def handler(message: Message, delivery: Delivery) -> None:
        assert message is delivery.message

    bench = Bench(handler)
    assert (await bench.run(delivery(data=b"{"))).action == "ack"
    assert bench.decoded == 0


async def test_a_timeout_is_told_from_the_handlers_own() -> None:
    async def slow(job: Job) -> None:
        await asyncio.sleep(60)

    limit = timedelta(milliseconds=10)
    ran_out = (await Bench(slow, timeout=limit).run()).failure
    assert (ran_out.reason, ran_out.detail) == ("timeout", "took longer than 0.01 s")
    own = (await Bench(raising(TimeoutError("mine")), timeout=limit).run()).failure
    assert (own.reason, own.detail) == ("exception", "mine")
    kept = Retry(attempts=2, on=(TimeoutError,))
    assert (await Bench(slow, timeout=limit, retry=kept).run()).action == "nack"


async def test_only_the_cancellation_of_the_worker_passes() -> None:
    entered = asyncio.Event()

    async def waits(job: Job) -> None:
        entered.set()
        await asyncio.sleep(60)

    worker = asyncio.create_task(Bench(waits).run())
    await entered.wait()
    worker.cancel()
    with pytest.raises(asyncio.CancelledError):
        await worker
    verdict = await Bench(raising(asyncio.CancelledError())).run()
    assert verdict.action == "nack"
    assert "cancelled" in verdict.failure.detail


marker: ContextVar[bool] = ContextVar("marker", default=False)


async def test_a_plain_function_runs_in_a_thread_with_the_context() -> None:
    def handler(job: Job) -> Any:
        assert threading.current_thread() is not threading.main_thread()
        return OUT.message(job.n) if _NOTE.get() else None

    token = _NOTE.set("kept")
    try:
        assert isinstance(await Bench(handler).run(), Answer)
    finally:
        _NOTE.reset(token)


async def test_a_stop_iteration_in_a_thread_hangs_nobody() -> None:
    def handler(job: Job) -> None:
        next(iter(()))

    verdict = await asyncio.wait_for(Bench(handler).run(), 5)
    assert "StopIteration" in verdict.failure.detail


async def test_results_carry_their_cause() -> None:
    async def handler(job: Job) -> AsyncIterator[Any]:
        yield OUT.message(1)
        yield OUT.message(2)

    verdict = await Bench(handler).run()
    assert isinstance(verdict, Answer)
    assert [topic for topic, _ in verdict.results] == [OUT, OUT]
    for _, message in verdict.results:
        assert (message.causation_id, message.correlation_id) == ("m1", "m1")
        assert message.source == "tests"


@pytest.mark.parametrize("wrong", [7, [OUT.message(1), "x"], OUT.message("x")])  # type: ignore[arg-type]
async def test_a_wrong_result_fails_and_publishes_nothing(wrong: Any) -> None:
    async def handler(job: Job) -> Any:
        return wrong

    verdict = await Bench(handler).run()
    assert isinstance(verdict, Settlement)
    assert verdict.failure is not None


# ------------------------------------------------------------------ transactions


class SqlLog:
    """Commits on leaving, unless the delivery was lost or its message handled before."""

    def __init__(self, lost: bool = False, settles: bool = True, known: bool = False) -> None:
        self.lost = lost
        self.settles = settles
        self.known = known
        self.log: list[Any] = []

    @asynccontextmanager
    async def transaction(self, delivery: Delivery, source: str) -> AsyncIterator[Any]:
        try:
            yield self
        except BaseException:
            self.log.append("rollback")
            raise
        if self.lost:
            raise LeaseLostError("too late")
        if self.known:
            raise DuplicateError("handled before")
        self.log.append("commit")

    async def publish(self, topic: Topic[Any], payload: Any) -> None:
        self.log.append(topic.name)


async def test_a_transaction_settles_itself_with_its_results() -> None:
    log = SqlLog()

    async def handler(job: Job, tx: Transaction) -> Any:
        assert tx is log  # type: ignore[comparison-overlap]
        assert inside_transaction()
        return OUT.message(1)

    verdict = await Bench(handler, sql_log=log).run()
    assert isinstance(verdict, Answer)
    assert verdict.settled
    assert verdict.results == []
    assert log.log == ["out", "commit"]
    assert not inside_transaction()


async def test_a_failure_rolls_back_and_is_judged() -> None:
    log = SqlLog()

    async def handler(job: Job, tx: Transaction) -> None:
        raise ValueError

    verdict = await Bench(handler, sql_log=log).run()
    assert (verdict.action, log.log) == ("nack", ["rollback"])
    assert not inside_transaction()


async def test_a_lost_lease_costs_no_attempt() -> None:
    async def handler(job: Job, tx: Transaction) -> None: ...

    bench = Bench(handler, sql_log=SqlLog(lost=True))
    verdict = await bench.run()
    assert (verdict.action, verdict.failure, bench.failures) == ("nack", None, [])


async def test_what_its_transaction_does_not_settle_is_settled_with_the_others() -> None:
    async def handler(job: Job, tx: Transaction) -> None: ...

    verdict = await Bench(handler, sql_log=SqlLog(settles=False)).run()
    assert isinstance(verdict, Settlement)
    assert (verdict.action, verdict.outcome) == ("ack", "handled")


async def test_a_duplicate_is_settled_and_no_failure() -> None:
    async def handler(job: Job, tx: Transaction) -> None: ...

    bench = Bench(handler, sql_log=SqlLog(known=True))
    verdict = await bench.run()
    assert isinstance(verdict, Settlement)
    assert (verdict.action, verdict.outcome, bench.failures) == ("ack", "handled", [])
    assert len(bench.duplicates) == 1


# ------------------------------------------------------------------ batches


def batch_bench(function: Callable[..., Any]) -> Bench:
    return Bench(function, batch=Batch(100), retry=Retry(attempts=1))


def fates(verdicts: list[Verdict]) -> dict[str, str]:
    found: dict[str, str] = {}
    for verdict in verdicts:
        settlement = verdict.settlement if isinstance(verdict, Answer) else verdict
        assert isinstance(settlement, Settlement)
        found[settlement.delivery.message.id] = settlement.action
    return found


async def test_halving_finds_every_poison_and_calls_no_good_one_too_often() -> None:
    calls: list[list[int]] = []

    async def handler(jobs: list[Job]) -> Any:
        calls.append([job.n for job in jobs])
        if any(job.n in (3, 12) for job in jobs):
            raise ValueError("poison")
        return [OUT.message(job.n) for job in jobs]

    bench = batch_bench(handler)
    deliveries = [delivery(n) for n in range(16)] + [delivery(99, b"{")]
    verdicts = await bench.executor.run_batch(deliveries)
    expected = {f"m{n}": "ack" for n in range(16)} | {
        "m3": "reject",
        "m12": "reject",
        "m99": "reject",
    }
    assert fates(verdicts) == expected
    assert len(verdicts) == 17
    assert len(bench.failures) == 3
    results = [OUT.decode(m.data) for v in verdicts if isinstance(v, Answer) for _, m in v.results]
    assert sorted(results) == [n for n in range(16) if n not in (3, 12)]
    assert calls[0] == list(range(16))
    # At most two paths of depth four, two calls a level.
    assert len(calls) <= 1 + 2 * 2 * 4


async def test_a_partial_failure_is_believed() -> None:
    calls = 0

    async def handler(jobs: list[Job]) -> None:
        nonlocal calls
        calls += 1
        raise PartialFailure({1: ValueError("x"), 2: Discard()})

    verdicts = await batch_bench(handler).executor.run_batch([delivery(n) for n in range(4)])
    assert fates(verdicts) == {"m0": "ack", "m1": "reject", "m2": "ack", "m3": "ack"}
    assert calls == 1


async def test_a_batch_of_nothing_decodable_calls_nobody() -> None:
    async def handler(jobs: list[Job]) -> None:
        raise AssertionError("called")

    verdicts = await batch_bench(handler).executor.run_batch([delivery(1, b"{"), delivery(2, b"[")])
    assert fates(verdicts) == {"m1": "reject", "m2": "reject"}
