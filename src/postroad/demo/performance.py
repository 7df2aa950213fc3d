"""One run of the demo, from the first worker to the result."""

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from postroad import Contract, Postroad
from postroad.demo.books import Board, Books
from postroad.demo.crew import Crew
from postroad.demo.display import LINES, Display, Scene
from postroad.demo.expected import Expected
from postroad.demo.fault import Fault
from postroad.demo.flights import Departure, carriers
from postroad.demo.observer import Observer, Snapshot
from postroad.demo.replay import Replay
from postroad.demo.report import Result
from postroad.demo.verdict import Found, checks
from postroad.demo.waiting import until

LOOK_EVERY = 0.25
"""Seconds between two scenes."""
STUCK_AFTER = 30.0
"""Seconds without any progress after which the run is given up."""
ALL_DEAD_LETTERS = 1_000_000


@dataclass(frozen=True)
class Setting:
    """What one run is about."""

    departures: Iterable[Departure]
    expected: Expected
    speed: float
    workers: int
    kill: bool
    contracts: Sequence[Contract]


class Performance:
    """Runs it, then says how it went."""

    def __init__(
        self, setting: Setting, road: Postroad, crew: Crew, books: Books, board: Board
    ) -> None:
        self._setting = setting
        self._road = road
        self._crew = crew
        self._books = books
        self._board = board
        self._observer = Observer(road, crew)
        self._replay = Replay(road, setting.departures, setting.speed)
        self._fault = Fault(crew, self._observer)
        self._carrier_names = carriers()
        self._seconds = 0.0
        self._unfinished: str | None = None

    async def run(self, display: Display) -> None:
        """Start the workers, replay, and return when every group is done with everything."""
        for _ in range(self._setting.workers):
            self._crew.start()
        while not await self._observer.everyone_is_there():
            self._crew.check()
            await asyncio.sleep(0.02)
        doing = [asyncio.create_task(self._replay.run())]
        if self._setting.kill:
            doing.append(asyncio.create_task(self._kill_in_the_middle()))
        try:
            with display.running():
                await self._watch(doing, display)
        finally:
            for task in doing:
                task.cancel()
            await asyncio.gather(*doing, return_exceptions=True)

    async def result(self) -> Result:
        """What there is at the end, held against what should be. The workers have ended."""
        audit = await self._road.audit()
        letters = await self._road.dead_letters.list(limit=ALL_DEAD_LETTERS)
        found = Found(
            audit=audit,
            dead_letters=letters,
            claims=self._books.claims(),
            carriers=self._books.carriers(),
            board=self._board.newest(),
            kills=self._fault.kills if self._setting.kill else None,
        )
        return Result(
            seconds=self._seconds,
            replay_seconds=self._replay.seconds,
            departures=self._replay.published,
            workers=self._setting.workers,
            snapshot=await self._observer.look(),
            contracts=self._setting.contracts,
            audit=audit,
            dead_letters=letters,
            checks=checks(self._setting.expected, found),
            kills=self._fault.kills,
            unfinished=self._unfinished,
        )

    async def _watch(self, doing: Sequence[asyncio.Task[None]], display: Display) -> None:
        started = progress = time.monotonic()
        settled, drained = -1, False
        while True:
            self._crew.check()
            published, everything = _done(doing[0]), all(_done(task) for task in doing)
            snapshot = await self._observer.look()
            self._seconds = time.monotonic() - started
            display.show(self._scene(snapshot))
            if published and snapshot.pending == 0:
                # Whoever still waits for a busy worker to kill will find none.
                if everything or drained:
                    return
                drained = True
            if snapshot.settled > settled or not published:
                settled, progress = snapshot.settled, time.monotonic()
            elif time.monotonic() - progress > STUCK_AFTER:
                self._unfinished = f"{snapshot.pending:,} messages pending, and nothing moves"
                return
            await asyncio.sleep(LOOK_EVERY)

    async def _kill_in_the_middle(self) -> None:
        half = self._setting.expected.departures // 2
        await until(lambda: self._replay.published >= half)
        await self._fault.strike()

    def _scene(self, snapshot: Snapshot) -> Scene:
        return Scene(
            seconds=self._seconds,
            speed=self._setting.speed,
            now=self._replay.now,
            departures=self._setting.expected.departures,
            snapshot=snapshot,
            board=self._board.newest(LINES),
            carriers=self._books.carriers(),
            carrier_names=self._carrier_names,
            workers=len(self._crew.workers),
            kills=tuple(self._fault.kills),
        )


def _done(task: asyncio.Task[None]) -> bool:
    """Whether it has ended; raises what it failed with."""
    return task.done() and task.result() is None
