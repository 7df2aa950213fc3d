"""The worker processes: started, watched, killed and stopped."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from postroad.demo import recorder
from postroad.demo.app import URL_VARIABLE
from postroad.demo.recorder import Record
from postroad.demo.waiting import until
from postroad.errors import PostroadError

STOP_WITHIN = 10.0
"""Seconds in which a worker has to finish what it holds after a SIGTERM."""


class WorkerFailedError(PostroadError):
    """A worker ended by itself; the message holds the end of what it wrote."""


class Worker:
    """One worker process."""

    def __init__(self, number: int, directory: Path, url: str) -> None:
        self._record = directory / f"worker-{number}.record"
        self._log = directory / f"worker-{number}.log"
        with self._log.open("wb") as log:
            self._process = _spawn(self._record, url, log)

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether the process is gone."""
        return self._process.poll() is not None

    def record(self) -> Mapping[str, Record]:
        """What it has counted so far, by group; stays readable when it is dead."""
        return recorder.read(self._record)

    def in_flight(self) -> dict[str, int]:
        """The messages that it holds, by group; only of groups where it holds any."""
        held = {group: record.in_flight for group, record in self.record().items()}
        return {group: count for group, count in held.items() if count > 0}

    def kill(self) -> None:
        """SIGKILL: it cannot clean up, answer or hand anything back."""
        self._process.kill()
        self._process.wait()
        self._close()

    def terminate(self) -> None:
        """SIGTERM: finish what is in flight, then end. No effect on a process that is gone."""
        self._process.terminate()

    async def wait(self, seconds: float) -> None:
        """Wait for its end; kill it if that takes longer."""
        try:
            async with asyncio.timeout(seconds):
                await until(lambda: self.ended)
        except TimeoutError:
            self.kill()
        self._close()

    def last_words(self) -> str:
        """The end of what it wrote to its log."""
        return self._log.read_text(errors="replace").strip()[-2000:]

    def _close(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()


class Crew:
    """All workers of one run."""

    def __init__(self, directory: Path, url: str) -> None:
        self._directory = directory
        self._url = url
        self.workers: list[Worker] = []
        """Those that should be at work."""
        self._gone: list[Worker] = []

    def start(self) -> Worker:
        """Start one more."""
        number = len(self.workers) + len(self._gone) + 1
        worker = Worker(number, self._directory, self._url)
        self.workers.append(worker)
        return worker

    def kill(self, worker: Worker) -> None:
        """Kill one of them, for good."""
        worker.kill()
        self.workers.remove(worker)
        self._gone.append(worker)

    def check(self) -> None:
        """Raise `WorkerFailedError` if one ended that should be at work."""
        for worker in self.workers:
            if worker.ended:
                raise WorkerFailedError(
                    f"worker {worker.pid} ended by itself:\n{worker.last_words()}"
                )

    def records(self) -> Sequence[Mapping[str, Record]]:
        """What every worker counted, also the dead ones."""
        return [worker.record() for worker in (*self.workers, *self._gone)]

    async def stop(self) -> None:
        """Let all of them finish what they hold, and end."""
        for worker in self.workers:
            worker.terminate()
        for worker in self.workers:
            await worker.wait(STOP_WITHIN)
        self._gone.extend(self.workers)
        self.workers.clear()


def _spawn(record: Path, url: str, log: BinaryIO) -> subprocess.Popen[bytes]:
    # A session of its own: Ctrl-C at the terminal reaches the demo alone, which then stops its
    # workers in good order. The pipe ends with the demo, however that ends.
    return subprocess.Popen(
        [sys.executable, "-m", "postroad.demo.worker", str(record)],
        env={**os.environ, URL_VARIABLE: url},
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
