"""Two hundred pollers of one table, and pollers that are killed while they hold rows."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from postroad import Postroad
from postroad.testing.conformance import eventually
from tests.faults.pollers import Job, Line, lines_of, source
from tests.integration.idempotency_databases import Kind, prepared
from tests.integration.polling_shop import ORDERS, fill, rows, statuses
from tests.services.harness.instance import Instance
from tests.services.harness.sql import Database, SqlService
from tests.services.plugin import StartServer

PROCESSES = 8
CONNECTIONS = 5
POLLERS = 5
ROWS = 1_000
KILLS = 8
LEASE = 3.0
Process = asyncio.subprocess.Process


class Crew:
    """Processes of pollers.

    Attributes:
        killed: process → when, in nanoseconds of the monotonic clock.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self.alive: list[Process] = []
        self.killed: dict[int, int] = {}

    async def start(self, count: int = 1) -> None:
        """So many more, which poll when this returns."""
        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(self._start())

    async def _start(self) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.faults.pollers",
            msgspec.json.encode(self._job).decode(),
            stdout=asyncio.subprocess.PIPE,
        )
        self.alive.append(process)
        assert process.stdout is not None
        said = await asyncio.wait_for(process.stdout.readline(), 60)
        assert said == b"ready\n", "it ended; see its error above"

    async def kill(self, process: Process) -> None:
        """SIGKILL, now."""
        self.alive.remove(process)
        if process.returncode is None:
            process.kill()
        await process.communicate()
        self.killed[process.pid] = time.monotonic_ns()


@asynccontextmanager
async def crew(job: Job) -> AsyncIterator[Crew]:
    """Processes that are killed on leaving."""
    made = Crew(job)
    try:
        yield made
    finally:
        for process in list(made.alive):
            await made.kill(process)


class Suite:
    """What holds on every database."""

    @pytest.fixture
    def kind(self) -> Kind:
        raise NotImplementedError  # a base class: each database below names itself

    @pytest.mark.timeout(240)
    async def test_two_hundred_pollers_never_process_a_row_twice(
        self, kind: Kind, tmp_path: Path
    ) -> None:
        kind.script(ORDERS)
        log = str(tmp_path / "log")
        job = Job(kind.url, CONNECTIONS, POLLERS, log, hold=0.005, limit=2)
        assert PROCESSES * CONNECTIONS * POLLERS == 200
        async with crew(job) as pollers:
            await pollers.start(PROCESSES)
            fill(kind, ROWS)
            await eventually(_all_shipped(kind), "all rows to be shipped", within=120)
        found = lines_of(log)
        assert _count(found, "begin") == Counter(range(1, ROWS + 1)), "each once, none twice"
        assert _count(found, "end") == Counter(range(1, ROWS + 1))
        busy = {line.poller for line in found}
        assert len({name.partition("-")[0] for name in busy}) == PROCESSES
        assert len(busy) > 100, "most of the two hundred had something to do"
        assert rows(kind, "SELECT COUNT(*) FROM postroad_polled") == [(0,)]

    @pytest.mark.timeout(240)
    async def test_killed_pollers_lose_nothing_and_overlap_with_nobody(
        self, kind: Kind, tmp_path: Path
    ) -> None:
        kind.script(ORDERS)
        log = str(tmp_path / "log")
        job = Job(kind.url, 1, 2, log, hold=0.05, every=0.1, lease=LEASE)
        async with crew(job) as pollers:
            await pollers.start(3)
            fill(kind, 400)
            for number in range(KILLS):
                begun = len(lines_of(log))
                await eventually(lambda: len(lines_of(log)) > begun + 5, "work to go on")  # noqa: B023
                await asyncio.sleep(random.uniform(0, 0.1))
                await pollers.kill(random.choice(pollers.alive))
                assert len(pollers.killed) == number + 1
                await pollers.start()
            await eventually(_all_shipped(kind), "all rows to be shipped", within=60)
            killed = dict(pollers.killed)
        found = lines_of(log)
        assert set(_count(found, "end")) == set(range(1, 401)), "nothing is lost"
        interrupted = _check_turns(found, killed)
        assert interrupted > 0, "somebody was killed amid a row"
        repeated = sum(n - 1 for n in _count(found, "begin").values())
        assert interrupted <= repeated <= interrupted + KILLS * 2 * (job.limit + 1)

    async def test_what_a_killed_poller_held_comes_back_after_the_lease(
        self, kind: Kind, tmp_path: Path
    ) -> None:
        kind.script(ORDERS)
        fill(kind, 10)
        log = str(tmp_path / "log")
        async with crew(Job(kind.url, 1, 1, log, hold=600, limit=10, lease=LEASE)) as dying:
            await dying.start()
            await eventually(lambda: Path(log).exists() and lines_of(log), "a row to be begun")
            assert set(statuses(kind).values()) == {"shipping"}, "it holds all ten"
            (until,) = rows(kind, "SELECT MIN(until_us) FROM postroad_polled")[0]
        async with crew(Job(kind.url, 1, 2, log, hold=0.01, every=0.1)) as heirs:
            await heirs.start()
            await eventually(_all_shipped(kind), "the rows to come back", within=30)
        first = min(line.at for line in lines_of(log) if line.what == "end")
        wall = time.time_ns() // 1000 - (time.monotonic_ns() - first) // 1000
        assert wall >= until - 50_000, "not before the lease was over"
        assert _count(lines_of(log), "end") == Counter(range(1, 11)), "each once"


