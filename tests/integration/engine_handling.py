"""The handlers of the engine's model test, and what they and the road must never see."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import timedelta
from typing import Any, Literal, TypeAlias, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize

from postroad.app import Postroad
from postroad.core.delivery import Delivery, Settlement
from postroad.core.outcome import Discard, PartialFailure
from postroad.core.retry import Retry
from postroad.core.subscription import Batch
from tests.integration.engine_life import IdleClock, Process, app_on
from tests.integration.engine_script import TOPIC, Boom, Job, Script, number, retries

R = TypeVar("R")
Mode: TypeAlias = Literal["single", "partial", "whole"]
LEASE = timedelta(seconds=3)


class Handling(RuleBasedStateMachine):
    """What the processes do, and whether they may."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = IdleClock()
        self.scripts: list[Script] = []
        self.processes: list[Process] = []
        self.faults: list[str] = []
        self.front: Postroad | None = None
        self.outside = False
        self.broken = False

    def new_road(self, process: list[Process]) -> Any:
        """The transport of one more process."""
        raise NotImplementedError  # a base class: the lives in test_engine_model.py say which

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
        if order == "none":
            retry = replace(retry, on_dead="continue")
        self.order, self.mode, self.retry = order, mode, retry
        self.parks = retry.on_dead == "park-key"
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
            deliveries = [delivery for _, delivery in batch]
            if any(map(Script.kills, scripts, deliveries)):
                process.poisoned = True
                process.kill()
                await asyncio.Event().wait()
            self.finish(process, scripts, deliveries)

    def finish(self, process: Process, scripts: list[Script], deliveries: list[Delivery]) -> None:
        ends = list(map(Script.error, scripts, deliveries))
        failed = {index: error for index, error in enumerate(ends) if error is not None}
        if failed and self.mode == "whole" and len(scripts) > 1:
            raise Boom("one of them")
        for script, error, delivery in zip(scripts, ends, deliveries, strict=True):
            if isinstance(error, Boom):
                script.failed += 1
                script.over |= delivery.attempts + 1 >= self.retry.attempts and not self.parks
            elif error is None:
                script.over, script.done = True, process
            else:
                # A dead letter may be in the way of its key.
                script.over |= isinstance(error, Discard) or not self.parks
        if failed:
            raise PartialFailure(failed) if self.mode == "partial" else failed[0]

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
            self.scripts[number(settlement.delivery)].over = not self.parks

    def given_up(self, delivery: Delivery) -> None:
        self.scripts[number(delivery)].given_up = True

    def settled(self, settlement: Settlement) -> None:
        script = self.scripts[number(settlement.delivery)]
        if settlement.action == "nack":
            return
        if script.settled is not None:
            self.faults.append(f"{script.n} was {script.settled} and is settled again")
        script.settled = "dead" if settlement.action == "reject" else settlement.outcome
