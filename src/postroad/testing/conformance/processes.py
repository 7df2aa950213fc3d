"""Starting and killing the suite's worker processes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from postroad.testing.conformance.waiting import PATIENCE, eventually
from postroad.testing.conformance.worker import Job


class Worker:
    """One process; `lines` grows with the ids that it prints."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.lines: list[str] = []
        self.ready = False
        self._process = process
        self._reading = asyncio.create_task(self._read())

    async def said(self, count: int) -> list[str]:
        """Its first so many ids, once it has printed them."""
        await eventually(
            lambda: self._reading.done() or len(self.lines) >= count,
            f"{count} lines of a worker process",
            PATIENCE * 2,
        )
        assert len(self.lines) >= count, f"the worker ended after {len(self.lines)} lines"
        return self.lines[:count]

    async def kill(self) -> list[str]:
        """SIGKILL, now; all that it printed before."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        await self._reading
        return self.lines

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            text = line.decode().strip()
            if text == "ready":
                self.ready = True
            else:
                self.lines.append(text)


@asynccontextmanager
async def worker(job: Job) -> AsyncIterator[Worker]:
    """A worker process, killed on leaving."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "from postroad.testing.conformance.worker import main; main()",
        msgspec.json.encode(job).decode(),
        stdout=asyncio.subprocess.PIPE,
    )
    running = Worker(process)
    try:
        yield running
    finally:
        await running.kill()
