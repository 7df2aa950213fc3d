"""The engine over the model transports: positions, revocations, pushes, gaps, zombies, commits
that hold results. In virtual time; every choice comes from a seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any, cast

import pytest

from postroad import Postroad, Retry
from postroad.core.delivery import Delivery
from postroad.core.notices import Assigned, Gap, Lost, Revoking
from postroad.testing.clock import VirtualClock
from postroad.testing.conformance import SEED
from postroad.testing.models import (
    AtomicModel,
    Broker,
    CumulativeModel,
    LeasedModel,
    LossyModel,
    PushModel,
)
from postroad.testing.models.log import LogModel
from tests.integration.model_crew import (
    LEASE,
    Books,
    Crew,
    Gate,
    Job,
    Process,
    jobs,
    nothing,
    number,
    result,
)

NINE_MINUTES = Retry(backoff="fixed", first=timedelta(minutes=9))
STUBBORN = Retry(attempts=1000, backoff="fixed", first=timedelta(milliseconds=50))
SEEDS = [SEED + n for n in range(4)]


@pytest.fixture(params=SEEDS, ids=range(4))
def seed(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


def slowly(crew: Crew[Any], seconds: float) -> Callable[[Delivery], Any]:
    """A handler that takes its time."""

    async def handle(delivery: Delivery) -> None:
        await crew.clock.sleep(seconds)

    return handle


# ------------------------------------------------------------------ positions


async def test_a_kill_before_the_prefix_brings_everything_back(seed: int) -> None:
    async with Crew(CumulativeModel, seed, concurrency=4) as crew:
        await crew.publish(500)
        first = await crew.start(Gate(0))
        await crew.until(lambda: len(first.handled) == 499)
        assert crew.publisher.committed("jobs", "g") == (0,), "job 0 still runs"
        first.kill()
        second = await crew.start(nothing)
        await crew.until(lambda: len(second.handled) == 500)
        assert sorted(number(one.message) for one in second.handled) == list(range(500))
        assert crew.publisher.committed("jobs", "g") == (500,)
        assert (await crew.publisher.lag("jobs", "g")).messages == 0


async def test_what_is_committed_before_a_kill_does_not_come_again(seed: int) -> None:
    async with Crew(CumulativeModel, seed, concurrency=4) as crew:
        await crew.publish(100)
        first = await crew.start(Gate(60))
        await crew.until(lambda: crew.publisher.committed("jobs", "g") == (60,))
        first.kill()
        second = await crew.start(nothing)
        await crew.until(lambda: crew.publisher.committed("jobs", "g") == (100,))
        assert min(number(one.message) for one in second.handled) == 60


async def test_a_lost_answer_is_asked_for_again(seed: int) -> None:
    async with Crew(CumulativeModel, seed) as crew:
        process = await crew.start(nothing)
        process.road.lose_replies(3)
        await crew.publish(50)
        await crew.until(lambda: process.books.outcomes["handled"] == 50)
        assert crew.numbers == list(range(50))


# ------------------------------------------------------------------ revocations


@pytest.mark.parametrize("model", [CumulativeModel, AtomicModel, LeasedModel])
async def test_a_revocation_under_backpressure_loses_nothing(
    model: type[LogModel[Any]], seed: int
) -> None:
    async with Crew(model, seed, 8, order="key", concurrency=2, prefetch=30) as crew:
        await crew.publish(300, keys=20)
        first = await crew.start(slowly(crew, 0.5))
        await crew.passes(3)
        second = await crew.start(slowly(crew, 0.1))
        await crew.until(lambda: second.handled)
        assert first.books.were_told(Revoking), "it came while the first one was busy"
        assert not first.books.were_told(Lost), "and was answered in time"
        third = await crew.start(slowly(crew, 0.1))
        await crew.until(lambda: third.handled)
        await crew.stop(second, within=5)
        await crew.until(lambda: crew.complete)
        crew.assert_key_order()
        await crew.until(lambda: behind(crew) == 0)


async def test_a_revocation_waits_for_nothing_that_will_not_be_committed(seed: int) -> None:
    """What is done behind a message that goes back cannot be committed: no reason to wait."""
    async with Crew(CumulativeModel, seed, order="key", lease=timedelta(hours=1)) as crew:
        first = await crew.start(failing_once(crew, 0), retry=NINE_MINUTES)
        await crew.publish(40, keys=10)
        # Job 0 waits for its next attempt, and those of its key wait behind it.
        await crew.until(lambda: len(first.handled) == 40 - len(crew.keys_of(0)))
        second = await crew.start(nothing)
        crew.publisher.revoke("jobs", "g", [0])
        await crew.until(lambda: len(assignments(first, second)) == 2, within=5)
        assert not first.books.were_told(Lost)
        await crew.until(lambda: crew.complete)
        crew.assert_key_order()


def assignments(*processes: Process[Any]) -> list[Assigned]:
    """How often they were given partitions."""
    return [notice for one in processes for notice in one.books.were_told(Assigned)]


async def test_a_drain_waits_for_nothing_that_will_not_be_committed(seed: int) -> None:
    async with Crew(CumulativeModel, seed) as crew:
        first = await crew.start(failing_once(crew, 0), retry=NINE_MINUTES)
        await crew.publish(40)
        await crew.until(lambda: len(first.handled) == 39)
        await crew.stop(first, within=1)
        assert crew.publisher.committed("jobs", "g") == (0,)
        second = await crew.start(nothing)
        await crew.until(lambda: len(second.handled) == 40, within=5)


async def test_a_revocation_that_cannot_be_met_gives_up_what_runs(seed: int) -> None:
    async with Crew(CumulativeModel, seed, 2, order="key", concurrency=16) as crew:
        await crew.publish(16, keys=None)
        gate = Gate(*range(16))
        first = await crew.start(gate)
        assert len(gate.started) == 16, "all run, of both partitions"
        second = await crew.start(nothing)
        await crew.until(lambda: second.handled, within=2 * LEASE.total_seconds())
        gate.open()
        await crew.passes(1)
        assert first.books.outcomes["stale"] == len(second.handled), "they are another's by now"
        assert first.books.outcomes["handled"] == 16 - len(second.handled)
        assert crew.complete
        assert behind(crew) == 0


@pytest.mark.parametrize("model", [CumulativeModel, AtomicModel, LeasedModel])
async def test_a_release_that_is_answered_late_loses_nothing(
    model: type[LogModel[Any]], seed: int
) -> None:
    """The partition comes back, and is read anew, before the answer to `release` is there."""
    async with Crew(model, seed, 1, hasty=True, order="key", concurrency=2, prefetch=20) as crew:
        await crew.publish(200, keys=12)
        process = await crew.start(slowly(crew, 0.05))
        for _ in range(5):
            await crew.passes(0.7)
            crew.publisher.revoke("jobs", "g", [0])
        await crew.until(lambda: process.books.outcomes["handled"] == 200)
        assert crew.complete
        assert behind(crew) == 0


async def lapsed(crew: Crew[Any]) -> Process[Any]:
    """A process that was stopped for longer than its lease, and finds work as it goes on."""
    process = await crew.start(slowly(crew, 0.05))
    await crew.publish(20, keys=12)
    await crew.until(lambda: crew.complete)
    await crew.passes(1)
    process.road.stall()
    await crew.publish(200, keys=12)
    await crew.passes(3 * LEASE.total_seconds())
    process.road.resume()
    await crew.passes(60)
    return process


@pytest.mark.parametrize("model", [CumulativeModel, AtomicModel])
async def test_a_loss_that_is_told_late_commits_past_nothing(
    model: type[CumulativeModel], seed: int
) -> None:
    """The partition is lost, comes back and is read anew before the loss is told."""
    async with Crew(model, seed, 1, hasty=True, order="key", concurrency=2, prefetch=20) as crew:
        (await lapsed(crew)).kill()
        await crew.start(nothing)
        await crew.until(lambda: crew.complete and behind(crew) == 0)


@pytest.mark.parametrize("model", [CumulativeModel, AtomicModel])
async def test_a_loss_that_is_told_late_takes_nothing_that_came_since(
    model: type[CumulativeModel], seed: int
) -> None:
    async with Crew(model, seed, 1, hasty=True, order="key", concurrency=2, prefetch=20) as crew:
        await lapsed(crew)
        assert crew.complete
        crew.assert_key_order()
        assert behind(crew) == 0


def failing_once(crew: Crew[Any], n: int) -> Callable[[Delivery], Any]:
    """A handler whose first call for one job fails."""

    async def handle(delivery: Delivery) -> None:
        if number(delivery.message) == n and not delivery.attempts:
            raise ValueError("the first time")

    return handle


def behind(crew: Crew[Any]) -> int:
    """How much the group has not settled."""
    log = crew.broker.channels["jobs"]
    group = log.group("g")
    return sum(len(list(group.unsettled(n))) for n in range(log.partitions))


# ------------------------------------------------------------------ pushes


async def test_push_failures_are_retried_in_process(seed: int) -> None:
    async def handle(delivery: Delivery) -> None:
        assert delivery.deliveries is None
        assert delivery.starts is None
        if delivery.attempts < 2:
            raise ValueError(f"attempt {delivery.attempts}")

    async with Crew(PushModel, seed, retry=Retry(attempts=4)) as crew:
        await crew.publish(50)
        process = await crew.start(handle)
        await crew.until(lambda: process.books.outcomes["handled"] == 50)
        assert process.books.failures == 100
        assert process.books.outcomes == {"handled": 50}
        assert sorted(crew.numbers) == list(range(50))


async def test_push_consumers_that_die_lose_nothing(seed: int) -> None:
    async with Crew(PushModel, seed, concurrency=4) as crew:
        await crew.publish(200)
        first = await crew.start(Gate(*range(0, 200, 7)))
        await crew.passes(1)
        first.kill()
        second = await crew.start(slowly(crew, 0.01))
        await crew.until(lambda: crew.complete)
        assert not Counter(crew.numbers) - Counter(list(range(200)) * 2)
        await crew.until(lambda: second.books.outcomes["handled"] > 0)
        assert (await crew.publisher.lag("jobs", "g")).messages == 0


async def test_a_push_connection_that_breaks_loses_nothing(seed: int) -> None:
    async with Crew(PushModel, seed, concurrency=4) as crew:
        await crew.publish(300)
        process = await crew.start(slowly(crew, 0.05))
        for _ in range(5):
            await crew.passes(0.33)
            process.road.disconnect()
        await crew.until(lambda: crew.complete)
        assert len(process.books.were_told(Lost)) == 5
        told = process.books.outcomes
        assert told["handled"] == 300, f"each is settled once: {told}"


# ------------------------------------------------------------------ gaps


async def test_what_a_lossy_road_drops_is_told_and_the_rest_handled_once() -> None:
    clock, books = VirtualClock(), Books()
    broker: Broker[Any] = Broker(seed=SEED, clock=clock)
    seen: list[int] = []
    topic = jobs()
    road = Postroad("memory://", hooks=books, clock=clock)

    @road.subscribe(topic, group=None, delivery="at-most-once", concurrency=1, prefetch=10)
    async def handle(job: Job) -> None:
        await clock.sleep(0.1)
        seen.append(job.n)

    with road.rebound(LossyModel(broker, capacity=50), clock, lambda bound: bound):
        async with road.consuming():
            await clock.advance(timedelta(seconds=1))
            for n in range(500):
                await road.publish(topic, Job(n))
                await clock.advance(timedelta(milliseconds=20))
            await clock.advance(timedelta(minutes=1))
            missed = sum(gap.count for gap in books.were_told(Gap))
            assert missed > 0, "the reader is five times slower than the publisher"
            assert len(seen) + missed == 500, "every message is handled or told as missed"
            assert seen == sorted(set(seen))


async def test_a_lossy_failure_is_retried_in_process_and_ends_in_a_counted_loss() -> None:
    clock, books = VirtualClock(), Books()
    broker: Broker[Any] = Broker(seed=SEED, clock=clock)
    calls: Counter[int] = Counter()
    topic = jobs()
    road = Postroad("memory://", hooks=books, clock=clock)

    @road.subscribe(
        topic, group=None, delivery="at-most-once", retry=Retry(attempts=3, backoff="immediate")
    )
    async def handle(job: Job) -> None:
        calls[job.n] += 1
        if job.n == 3:
            raise ValueError("always")

    with road.rebound(LossyModel(broker), clock, lambda bound: bound):
        async with road.consuming():
            await clock.advance(timedelta(seconds=1))
            for n in range(10):
                await road.publish(topic, Job(n), id=str(n))
            await clock.advance(timedelta(minutes=1))
    assert calls == Counter({3: 3}) + Counter({n: 1 for n in range(10) if n != 3})
    assert books.lost_numbers == [3]


# ------------------------------------------------------------------ zombies


class Ledger:
    """An outside resource that remembers the highest fence of each key."""

    def __init__(self) -> None:
        self.written: list[Delivery] = []
        self.refused = 0
        self._fences: dict[str | None, int] = {}

    async def write(self, delivery: Delivery) -> None:
        """Take a write unless a later owner of the key has written."""
        assert delivery.fence is not None
        if delivery.fence < self._fences.get(delivery.message.key, 0):
            self.refused += 1
            return
        self._fences[delivery.message.key] = delivery.fence
        self.written.append(delivery)


async def test_a_zombie_settles_nothing_and_its_fence_is_old(seed: int) -> None:
    ledger = Ledger()
    async with Crew(LeasedModel, seed, 4, order="key", concurrency=4) as crew:
        await crew.publish(80, keys=8)
        gate = Gate(*range(80), then=ledger.write)
        zombie = await crew.start(gate)
        await crew.passes(1)
        assert gate.started
        zombie.road.stall()
        heir = await crew.start(ledger.write)
        await crew.until(lambda: len(heir.handled) == 80, within=3 * LEASE.total_seconds())
        await crew.until(lambda: heir.books.outcomes["handled"] == 80)
        gate.open()
        await crew.passes(1)
        zombie.road.resume()
        await crew.passes(60)
        assert zombie.books.outcomes["handled"] == 0
        assert ledger.refused, "the zombie's late writes carry an old fence"
        account = await crew.publisher.account("jobs", "g")
        assert account.outcomes == {"handled": 80}, "each settled once"
        crew.handled = ledger.written
        crew.assert_key_order()
        assert len(ledger.written) == 80


async def test_key_order_holds_over_a_takeover(seed: int) -> None:
    async with Crew(LeasedModel, seed, 4, order="key", concurrency=4) as crew:
        await crew.publish(120, keys=9)
        first = await crew.start(slowly(crew, 0.4))
        await crew.passes(4)
        first.kill()
        before = len(first.handled)
        assert 0 < before < 120
        second = await crew.start(slowly(crew, 0.1))
        await crew.until(lambda: crew.complete)
        crew.assert_key_order()
        await crew.until(lambda: behind(crew) == 0)
        account = await crew.publisher.account("jobs", "g")
        assert account.outcomes == {"handled": 120}
        repeated = len(crew.handled) - 120
        assert repeated <= account.duplicates, "every repetition is counted"
        assert second.books.outcomes["handled"] + first.books.outcomes["handled"] == 120


# ------------------------------------------------------------------ atomic


async def test_results_and_positions_commit_together_or_not_at_all(seed: int) -> None:
    async with Crew(AtomicModel, seed, concurrency=4) as crew:
        await crew.publish(100)
        first = await crew.start(Gate(40, then=result))
        await crew.until(lambda: len(first.handled) == 99)
        assert crew.publisher.committed("jobs", "g") == (40,)
        assert crew.results() == list(range(40)), "the results of what is behind job 40 wait"
        first.kill()
        await crew.start(result)
        await crew.until(lambda: crew.publisher.committed("jobs", "g") == (100,))
        assert crew.results() == list(range(100)), "each once, although 59 jobs ran twice"


async def test_a_commit_whose_answer_is_lost_publishes_once(seed: int) -> None:
    async with Crew(AtomicModel, seed, 4) as crew:
        process = await crew.start(result)
        for _ in range(5):
            process.road.lose_replies(1)
            await crew.publish(20, keys=10)
            await crew.passes(5)
        await crew.until(lambda: behind(crew) == 0)
        assert sorted(crew.results()) == list(range(100))


# ------------------------------------------------------------------ everything at random


class Chaos:
    """Processes that come, go, die, stall and are revoked, at random, while jobs are published."""

    def __init__(self, crew: Crew[Any]) -> None:
        self.crew = crew
        self.running: list[Process[Any]] = []
        self.stalled: list[Process[Any]] = []

    async def handle(self, delivery: Delivery) -> Any:
        """Takes some time, fails now and then, and publishes a result where there is a log."""
        chance = self.crew.random.random()
        await self.crew.clock.sleep(chance * 0.2)
        if chance < 0.1:
            raise ValueError("at random")
        return None if isinstance(self.crew.publisher, PushModel) else await result(delivery)

    async def step(self) -> None:
        """One thing that may happen to processes."""
        roll = self.crew.random.randrange(6)
        if roll == 0 or not self.running:
            self.running.append(await self.crew.start(self.handle))
        elif roll == 1:
            self._one().kill()
        elif roll == 2:
            self._one().ask_to_stop()
        elif roll == 3:
            process = self._one()
            process.road.stall()
            self.stalled.append(process)
        elif roll == 4 and self.stalled:
            process = self.stalled.pop(self.crew.random.randrange(len(self.stalled)))
            process.road.resume()
            self.running.append(process)
        else:
            self._disturb()

    def _one(self) -> Process[Any]:
        return self.running.pop(self.crew.random.randrange(len(self.running)))

    def _disturb(self) -> None:
        road = self.crew.publisher
        if isinstance(road, PushModel):
            for process in self.running:
                process.road.disconnect()
        else:
            road.revoke("jobs", "g", self.crew.random.sample(range(8), 3))

    async def run(self) -> None:
        """Forty steps, and then whoever is needed to finish."""
        for _ in range(40):
            await self.crew.publish(15, keys=12)
            await self.step()
            await self.crew.passes(self.crew.random.random() * 2)
        for process in self.stalled:
            process.road.resume()
        await self.crew.start(self.handle)
        await self.crew.until(lambda: self.crew.complete)


CHAOTIC = [CumulativeModel, AtomicModel, LeasedModel]


@pytest.mark.parametrize("model", CHAOTIC)
async def test_at_random_nothing_is_lost_and_keys_keep_their_order(
    model: type[LogModel[Any]], seed: int
) -> None:
    async with Crew(model, seed, 8, order="key", concurrency=4, retry=STUBBORN) as crew:
        await Chaos(crew).run()
        await crew.until(lambda: behind(crew) == 0)
        crew.assert_key_order()
        assert set(crew.results()) == set(crew.numbers)
        if model is AtomicModel:
            assert sorted(crew.results()) == list(range(600)), "exactly once, whatever happens"
        if model is LeasedModel:
            account = await cast(LeasedModel, crew.publisher).account("jobs", "g")
            assert account.outcomes == {"handled": 600}


async def test_at_random_push_loses_nothing(seed: int) -> None:
    async with Crew(PushModel, seed, concurrency=4, retry=STUBBORN) as crew:
        await Chaos(crew).run()
        queue = crew.broker.channels["jobs"].queues["g"]
        await crew.until(lambda: queue.size == 0)
