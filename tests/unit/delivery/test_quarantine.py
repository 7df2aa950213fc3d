"""Suspects of a crash run alone in their process: nobody else's message is in flight with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest

from postroad.core.delivery import Delivery
from postroad.delivery.quarantine import Quarantine
from postroad.testing.clock import VirtualClock
from tests.unit.delivery.test_runner import Bench, Gate, Log, running


class AfterCrash(Log):
    """A log whose messages were all in flight when a process died."""

    async def receive(self, limit: int, max_bytes: int, wait: timedelta) -> Sequence[Delivery]:
        batch = await super().receive(limit, max_bytes, wait)
        for delivery in batch:
            delivery.starts = 1
        return batch


def beside(quarantine: Quarantine, bench: Bench) -> Bench:
    """A runner that shares its process with others."""
    bench.runner._work = replace(bench.runner._work, quarantine=quarantine)
    return bench


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


async def test_while_suspects_run_no_other_handler_starts(clock: VirtualClock) -> None:
    together, suspect, other = Quarantine(), Gate(0), Gate()
    crashed, healthy = AfterCrash(clock), Log(clock)
    crashed.put(0)
    first = beside(together, Bench(suspect, crashed))
    second = beside(together, Bench(other, healthy))
    async with running(first), running(second):
        assert suspect.started == [0]
        healthy.put(1)
        await second.passes(60)
        assert other.started == [], "it would be in flight with a suspect"
        suspect.open()
        await second.passes()
        assert other.started == [1]
        assert healthy.answers() == [1]


async def test_suspects_wait_for_what_others_have_begun(clock: VirtualClock) -> None:
    together, suspect, other = Quarantine(), Gate(), Gate(1)
    crashed, healthy = AfterCrash(clock), Log(clock)
    healthy.put(1)
    first = beside(together, Bench(suspect, crashed))
    second = beside(together, Bench(other, healthy))
    async with running(second), running(first):
        assert other.started == [1]
        crashed.put(0)
        await first.passes(60)
        assert suspect.started == [], "another one's handler is at work"
        other.open()
        await first.passes()
        assert suspect.started == [0]
        assert crashed.answers() == [0]


async def test_two_that_have_suspects_take_turns(clock: VirtualClock) -> None:
    together, gates = Quarantine(), [Gate(0), Gate(0)]
    logs = [AfterCrash(clock), AfterCrash(clock)]
    benches = [beside(together, Bench(*pair)) for pair in zip(gates, logs, strict=True)]
    for log in logs:
        log.put(0)
    async with running(benches[0]), running(benches[1]):
        await benches[0].passes(60)
        assert [len(gate.started) for gate in gates] == [1, 0]
        gates[0].open()
        await benches[0].passes()
        assert [len(gate.started) for gate in gates] == [1, 1]
        gates[1].open()
        await benches[0].passes()
        assert [log.answers() for log in logs] == [[0], [0]]


async def test_a_suspect_that_waits_for_its_retry_holds_up_nobody(clock: VirtualClock) -> None:
    together, other = Quarantine(), Gate()
    crashed, healthy = AfterCrash(clock), Log(clock)

    async def fails(delivery: Delivery) -> None:
        raise ConnectionError

    crashed.put(0)
    first = beside(together, Bench(fails, crashed, order="key"))
    second = beside(together, Bench(other, healthy))
    async with running(first), running(second):
        healthy.put(1)
        await second.passes()
        assert other.started == [1]
