"""The supervisor, with workers that are a line of Python."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from postroad.operations.workers import Backoff, Supervisor, WorkerEvent

WAITS = "import sys; print(flush=True); sys.stdin.read()"
"""Ends by SIGTERM's default, or when its supervisor is gone."""
DEAF = "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); sys.stdin.read()"
FAST = Backoff(first=timedelta(milliseconds=10), longest=timedelta(milliseconds=50))


class Watcher:
    """Remembers what a supervisor reports, and waits for it."""

    def __init__(self) -> None:
        self.events: list[WorkerEvent] = []
        self._news = asyncio.Event()

    def __call__(self, event: WorkerEvent) -> None:
        self.events.append(event)
        self._news.set()

    def kinds(self, kind: str) -> list[WorkerEvent]:
        return [event for event in self.events if event.kind == kind]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                self._news.clear()
                await self._news.wait()


def _supervisor(code: str, count: int, watcher: Watcher, **options: object) -> Supervisor:
    settings = {"drain": timedelta(seconds=20), "backoff": FAST, **options}
    return Supervisor([sys.executable, "-c", code], count, report=watcher, **settings)  # type: ignore[arg-type]


async def test_workers_are_started_and_stopped() -> None:
    watcher, stop = Watcher(), asyncio.Event()
    running = asyncio.create_task(_supervisor(WAITS, 3, watcher).run(stop))
    await watcher.until(lambda: len(watcher.kinds("started")) == 3)
    stop.set()
    assert await running == 0
    assert sorted(event.worker for event in watcher.kinds("stopped")) == [1, 2, 3]
    assert not watcher.kinds("exited")


async def test_a_killed_worker_is_replaced_and_keeps_its_number() -> None:
    watcher, stop = Watcher(), asyncio.Event()
    running = asyncio.create_task(_supervisor(WAITS, 2, watcher).run(stop))
    await watcher.until(lambda: len(watcher.kinds("started")) == 2)
    victim = watcher.kinds("started")[0]
    os.kill(victim.pid, signal.SIGKILL)
    await watcher.until(lambda: len(watcher.kinds("started")) == 3)
    (exited,) = watcher.kinds("exited")
    assert (exited.pid, exited.code) == (victim.pid, -signal.SIGKILL)
    assert exited.restart_in == FAST.first
    assert watcher.kinds("started")[2].worker == victim.worker
    stop.set()
    assert await running == 0


async def test_one_that_keeps_ending_is_started_later_each_time() -> None:
    watcher, stop = Watcher(), asyncio.Event()
    running = asyncio.create_task(_supervisor("raise SystemExit(7)", 1, watcher).run(stop))
    await watcher.until(lambda: len(watcher.kinds("exited")) == 4)
    stop.set()
    assert await running == 0
    waits = [event.restart_in for event in watcher.kinds("exited")[:4]]
    assert waits == [timedelta(milliseconds=wait) for wait in (10, 20, 40, 50)]
    assert {event.code for event in watcher.kinds("exited")} == {7}


async def test_a_hopeless_exit_stops_all() -> None:
    watcher = Watcher()
    code = "import sys\nif sys.argv[1] == '2': sys.exit(2)\nsys.stdin.read()"
    supervisor = _supervisor(code, 2, watcher, hopeless=(2,))
    assert await asyncio.wait_for(supervisor.run(asyncio.Event()), 30) == 2
    (exited,) = watcher.kinds("exited")
    assert (exited.worker, exited.restart_in) == (2, None)


async def test_one_that_does_not_end_in_time_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("postroad.operations.workers._GRACE", 0.1)
    watcher, stop = Watcher(), asyncio.Event()
    supervisor = _supervisor(DEAF, 1, watcher, drain=timedelta(milliseconds=100))
    running = asyncio.create_task(supervisor.run(stop))
    await watcher.until(lambda: len(watcher.kinds("started")) == 1)
    await _deaf(watcher.kinds("started")[0].pid)
    stop.set()
    assert await running == 1
    assert len(watcher.kinds("killed")) == 1


async def test_reload_replaces_every_worker() -> None:
    watcher, stop = Watcher(), asyncio.Event()
    supervisor = _supervisor(WAITS, 2, watcher, reloading=True)
    running = asyncio.create_task(supervisor.run(stop))
    await watcher.until(lambda: len(watcher.kinds("started")) == 2)
    supervisor.reload()
    await watcher.until(lambda: len(watcher.kinds("started")) == 4)
    stop.set()
    assert await running == 0
    assert not watcher.kinds("exited")


async def test_when_it_reloads_a_broken_worker_waits_for_the_next_change(tmp_path: Path) -> None:
    module = tmp_path / "code.py"
    module.write_text("raise SystemExit(70)")
    watcher, stop = Watcher(), asyncio.Event()
    supervisor = _supervisor(f"exec(open({str(module)!r}).read())", 1, watcher, reloading=True)
    running = asyncio.create_task(supervisor.run(stop))
    await watcher.until(lambda: len(watcher.kinds("exited")) == 1)
    assert watcher.kinds("exited")[0].restart_in is None
    module.write_text(WAITS)
    supervisor.reload()
    await watcher.until(lambda: len(watcher.kinds("started")) == 2)
    stop.set()
    assert await running == 0


async def test_cancelling_leaves_no_process_behind() -> None:
    watcher = Watcher()
    running = asyncio.create_task(_supervisor(DEAF, 2, watcher).run(asyncio.Event()))
    await watcher.until(lambda: len(watcher.kinds("started")) == 2)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    for event in watcher.kinds("started"):
        with pytest.raises(ProcessLookupError):
            os.kill(event.pid, 0)


def test_the_backoff_has_an_end() -> None:
    assert Backoff().wait(1) == timedelta(seconds=0.5)
    assert Backoff().wait(10_000) == timedelta(seconds=30)


async def _deaf(pid: int) -> None:
    """Wait until a process ignores SIGTERM."""
    async with asyncio.timeout(30):
        while not _ignores_sigterm(pid):  # noqa: ASYNC110 - others make it true
            await asyncio.sleep(0.01)


def _ignores_sigterm(pid: int) -> bool:
    """By what the kernel says of it."""
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("SigIgn")]
    return bool(int(line.split()[1], 16) >> (signal.SIGTERM - 1) & 1)
