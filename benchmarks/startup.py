"""How long it takes until Postroad is there: `import postroad`, and `postroad --help`.

Prints the medians of many fresh processes against their bars, and exits 1 if one is missed. An
import is counted beyond what a bare interpreter takes; runs alternate, so that a busy machine
slows all of them alike; where clock and processor differ much, it was busy.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from resource import RUSAGE_CHILDREN, getrusage
from statistics import median
from typing import NamedTuple

BARE = ("-c", "pass")
IMPORT = ("-c", "import postroad")
APP = ("-c", "from postroad import Postroad, Topic; Postroad('sqlite:///startup.db')")
HELP = ("-m", "postroad", "--help")

IMPORT_BAR = 60.0
HELP_BAR = 250.0
"""In milliseconds."""


class Cost(NamedTuple):
    """Of one process, in milliseconds: on the clock, and of the processor."""

    clock: float
    processor: float


def cost(arguments: Sequence[str]) -> Cost:
    """What a fresh interpreter takes for it."""
    before, started = getrusage(RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    ended, after = time.perf_counter(), getrusage(RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost((ended - started) * 1000, used * 1000)


def measure(commands: Sequence[tuple[str, ...]], runs: int) -> list[Cost]:
    """The medians of each, after one run that fills the caches."""
    for command in commands:
        cost(command)
    rounds = [[cost(command) for command in commands] for _ in range(runs)]
    return [
        Cost(*(median(side) for side in zip(*costs, strict=True)))
        for costs in zip(*rounds, strict=True)
    ]


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=21)
    bare, imported, app, help_ = measure((BARE, IMPORT, APP, HELP), parser.parse_args().runs)
    lines = [
        ("bare interpreter", bare, None),
        ("import postroad, beyond it", _beyond(imported, bare), IMPORT_BAR),
        ("an app on sqlite://, beyond it", _beyond(app, bare), None),
        ("postroad --help", help_, HELP_BAR),
    ]
    print(f"{'median, ms':32}{'clock':>8}{'processor':>11}{'bar':>7}")
    for title, found, bar in lines:
        verdict = "" if bar is None else f"{bar:7g}  {'met' if found.clock <= bar else 'MISSED'}"
        print(f"{title:32}{found.clock:8.1f}{found.processor:11.1f}{verdict}")
    return int(any(bar is not None and found.clock > bar for _, found, bar in lines))


def _beyond(cost: Cost, bare: Cost) -> Cost:
    return Cost(cost.clock - bare.clock, cost.processor - bare.processor)


if __name__ == "__main__":
    sys.exit(main())