class Restarts:
    """What holds where there is a server that can be killed."""

    name: str

    @pytest.mark.timeout(180)
    async def test_a_server_that_is_killed_under_load_loses_nothing(
        self, start_server: StartServer
    ) -> None:
        server = await asyncio.to_thread(start_server, self.name)
        kind = prepared(Database.make(_sql(server), server.url).url)
        kind.script(ORDERS)
        fill(kind, 300)
        handled: Counter[int] = Counter()
        road = Postroad("memory://", database=kind.url)

        @road.subscribe(
            source(0.1), group="shipping", concurrency=4, lease=timedelta(seconds=LEASE)
        )
        async def ship(order: dict[str, Any]) -> None:
            await asyncio.sleep(0.01)
            handled[order["id"]] += 1

        async with road, road.consuming():
            for number in (40, 120):
                await eventually(lambda: len(handled) > number, "work to go on", 30)  # noqa: B023
                await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.start)
            await eventually(lambda: len(handled) == 300, "all rows to be handled", 60)
            await eventually(_all_shipped(kind), "all rows to be shipped", 30)
        assert rows(kind, "SELECT COUNT(*) FROM postroad_polled") == [(0,)]


def _sql(server: Instance) -> SqlService:
    assert isinstance(server.service, SqlService)
    return server.service


@pytest.mark.needs_server("postgresql")
class TestPostgresqlRestarts(Restarts):
    name = "postgresql"


@pytest.mark.needs_server("mariadb")
class TestMariadbRestarts(Restarts):
    name = "mariadb"


def _all_shipped(kind: Kind) -> Callable[[], bool]:
    return lambda: set(statuses(kind).values()) == {"shipped"}


def _count(lines: list[Line], what: str) -> Counter[int]:
    return Counter(line.key for line in lines if line.what == what)


def _check_turns(lines: list[Line], killed: dict[int, int]) -> int:
    """No two work on a row at once; returns how often one was killed amid a row."""
    turns: dict[int, list[tuple[int, int]]] = {}
    interrupted = 0
    ends = {(line.key, line.poller): line.at for line in lines if line.what == "end"}
    for line in sorted(lines, key=lambda one: one.at):
        if line.what != "begin":
            continue
        end = ends.get((line.key, line.poller))
        if end is None:
            interrupted += 1
            end = killed[int(line.poller.partition("-")[0])]
        turns.setdefault(line.key, []).append((line.at, end))
    for key, taken in turns.items():
        for (_, ended), (began, _) in pairwise(taken):
            assert began >= ended, f"row {key} was begun while another poller was at it"
    return interrupted


class TestSqlite(Suite):
    @pytest.fixture
    def kind(self, tmp_path: Path) -> Kind:
        return prepared(f"sqlite:///{tmp_path}/shop.db")


class TestPostgresql(Suite):
    @pytest.fixture
    def kind(self, postgresql_database: Database) -> Kind:
        return prepared(postgresql_database.url)


class TestMariadb(Suite):
    @pytest.fixture
    def kind(self, mariadb_database: Database) -> Kind:
        return prepared(mariadb_database.url)
