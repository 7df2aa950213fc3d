"""Any life of the engine, on SQLite and in memory, held against the script of each message.

Every message says how its handling goes: so many failures, then an end; some kill whoever handles
them. Whatever is stopped, killed, started, redriven or dropped meanwhile, so it has to end.
"""

from __future__ import annotations

import functools
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule, run_state_machine_as_test

from postroad.transports.memory import MemoryTransport
from tests.integration.engine_handling import Handling
from tests.integration.engine_life import Fuse, Process, on_memory, on_sqlite
from tests.integration.engine_script import TOPIC, End, Job, Script, messages, number
from tests.integration.models import lives

picks = st.integers(0, 3)
KILLERS = 3
"""So many messages that kill are enough for one life."""


Rule = Callable[..., None]


def when(condition: Callable[[Any], object]) -> Callable[[Rule], Rule]:
    """A rule that does nothing unless that holds. Not a precondition: how far real threads are
    would decide what can be drawn, and a life could not be repeated."""

    def wrap(function: Rule) -> Rule:
        @functools.wraps(function)
        def rule_if(self: Any, *given: Any, **drawn: Any) -> None:
            if condition(self):
                function(self, *given, **drawn)

        return rule_if

    return wrap


class EngineLife(Handling):
    deadly = True
    """The road counts the crashes of a message, so that one that kills comes to an end."""

    # ------------------------------------------------ steps

    @rule(batch=st.lists(messages, min_size=1, max_size=6))
    def publish(self, batch: list[tuple[str, int, End]]) -> None:
        self.run(self.publishing(batch))

    async def publishing(self, batch: list[tuple[str, int, End]]) -> None:
        assert self.front is not None
        for key, fails, end in batch:
            killers = sum(one.end == "kills" for one in self.scripts)
            if end == "kills" and (killers == KILLERS or not self.deadly):
                end = "handled"
            script = Script(len(self.scripts), key, fails, end)
            self.scripts.append(script)
            await self.front.publish(TOPIC, Job(script.n, key))
        await self.clock.settle()

    @rule()
    @when(lambda self: len(self.processes) < 3)
    def start(self) -> None:
        self.new_process()

    @rule(pick=picks)
    @when(lambda self: self.processes)
    def stop(self, pick: int) -> None:
        process = self.processes[pick % len(self.processes)]
        self.run(process.end(self.clock))
        if process.alive:
            self.processes.remove(process)
        self.run(self.burying())

    @rule(pick=picks)
    @when(lambda self: self.processes)
    def kill(self, pick: int) -> None:
        self.outside = True
        self.processes[pick % len(self.processes)].kill()
        self.run(self.burying())

    @rule(pick=picks, fuse=st.sampled_from(["before", "after"]))
    @when(lambda self: self.processes)
    def light(self, pick: int, fuse: Fuse) -> None:
        """It will die in its next settlement."""
        self.outside = True
        self.processes[pick % len(self.processes)].fuse = fuse

    async def burying(self) -> None:
        """Note who was killed, and what it had in hand. Whom a message killed, another follows."""
        for process in [one for one in self.processes if not one.alive]:
            self.processes.remove(process)
            await process.bury()
            for delivery in process.hand.values():
                self.scripts[number(delivery)].crashes += bool(delivery.starts)
            if process.poisoned:
                follower = self.new_app()
                self.processes.append(follower)
                await follower.start()
        await self.clock.settle()

    @rule(which=st.integers(0, 7))
    @when(lambda self: any(one.end == "hang" for one in self.scripts))
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

    # ------------------------------------------------ dead letters

    @rule(which=st.integers(0, 7), most=st.integers(1, 3), healed=st.booleans())
    @when(lambda self: any(one.settled == "dead" for one in self.scripts))
    def redrive(self, which: int, most: int, healed: bool) -> None:
        """Dead letters go out again; perhaps what they failed of is mended."""
        self.run(self.redriving(which, most, healed))

    async def redriving(self, which: int, most: int, healed: bool) -> None:
        assert self.front is not None
        letters = list((await self.letters()).items())
        chosen = dict(letters[which % len(letters) :][:most])
        for n in chosen:
            self.scripts[n].again(healed=healed)
        assert await self.front.dead_letters.redrive(list(chosen.values())) == len(chosen)
        await self.clock.settle()

    @rule(which=st.integers(0, 7))
    @when(lambda self: any(one.settled == "dead" for one in self.scripts))
    def drop(self, which: int) -> None:
        """Somebody drops a dead letter for good."""
        self.run(self.dropping(which))

    async def dropping(self, which: int) -> None:
        assert self.front is not None
        letters = list((await self.letters()).items())
        n, name = letters[which % len(letters)]
        script = self.scripts[n]
        script.over, script.dropped, script.settled = True, True, "discarded"
        assert await self.front.dead_letters.discard([name]) == 1
        await self.clock.settle()

    async def letters(self) -> dict[int, str]:
        """The dead letters: their numbers and what the road calls them."""
        assert self.front is not None
        letters = await self.front.dead_letters.list("#", "g", 10_000)
        found = {TOPIC.decode(letter.message.data).n: letter for letter in letters}
        assert sorted(found) == [one.n for one in self.scripts if one.settled == "dead"]
        for n, letter in found.items():
            script, reason = self.scripts[n], letter.failures[-1].reason
            if script.end == "kills" and script.fails < self.retry.attempts:
                assert reason == "crash", letter
            assert reason != "crash" or script.end == "kills" or self.outside, letter
        return {n: letter.id for n, letter in found.items()}

    # ------------------------------------------------ the end

    def teardown(self) -> None:
        try:
            if not self.broken and self.front is not None:
                self.drain()
        finally:
            self.runner.run(self.close())
            self.runner.close()

    def drain(self) -> None:
        """Everything comes to its end; then what is parked does, when its dead are redriven."""
        for process in self.processes:
            process.fuse = None
        for script in self.scripts:
            script.gate.set()
        self.finish_open()
        while any(script.settled is None for script in self.scripts):
            self.run(self.redriving(0, len(self.scripts), True))
            self.finish_open()
        while self.processes:
            self.stop(0)
        for script in self.scripts:
            assert script.settled in script.expected(self.retry), script
        self.run(self.audit())

    def finish_open(self) -> None:
        """Let everything come to its end that is not parked behind a dead letter."""
        killers = sum(one.end == "kills" and one.settled is None for one in self.scripts)
        for _ in range(60 + 30 * killers):
            if not self.open():
                break
            if not self.processes:
                self.new_process()
            self.advance(4)
            self.living()
        assert not self.open(), f"{self.open()} never came to their end"

    def open(self) -> list[int]:
        return [one.n for one in self.scripts if one.settled is None and not self.parked(one)]

    def parked(self, script: Script) -> bool:
        """Whether it stands behind a dead letter of its key, or will when that dies."""
        before = self.scripts[: script.n]
        return self.parks and any(one.key == script.key and one.settled == "dead" for one in before)

    async def audit(self) -> None:
        assert self.front is not None
        audit = await self.front.audit("#", "g")
        assert audit.verdict == "balanced", audit
        (entry,) = audit.entries
        assert entry.account is not None
        ends = Counter(str(script.settled) for script in self.scripts)
        assert {k: v for k, v in entry.account.outcomes.items() if v} == ends
        await self.letters()

    async def close(self) -> None:
        for process in self.processes:
            process.kill()
            await process.bury()
        if self.front is not None:
            await self.front.close()


class OnMemory(EngineLife):
    deadly = False

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


@pytest.mark.timeout(900)  # a failure is made smaller for minutes
@pytest.mark.parametrize(
    ("life", "usual"), [(OnMemory, 300), (OnSqlite, 40)], ids=["memory", "sqlite"]
)
def test_every_message_comes_to_its_end(life: type[EngineLife], usual: int) -> None:
    run_state_machine_as_test(life, settings=lives(usual, 30))
