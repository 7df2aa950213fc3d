"""A supervisor of worker processes: starts them, restarts those that end, drains them all."""

from __future__ import annotations

import asyncio
import os
import signal
from asyncio.subprocess import Process
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

_ENDED_WELL = (0, -signal.SIGTERM)
"""What a worker may end with that was told to: SIGTERM ends one that had not begun to work."""
_GRACE = 5.0
"""Seconds beyond the drain in which a worker may close what it has open."""


@dataclass(frozen=True)
class WorkerEvent:
    """Something happened to a worker.

    Attributes:
        kind: `started`; `exited` by itself; `stopped` when told to; `killed` because it did not
            end in time.
        worker: its number, from 1; a restarted one keeps it.
        code: its exit code; minus the signal's number where a signal ended it.
        restart_in: when another one takes its place; None where none does by itself.
    """

    kind: Literal["started", "exited", "stopped", "killed"]
    worker: int
    pid: int
    code: int | None = None
    restart_in: timedelta | None = None


@dataclass(frozen=True)
class Backoff:
    """How long a place stays empty when its worker ended: doubling while it does so quickly.

    Attributes:
        healthy_after: a worker that lived for so long is no failure in a row with the next.
    """

    first: timedelta = timedelta(seconds=0.5)
    longest: timedelta = timedelta(seconds=30)
    healthy_after: timedelta = timedelta(seconds=60)

    def wait(self, failures: int) -> timedelta:
        """The wait after so many quick ends in a row (≥ 1)."""
        doubled: timedelta = self.first * 2 ** min(failures - 1, 20)
        return min(self.longest, doubled)


class Supervisor:
    """Keeps `count` processes of a command alive until it is told to stop.

    A worker runs in a session of its own, so that Ctrl-C at the terminal reaches the supervisor
    alone. Its standard input is a pipe that ends with the supervisor, however that ends: a worker
    that reads the end has to stop.

    Args:
        command: the worker's command line; the worker's number is appended.
        count: how many.
        output: the file descriptor that is their standard output; None is ours.
        drain: how long workers may finish what they hold after SIGTERM, before SIGKILL.
        report: called with everything that happens.
        hopeless: exit codes after which a restart would end the same way: all stop.
        reloading: `reload` will be called when the code changes: a worker that ended by itself
            is started again then, and not before.
    """

    def __init__(
        self,
        command: Sequence[str],
        count: int,
        *,
        drain: timedelta,
        report: Callable[[WorkerEvent], None],
        output: int | None = None,
        hopeless: Sequence[int] = (),
        reloading: bool = False,
        backoff: Backoff = Backoff(),
    ) -> None:
        self._command = list(command)
        self._count = count
        self._drain = drain
        self._report = report
        self._output = output
        self._hopeless = frozenset(hopeless)
        self._reloading = reloading
        self._backoff = backoff
        self._alive: dict[int, _Worker] = {}
        self._exit_code = 0
        self._stopping = asyncio.Event()
        self._changed = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> int:
        """Keep the workers until `stop` is set, then drain them.

        Returns 0 if all of them ended well when told to, 1 if not, or the hopeless exit code.
        Cancelling kills what is left at once.
        """
        places = [asyncio.create_task(self._keep(number + 1)) for number in range(self._count)]
        ends = [asyncio.create_task(event.wait()) for event in (stop, self._stopping)]
        try:
            await asyncio.wait([*ends, *places], return_when=asyncio.FIRST_COMPLETED)
            self._stopping.set()
            self._tell_all()
            await asyncio.gather(*places)
        finally:
            self._stopping.set()
            self.kill()
            for task in ends:
                task.cancel()
            await asyncio.gather(*places, *ends, return_exceptions=True)
        return self._exit_code

    def reload(self) -> None:
        """Drain every worker and start another one in its place, which imports the code anew."""
        self._changed.set()
        self._changed = asyncio.Event()
        self._tell_all()

    def kill(self) -> None:
        """End every worker at once; what they hold comes again after its lease."""
        for worker in self._alive.values():
            worker.kill()

    async def _keep(self, number: int) -> None:
        """One worker after the other at this place."""
        failures = 0
        while not self._stopping.is_set():
            worker = await self._start(number)
            code = await worker.process.wait()
            worker.ended()
            del self._alive[number]
            if worker.told:
                failures = 0
                self._after_stop(worker, code)
                continue
            failures = 1 if worker.age >= self._backoff.healthy_after else failures + 1
            await self._after_exit(worker, code, failures)

    async def _start(self, number: int) -> _Worker:
        process = await asyncio.create_subprocess_exec(
            *self._command,
            str(number),
            stdin=asyncio.subprocess.PIPE,
            stdout=self._output,
            start_new_session=True,
        )
        worker = self._alive[number] = _Worker(number, process)
        self._report(WorkerEvent("started", number, process.pid))
        if self._stopping.is_set():  # while it was being started
            worker.tell(self._drain)
        return worker

    def _after_stop(self, worker: _Worker, code: int) -> None:
        if code not in _ENDED_WELL:
            self._exit_code = self._exit_code or 1
        kind: Literal["killed", "stopped"] = "killed" if worker.killed else "stopped"
        self._report(WorkerEvent(kind, worker.number, worker.process.pid, code))

    async def _after_exit(self, worker: _Worker, code: int, failures: int) -> None:
        hopeless = code in self._hopeless
        wait = None if hopeless or self._reloading else self._backoff.wait(failures)
        self._report(WorkerEvent("exited", worker.number, worker.process.pid, code, wait))
        if hopeless and not self._reloading:
            self._exit_code = code
            self._stopping.set()
            return
        await self._pause(wait)

    async def _pause(self, wait: timedelta | None) -> None:
        """Until the wait is over, the code has changed, or all is to stop."""
        ends = [asyncio.create_task(event.wait()) for event in (self._stopping, self._changed)]
        seconds = None if wait is None else wait.total_seconds()
        try:
            await asyncio.wait(ends, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in ends:
                task.cancel()

    def _tell_all(self) -> None:
        for worker in self._alive.values():
            worker.tell(self._drain)


class _Worker:
    """One process."""

    def __init__(self, number: int, process: Process) -> None:
        self.number = number
        self.process = process
        self.told = False
        self.killed = False
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._killer: asyncio.TimerHandle | None = None

    @property
    def age(self) -> timedelta:
        """For how long it has been there."""
        return timedelta(seconds=self._loop.time() - self._began)

    def tell(self, drain: timedelta) -> None:
        """SIGTERM, and SIGKILL if it does not end within the drain. Idempotent."""
        if self.told or self.process.returncode is not None:
            return
        self.told = True
        self._killer = self._loop.call_later(drain.total_seconds() + _GRACE, self.kill)
        with suppress(ProcessLookupError):
            self.process.terminate()

    def kill(self) -> None:
        """SIGKILL to it and to what it started. Idempotent."""
        if self.process.returncode is None:
            self.told = self.killed = True
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def ended(self) -> None:
        """It is gone: nobody is to be killed any more."""
        if self._killer is not None:
            self._killer.cancel()
