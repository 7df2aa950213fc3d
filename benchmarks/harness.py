"""Measuring in turn: rounds in which every subject runs once, medians, and ratios within a round.

On a shared machine a rate alone says little. So the subjects run one after another, each in a
process of its own, several rounds long and every other round backwards. A bar is the median of
the ratios of its two figures, each ratio taken within one round, so that what slows the machine
down for a while slows down both.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

from benchmarks import pictures

RESULTS = Path(__file__).parent / "results"

Measure: TypeAlias = Callable[..., Mapping[str, float]]
"""Runs one subject and returns figure → value. Must be importable by name, for it runs in a
process of its own."""


@dataclass(frozen=True)
class Figure:
    """Something that is measured.

    Attributes:
        name: what, in a few words.
        unit: of the value, e.g. `messages/s`.
        note: one line below the picture.
    """

    name: str
    unit: str = "messages/s"
    note: str = ""


@dataclass(frozen=True)
class Run:
    """One measurement of one subject.

    Attributes:
        subject: who is measured; a column of the table.
        measure: what to call.
        arguments: passed on.
    """

    subject: str
    measure: Measure
    arguments: dict[str, Any] = field(default_factory=dict)


Place: TypeAlias = tuple[str, str]
"""(figure, subject)"""


@dataclass(frozen=True)
class Bar:
    """What has to hold: `over` divided by `under` is at least `required`.

    Attributes:
        name: the promise, in words.
        over: figure and subject above the line.
        under: figure and subject below it, or a constant in the figure's unit.
        required: the least ratio.
    """

    name: str
    over: Place | float
    under: Place | float
    required: float


@dataclass
class Samples:
    """The values by figure and subject, one a round."""

    values: dict[Place, list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, subject: str, found: Mapping[str, float]) -> None:
        """Note what one measurement found."""
        for figure, value in found.items():
            self.values[figure, subject].append(value)

    def ratio(self, bar: Bar) -> float | None:
        """The median of the ratios of a bar; None if it was not measured."""
        over, under = self._series(bar.over), self._series(bar.under)
        rounds = max(len(over), len(under))
        if not over or not under:
            return None
        over, under = _stretched(over, rounds), _stretched(under, rounds)
        return median(a / b for a, b in zip(over, under, strict=False))

    def _series(self, place: Place | float) -> list[float]:
        return [place] if isinstance(place, int | float) else self.values.get(place, [])


def _stretched(series: list[float], rounds: int) -> list[float]:
    return series * rounds if len(series) == 1 else series


def measure_in_turn(
    runs: Sequence[Run], rounds: int, samples: Samples, report: Callable[[str], None]
) -> None:
    """Run every subject once a round, each time in a new process."""
    started = time.monotonic()
    for turn in range(rounds):
        for run in runs if turn % 2 == 0 else reversed(runs):
            seconds = time.monotonic() - started
            report(f"{seconds:5.0f} s  round {turn + 1}/{rounds}  {run.subject}")
            samples.add(run.subject, in_process(run))


def in_process(run: Run) -> Mapping[str, float]:
    """One measurement, in a process that does nothing else before or after."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(run.measure, **run.arguments).result()


# ------------------------------------------------------------------------------- writing it down


def machine(packages: Iterable[str]) -> dict[str, object]:
    """What the figures were measured on, without the name of any machine."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "packages": {name: found for name in packages if (found := _version(name)) is not None},
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.machine()


def _memory_gib() -> int | None:
    try:
        pages = os.sysconf("SC_PHYS_PAGES")
        return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**30)
    except (ValueError, OSError):
        return None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@dataclass(frozen=True)
class Book:
    """One benchmark: what it measures and what has to hold."""

    name: str
    figures: Sequence[Figure]
    bars: Sequence[Bar]
    packages: Sequence[str] = ()

    def result(self, samples: Samples) -> dict[str, Any]:
        """The results as they are written to JSON."""
        figures = [
            {
                "name": figure.name,
                "subject": subject,
                "unit": figure.unit,
                "median": _rounded(median(values)),
                "min": _rounded(min(values)),
                "max": _rounded(max(values)),
            }
            for figure in self.figures
            for (name, subject), values in samples.values.items()
            if name == figure.name
        ]
        bars = []
        for bar in self.bars:
            ratio = samples.ratio(bar)
            if ratio is not None:
                bars.append(
                    {
                        "name": bar.name,
                        "ratio": round(ratio, 3),
                        "required": bar.required,
                        "holds": ratio >= bar.required,
                    }
                )
        return {"machine": machine(self.packages), "figures": figures, "bars": bars}

    def write(self, samples: Samples, folder: Path) -> str:
        """Write JSON, table and pictures; returns the table."""
        result = self.result(samples)
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(result, indent=2, ensure_ascii=False) + "\n"
        (folder / f"{self.name}.json").write_text(text, encoding="utf-8")
        table = self.table(result)
        (folder / f"{self.name}.md").write_text(table, encoding="utf-8")
        (folder / f"{self.name}-bars.svg").write_text(pictures.bars(result["bars"]), "utf-8")
        drawing = pictures.figures(result["figures"], {f.name: f.note for f in self.figures})
        (folder / f"{self.name}-figures.svg").write_text(drawing, encoding="utf-8")
        return table

    def table(self, result: Mapping[str, Any]) -> str:
        """The results as Markdown."""
        about = result["machine"]
        packages = ", ".join(f"{name} {found}" for name, found in about["packages"].items())
        lines = [
            "| bar | ratio | required | holds |",
            "|---|---:|---:|---|",
            *(
                f"| {bar['name']} | {bar['ratio']:.2f} | {bar['required']:g} | "
                f"{'yes' if bar['holds'] else '**no**'} |"
                for bar in result["bars"]
            ),
            "",
            "| figure | subject | median | min – max | unit |",
            "|---|---|---:|---:|---|",
            *(
                f"| {one['name']} | {one['subject']} | {number(one['median'])} | "
                f"{number(one['min'])} – {number(one['max'])} | {one['unit']} |"
                for one in result["figures"]
            ),
            "",
            f"Measured on: {about['processor']}, {about['cores']} cores, "
            f"{about['memory_gib']} GiB, {about['system']}, Python {about['python']}, "
            f"SQLite {about['sqlite']}" + (f"; {packages}" if packages else "") + ".",
        ]
        return "\n".join(lines) + "\n"


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def number(value: float) -> str:
    """A figure as people read it."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def options(description: str) -> argparse.ArgumentParser:
    """The arguments that every benchmark takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--quick", action="store_true", help="a smoke run: its figures mean nothing"
    )
    parser.add_argument("--rounds", type=int, help="how often every subject runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to")
    parser.add_argument("--only", default="", help="subjects or parts whose name contains this")
    return parser


def say(line: str) -> None:
    """Progress, on stderr."""
    print(line, file=sys.stderr, flush=True)
