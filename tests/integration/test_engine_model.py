"""Any life of the engine, on SQLite and in memory, held against the script of each message.

Every message says how its handling goes: so many failures, then an end. Whatever is stopped, killed
or started meanwhile, that is how it has to end.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

import pytest
from hypothesis import register_random
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from msgspec import Struct

from postroad.app import Postroad
from postroad.core import retry as retry_module
from postroad.core.delivery import Delivery, Settlement
from postroad.core.outcome import Discard, PartialFailure, Reject
from postroad.core.retry import Retry
from postroad.core.subscription import Batch
from postroad.core.topic import Topic
from postroad.transports.memory import MemoryTransport
from tests.integration.engine_life import (
    Fuse,
    IdleClock,
    Process,
    app_on,
    on_memory,
    on_sqlite,
)
from tests.integration.models import lives

R = TypeVar("R")
End: TypeAlias = Literal["handled", "hang", "reject", "never", "discard"]
Mode: TypeAlias = Literal["single", "partial", "whole"]
LEASE = timedelta(seconds=3)


# Waits of the same length in every run.
register_random(retry_module._rng)


class Job(Struct):
    n: int
    key: str


class Boom(Exception):
    """A failure that is tried again."""


class Never(Exception):
    """A failure that is not."""


TOPIC: Topic[Job] = Topic("jobs.model", Job, key="key", partitions=3)


@dataclass(eq=False)
class Script:
    """How the handling of a message goes, and what has become of it.

    Attributes:
        fails: so many attempts fail, as the road counts them.
        runs: where a handler works on it now.
        done: the process whose handler was the last to bring it to its end.
        over: some handler has decided its end, so that the next of its key may come.
        settled: the outcome that the road has committed.
        failed: how often a handler failed on it.
        crashes: how often a process died with it in hand.
        given_up: its partition went elsewhere before its handler came back.
    """

    n: int
    key: str
    fails: int
    end: End
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    runs: Process | None = None
    done: Process | None = None
    over: bool = False
    settled: str | None = None
    failed: int = 0
    crashes: int = 0
    given_up: bool = False

    def expected(self, retry: Retry) -> set[str]:
        """The outcomes that it may come to."""
        dead = self.fails >= retry.attempts or self.end in ("reject", "never")
        ends = {"dead"} if dead else {"discarded" if self.end == "discard" else "handled"}
        return ends | {"dead"} if self.crashes >= retry.crashes else ends


messages = st.tuples(
    st.sampled_from("abc"),
    st.sampled_from([0, 0, 0, 1, 2, 3]),
    st.sampled_from(["handled", "handled", "hang", "reject", "never", "discard"]),
)
retries = st.builds(
    Retry,
    attempts=st.integers(1, 3),
    backoff=st.sampled_from(["immediate", "fixed", "exponential"]),
    first=st.just(timedelta(seconds=1)),
    never=st.just((Never,)),
    crashes=st.integers(1, 2),
)
picks = st.integers(0, 3)


class EngineLife(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = IdleClock()
        self.scripts: list[Script] = []
        self.processes: list[Process] = []
        self.faults: list[str] = []
        self.front: Postroad | None = None
        self.broken = False

    def new_road(self, process: list[Process]) -> Any:
        """The transport of one more process."""
        raise NotImplementedError

    def run(self, step: Coroutine[Any, Any, R]) -> R:
        try:
            result = self.runner.run(step)
            assert not self.faults, self.faults
        except BaseException:
            self.broken = True
            raise
        return result

    # ------------------------------------------------ what the engine sees

    @initialize(
        order=st.sampled_from(["none", "key"]),
        mode=st.sampled_from(["single", "partial", "whole"]),
        retry=retries,
        prefetch=st.sampled_from([4, 1000]),
    )
    def declare(self, order: str, mode: Mode, retry: Retry, prefetch: int) -> None:
        self.order, self.mode, self.retry = order, mode, retry
        self.options: dict[str, Any] = {
            "order": order,
            "retry": retry,
            "prefetch": prefetch,
            "lease": LEASE,
            "concurrency": 4,
            "batch": None if mode == "single" else Batch(size=3),
        }
        self.front = self.new_app().app
        self.run(self.front.open())
        self.new_process()

    def new_app(self) -> Process:
        place: list[Process] = []
        process = Process(app_on(self.new_road(place), self.clock), self)
        place.append(process)
        subscribe = process.app.subscribe(TOPIC, group="g", **self.options)
        subscribe(self.handler(process))
        return process

    def new_process(self) -> None:
        process = self.new_app()
        self.processes.append(process)
        self.run(self.begin(process))

    async def begin(self, process: Process) -> None:
        await process.start()
        await self.clock.settle()

    def handler(self, process: Process) -> Callable[..., Any]:
        async def one(job: Job, delivery: Delivery) -> None:
            await self.call(process, [(job, delivery)])

        async def many(batch: list[Job], deliveries: list[Delivery]) -> None:
            await self.call(process, list(zip(batch, deliveries, strict=True)))

        return one if self.mode == "single" else many

    async def call(self, process: Process, batch: list[tuple[Job, Delivery]]) -> None:
        """One call of the handler. What it comes to counts when it returns, for all at once."""
        if not process.alive:
            await asyncio.Event().wait()  # its tasks are only not cancelled yet
        scripts = [self.scripts[job.n] for job, _ in batch]
        for script, (_, delivery) in zip(scripts, batch, strict=True):
            self.check(script, delivery)
            script.runs = process
        try:
            for script in scripts:
                if script.end == "hang":
                    await script.gate.wait()
        finally:
            for script in scripts:
                script.runs = None if script.runs is process else script.runs
        if process.alive:
            self.finish(process, scripts, [delivery for _, delivery in batch])

    def finish(self, process: Process, scripts: list[Script], deliveries: list[Delivery]) -> None:
        ends = [self.end(*pair) for pair in zip(scripts, deliveries, strict=True)]
        failed = {index: error for index, error in enumerate(ends) if error is not None}
        if failed and self.mode == "whole" and len(scripts) > 1:
            raise Boom("one of them")
        for script, error, delivery in zip(scripts, ends, deliveries, strict=True):
            if isinstance(error, Boom):
                script.failed += 1
                script.over |= delivery.attempts + 1 >= self.retry.attempts
            else:
                script.over, script.done = True, process if error is None else script.done
        if failed:
            raise PartialFailure(failed) if self.mode == "partial" else failed[0]

    def end(self, script: Script, delivery: Delivery) -> Exception | None:
        """What this attempt comes to by the script."""
        if delivery.attempts < script.fails:
            return Boom("as scripted")
        ends: dict[str, Callable[[], Exception]] = {
            "reject": Reject,
            "never": Never,
            "discard": Discard,
        }
        return ends[script.end]() if script.end in ends else None

    def check(self, script: Script, delivery: Delivery) -> None:
        """Whether a handler may be called with this now."""

        def demand(holds: object, why: str) -> None:
            if not holds:
                self.faults.append(f"{script.n}: {why}")

        demand(script.settled is None, f"handled after it was {script.settled}")
        if not script.given_up:
            demand(script.runs is None or not script.runs.alive, "handled twice at once")
            demand(script.done is None or not script.done.alive, "handled again without a crash")
        demand(
            delivery.attempts <= script.failed, f"{delivery.attempts} of {script.failed} attempts"
        )
        if self.order == "key":
            for other in self.scripts[: script.n]:
                if other.key == script.key:
                    demand(other.over, f"overtakes {other.n}")

    # ------------------------------------------------ what the road sees

    def settling(self, settlement: Settlement) -> None:
        if settlement.failure is not None and settlement.failure.reason == "crash":
            self.scripts[number(settlement.delivery)].over = True

    def given_up(self, delivery: Delivery) -> None:
        self.scripts[number(delivery)].given_up = True

    def settled(self, settlement: Settlement) -> None:
        script = self.scripts[number(settlement.delivery)]
        if settlement.action == "nack":
            return
        if script.settled is not None:
            self.faults.append(f"{script.n} was {script.settled} and is settled again")
        script.settled = "dead" if settlement.action == "reject" else settlement.outcome

    # ------------------------------------------------ steps

    @rule(batch=st.lists(messages, min_size=1, max_size=6))
    def publish(self, batch: list[tuple[str, int, End]]) -> None:
        self.run(self.publishing(batch))

    async def publishing(self, batch: list[tuple[str, int, End]]) -> None:
        assert self.front is not None
        for key, fails, end in batch:
            script = Script(len(self.scripts), key, fails, end)
            self.scripts.append(script)
            await self.front.publish(TOPIC, Job(script.n, key))
        await self.clock.settle()

    @precondition(lambda self: len(self.processes) < 3)
    @rule()
    def start(self) -> None:
        self.new_process()

    @precondition(lambda self: self.processes)
    @rule(pick=picks)
    def stop(self, pick: int) -> None:
        process = self.processes[pick % len(self.processes)]
        self.run(process.end(self.clock))
        if process.alive:
            self.processes.remove(process)
        self.run(self.burying())

    @precondition(lambda self: self.processes)
    @rule(pick=picks)
    def kill(self, pick: int) -> None:
        self.processes[pick % len(self.processes)].kill()
        self.run(self.burying())

    @precondition(lambda self: self.processes)
    @rule(pick=picks, fuse=st.sampled_from(["before", "after"]))
    def light(self, pick: int, fuse: Fuse) -> None:
        """It will die in its next settlement."""
        self.processes[pick % len(self.processes)].fuse = fuse

    async def burying(self) -> None:
        """Note who was killed, and what it had in hand."""
        for process in [one for one in self.processes if not one.alive]:
            self.processes.remove(process)
            await process.bury()
            for delivery in process.hand.values():
                self.scripts[number(delivery)].crashes += 1
        await self.clock.settle()

    @precondition(lambda self: any(one.end == "hang" for one in self.scripts))
    @rule(which=st.integers(0, 7))
    def let_go(self, which: int) -> None:
        """A handler that hangs goes on."""
        hanging = [one for one in self.scripts if one.end == "hang"]
        hanging[which % len(hanging)].gate.set()
        self.run(self.clock.settle())

    @rule(seconds=st.sampled_from([0.25, 1, 4]))
    def advance(self, seconds: float) -> None:
        self.run(self.clock.advance(timedelta(seconds=seconds)))

    @invariant()
    def living(self) -> None:
        if self.front is not None:
            self.run(self.burying())
            for process in self.processes:
                assert process.task is not None
                assert not process.task.done(), process.task

    # ------------------------------------------------ the end

    def teardown(self) -> None:
        try:
            if not self.broken and self.front is not None:
                self.drain()
        finally:
            self.runner.run(self.close())
            self.runner.close()

    def drain(self) -> None:
        for process in self.processes:
            process.fuse = None
        if not self.processes:
            self.new_process()
        for script in self.scripts:
            script.gate.set()
        for _ in range(60):
            if all(script.settled for script in self.scripts):
                break
            self.advance(4)
        open_ = [script.n for script in self.scripts if script.settled is None]
        assert not open_, f"{open_} never came to their end"
        while self.processes:
            self.stop(0)
        for script in self.scripts:
            assert script.settled in script.expected(self.retry), script
        self.run(self.audit())

    async def audit(self) -> None:
        assert self.front is not None
        audit = await self.front.audit("#", "g")
        assert audit.verdict == "balanced", audit
        (entry,) = audit.entries
        assert entry.account is not None
        ends = Counter(str(script.settled) for script in self.scripts)
        assert {k: v for k, v in entry.account.outcomes.items() if v} == ends
        letters = await self.front.dead_letters.list("#", "g", 10_000)
        dead = sorted(script.n for script in self.scripts if script.settled == "dead")
        assert sorted(TOPIC.decode(letter.message.data).n for letter in letters) == dead

    async def close(self) -> None:
        for process in self.processes:
            process.kill()
            await process.bury()
        if self.front is not None:
            await self.front.close()


class OnMemory(EngineLife):
    def __init__(self) -> None:
        super().__init__()
        self.shared = MemoryTransport("memory://", clock=self.clock)

    def new_road(self, process: list[Process]) -> Any:
        return on_memory(self.shared, process)


class OnSqlite(EngineLife):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="postroad-model-"))

    def new_road(self, process: list[Process]) -> Any:
        url = f"sqlite:///{self.folder}/road.db?durability=normal"
        return on_sqlite(url, self.clock, process)

    async def close(self) -> None:
        await super().close()
        shutil.rmtree(self.folder)


def number(delivery: Delivery) -> int:
    return TOPIC.decode(delivery.message.data).n


@pytest.mark.timeout(900)  # a failure is made smaller for minutes
@pytest.mark.parametrize(
    ("life", "usual"), [(OnMemory, 300), (OnSqlite, 40)], ids=["memory", "sqlite"]
)
def test_every_message_comes_to_its_end(life: type[EngineLife], usual: int) -> None:
    run_state_machine_as_test(life, settings=lives(usual, 30))
