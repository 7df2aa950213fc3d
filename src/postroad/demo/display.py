"""What the demo shows while it runs: a live screen on a terminal, plain lines elsewhere."""

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from postroad.demo.books import CarrierDelays, Line
from postroad.demo.fault import Kill
from postroad.demo.flights import new_york
from postroad.demo.observer import Snapshot, Standing

LINES = 16
"""Lines of the two tables on a screen that is high enough: one for each carrier of the year."""
OTHER_LINES = 20
"""Lines of a screen that are not theirs."""
BOTH = 100
"""Columns that the two need side by side."""
PLAIN_EVERY = 2.0
"""Seconds between two plain lines."""


@dataclass(frozen=True)
class Scene:
    """Everything that can be seen at one moment."""

    seconds: float
    speed: float
    now: datetime | None
    departures: int
    snapshot: Snapshot
    board: Sequence[Line]
    carriers: Mapping[str, CarrierDelays]
    carrier_names: Mapping[str, str]
    workers: int
    kills: Sequence[Kill]


class Display(Protocol):
    """Shows scenes, one after another."""

    def running(self) -> AbstractContextManager[object]:
        """The time in which scenes are shown."""
        ...

    def show(self, scene: Scene) -> None:
        """Show the newest scene."""
        ...


def display_on(console: Console) -> Display:
    """The display that suits a console."""
    redraws = console.is_terminal and not console.is_dumb_terminal
    return Screen(console) if redraws else PlainLines(console)


class Screen:
    """Redraws a terminal."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def running(self) -> AbstractContextManager[object]:
        """See `Display.running`."""
        return self._live

    def show(self, scene: Scene) -> None:
        """See `Display.show`."""
        size = self._live.console.size
        lines = max(3, min(LINES, size.height - OTHER_LINES))
        self._live.update(draw(scene, lines, size.width), refresh=True)


class PlainLines:
    """Prints a line now and then, and one for each kill."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._next = 0.0
        self._kills: Sequence[Kill] = ()

    def running(self) -> AbstractContextManager[object]:
        """See `Display.running`."""
        return nullcontext()

    def show(self, scene: Scene) -> None:
        """See `Display.show`."""
        for kill in scene.kills:
            if kill not in self._kills:
                news = tell(kill) if kill.recovered_after is None else tell_recovery(kill)
                self._print(f"{scene.seconds:5.1f} s  {news}")
        self._kills = tuple(scene.kills)
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + PLAIN_EVERY
            self._print(line(scene))

    def _print(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, highlight=False, markup=False)


def line(scene: Scene) -> str:
    """A scene in one line."""
    now = scene.snapshot
    return (
        f"{scene.seconds:5.1f} s  {_clock(scene.now)}  "
        f"published {now.published:,} of {scene.departures:,} ({now.publish_rate:,.0f}/s)  "
        f"settled {now.settled:,} ({now.rate:,.0f}/s)  lag {now.pending:,} / {_seconds(now.age)}  "
        f"retries {now.retries:,}  dead {now.dead:,}  duplicates {now.duplicates:,}"
    )


def tell(kill: Kill) -> str:
    """What happened in a kill, in one sentence."""
    held = ", ".join(f"{group} {count}" for group, count in kill.held.items())
    return f"SIGKILL to worker {kill.pid}, which held {kill.in_flight} messages ({held or 'none'})"


def tell_recovery(kill: Kill) -> str:
    """How it ended, so far."""
    if kill.recovered_after is None:
        return "they come back when its lease runs out"
    seconds = kill.recovered_after.total_seconds()
    return f"everything accepted until then was settled {seconds:.2f} s later"


def draw(scene: Scene, lines: int = LINES, width: int = BOTH) -> RenderableType:
    """A scene as a screen with so many lines in its tables: both, or one if it is narrow."""
    tables = Table.grid(padding=(0, 3))
    if width >= BOTH:
        tables.add_row(_board(scene.board[:lines]), _carriers(scene, lines))
    else:
        tables.add_row(_board(scene.board[:lines]))
    kills = [Text(f"{tell(kill)}; {tell_recovery(kill)}", "bold red") for kill in scene.kills]
    return Group(_head(scene), _progress(scene), _groups(scene.snapshot), tables, *kills)


def _head(scene: Scene) -> Text:
    return Text.assemble(
        ("Departures from New York, 2013", "bold"),
        f"   {scene.speed:,.0f}×   ",
        (_clock(scene.now), "bold cyan"),
        f"   {scene.workers} workers",
    )


def _progress(scene: Scene) -> RenderableType:
    now = scene.snapshot
    row = Table.grid(padding=(0, 2))
    row.add_row(
        ProgressBar(total=max(scene.departures, 1), completed=now.published, width=24),
        f"{now.published:,} of {scene.departures:,} published, {now.publish_rate:,.0f}/s",
        f"settled {now.rate:,.0f}/s",
    )
    return row


def _groups(snapshot: Snapshot) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("group", min_width=14)
    columns = ("settled", "rate", "lag", "lag in s", "retries", "dead", "duplicates")
    for column in columns:
        table.add_column(column, justify="right")
    for standing in snapshot.standings:
        table.add_row(*_figures(standing))
    return table


def _figures(standing: Standing) -> Sequence[str]:
    return (
        standing.group,
        f"{standing.settled:,}",
        f"{standing.rate:,.0f}/s",
        f"{standing.pending:,}",
        _seconds(standing.age).removesuffix(" s"),
        f"{standing.retries:,}",
        f"{standing.dead:,}",
        f"{standing.duplicates:,}",
    )


def _board(lines: Sequence[Line]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in ("time", "from", "to", "flight", "status"):
        table.add_column(column, no_wrap=True)
    for line in lines:
        late = line.status != "on time"
        table.add_row(
            f"{line.scheduled.astimezone(new_york()):%H:%M}",
            line.origin,
            line.destination,
            " ".join(line.flight_id.split("-")[:2]),
            Text(line.status, style="red" if line.status == "cancelled" else "yellow" * late),
        )
    return table


def _carriers(scene: Scene, lines: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("carrier", no_wrap=True, max_width=19)
    for column in ("flights", "late", "cancelled", "delay"):
        table.add_column(column, justify="right", no_wrap=True)
    largest = sorted(scene.carriers.items(), key=lambda item: -item[1].departures)
    for code, sums in largest[:lines]:
        flown = max(sums.departures - sums.cancelled, 1)
        table.add_row(
            _short(scene.carrier_names[code]),
            f"{sums.departures:,}",
            f"{sums.late:,}",
            f"{sums.cancelled:,}",
            f"{sums.minutes / flown:.0f} min",
        )
    return table


def _short(name: str) -> str:
    """A company's name without its legal form."""
    for form in (" Inc.", " Co.", " Corporation"):
        name = name.removesuffix(form)
    return name


def _clock(now: datetime | None) -> str:
    if now is None:
        return "before the first departure"
    return f"{now.astimezone(new_york()):%a %d %b %H:%M}"


def _seconds(age: timedelta | None) -> str:
    return "unknown" if age is None else f"{age.total_seconds():.2f} s"
