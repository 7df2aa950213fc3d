"""Embedded roads: SQLite against its own limit and other queues in a file, and dispatch inside
the process. `make bench BENCH=embedded`; docs/benchmarks.md tells how it measures."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import harness
from benchmarks.harness import Bar, Book, Figure, Run, Samples, say
from benchmarks.subjects import backlog, dispatch, peers, raw_sqlite, road

ROAD, LIMIT, LEAN = "postroad", "raw sqlite3", "lean loop"
ONE_ROW, HUNDRED, THOUSAND = f"{LIMIT}, 1 a txn", f"{LIMIT}, 100 a txn", f"{LIMIT}, 1000 a txn"
TASKS, MANY, ALONE = f"{ROAD}, 1000 tasks", f"{ROAD}, publish_many", f"{ROAD}, one at a time"
HUEY, PERSIST, LITE = "huey SqliteHuey", "persist-queue SQLiteAckQueue", "litequeue"

PUBLISH = "publish to SQLite"
CONSUME = "consume from SQLite"
GROUPS = "publish with groups on the topic"
STALL = "longest pause of the event loop while the file is locked"
ONE, FIVE = "dispatch to 1 async receiver", "dispatch to 5 async receivers"
GROWN, READ = "publish, by backlog", "receive, by backlog"
DRAINED, EARLY, MOST = "backlog consumed in one go", "memory after 5 %", "most memory after that"
LOCKED = 0.25
EMPTY, FULL = f"{ROAD}, empty log", f"{ROAD}, backlog"
ONE_GROUP, TEN_GROUPS = f"{ROAD}, 1 group", f"{ROAD}, 10 groups"
BLINKER = "blinker send_async"

FIGURES = (
    Figure(PUBLISH, note="synchronous=FULL, same schema and rows; litequeue: NORMAL, its default"),
    Figure(CONSUME, note="litequeue slows with its depth, see docs"),
    Figure(GROUPS),
    Figure(STALL, "ms", note=f"another connection holds the write lock for {LOCKED * 1000:g} ms"),
    Figure(ONE, "events/s"),
    Figure(FIVE, "events/s", note="asyncio.gather, pyee and bubus make a task or more a call"),
    Figure(GROWN),
    Figure(READ),
    Figure(DRAINED, "messages"),
    Figure(EARLY, "MiB"),
    Figure(MOST, "MiB"),
)

BARS = (
    Bar("publish from 1,000 tasks / raw, 100 a txn", (PUBLISH, TASKS), (PUBLISH, HUNDRED), 0.35),
    Bar("publish_many / raw, 100 a txn", (PUBLISH, MANY), (PUBLISH, HUNDRED), 0.60),
    Bar("a lone publisher / raw, 1 a txn", (PUBLISH, ALONE), (PUBLISH, ONE_ROW), 0.55),
    Bar("time the file is locked / longest pause of the loop", LOCKED * 1000, (STALL, ROAD), 5),
    Bar("consume / lean loop", (CONSUME, ROAD), (CONSUME, LEAN), 0.50),
    Bar("consume / huey", (CONSUME, ROAD), (CONSUME, HUEY), 15),
    Bar("publish with ten groups / with one", (GROUPS, TEN_GROUPS), (GROUPS, ONE_GROUP), 0.95),
    Bar("publish on a backlog / on an empty log", (GROWN, FULL), (GROWN, EMPTY), 0.8),
    Bar("receive from a backlog / from a short log", (READ, FULL), (READ, EMPTY), 0.8),
    Bar("memory after 5 % of a backlog / most after that", (EARLY, FULL), (MOST, FULL), 0.9),
    Bar("publish to five observers / blinker", (FIVE, ROAD), (FIVE, BLINKER), 2),
)

BOOK = Book(
    "embedded",
    FIGURES,
    BARS,
    packages=(
        "postroad",
        "msgspec",
        "huey",
        "persist-queue",
        "litequeue",
        "blinker",
        "pyee",
        "bubus",
    ),
)


@dataclass(frozen=True)
class Size:
    """How much of everything.

    Attributes:
        scale: 1 for figures that mean something.
        rounds: how often every subject runs.
        backlog: messages in the long log.
        drain: seconds that consuming it in one go may take.
    """

    scale: float = 1.0
    rounds: int = 5
    backlog: int = 10_000_000
    drain: float = 150.0

    def of(self, count: int) -> int:
        """So many, scaled, in whole thousands."""
        return max(1000, int(count * self.scale) // 1000 * 1000)


def sqlite_runs(size: Size) -> list[Run]:
    """Publishing and consuming, the ones that are compared next to each other."""
    of = size.of
    return [
        Run(ONE_ROW, raw_sqlite.insert, {"figure": PUBLISH, "count": of(6_000), "size": 1}),
        Run(ALONE, road.publish_alone, {"figure": PUBLISH, "count": of(4_000)}),
        Run(HUNDRED, raw_sqlite.insert, {"figure": PUBLISH, "count": of(200_000), "size": 100}),
        Run(TASKS, road.publish_from_tasks, {"figure": PUBLISH, "count": of(100_000)}),
        Run(MANY, road.publish_many, {"figure": PUBLISH, "count": of(200_000)}),
        Run(THOUSAND, raw_sqlite.insert, {"figure": PUBLISH, "count": of(200_000), "size": 1000}),
        Run(LEAN, raw_sqlite.lean_consumer, {"figure": CONSUME, "count": of(150_000)}),
        Run(ROAD, road.consume, {"figure": CONSUME, "count": of(120_000)}),
        Run(HUEY, peers.huey, {"enqueue": PUBLISH, "consume": CONSUME, "count": of(4_000)}),
        Run(PERSIST, peers.persist_queue, {"put": PUBLISH, "get": CONSUME, "count": of(3_000)}),
        Run(LITE, peers.litequeue, {"put": PUBLISH, "pop": CONSUME, "count": of(10_000)}),
        *(
            Run(
                subject,
                road.publish_from_tasks,
                {"figure": GROUPS, "count": of(100_000), "groups": groups},
            )
            for groups, subject in ((1, ONE_GROUP), (10, TEN_GROUPS))
        ),
        Run(ROAD, road.stall_while_locked, {"figure": STALL, "locked": LOCKED}),
    ]


def dispatch_runs(size: Size) -> list[Run]:
    """Inside the process."""
    subjects = (
        ("bare loop", dispatch.bare, 3_000_000),
        (ROAD, dispatch.road, 1_000_000),
        (BLINKER, dispatch.blinker, 600_000),
        ("pyee AsyncIOEventEmitter", dispatch.pyee, 60_000),
        ("asyncio.gather", dispatch.gathered, 60_000),
        ("bubus", dispatch.bubus, 300),
    )
    return [
        Run(
            subject,
            measure,
            {
                "figure": figure,
                "receivers": receivers,
                "count": count if subject == "bubus" else size.of(count // receivers),
            },
        )
        for figure, receivers in ((ONE, 1), (FIVE, 5))
        for subject, measure, count in subjects
    ]


def measure_backlog(size: Size, samples: Samples, folder: str | None) -> None:
    """Build the long log, compare it with a short one, consume it in one go."""
    needed = size.backlog * 330 + (1 << 30)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        free = shutil.disk_usage(place).free
        if free < needed:
            raise SystemExit(
                f"a backlog of {size.backlog:,} messages needs {needed >> 30} GiB in {place}, "
                f"which has {free >> 30}: name another --folder, or a smaller --backlog"
            )
        full = str(Path(place) / "full.db")
        say(f"building a backlog of {size.backlog:,} messages")
        build = {"path": Path(full), "count": size.backlog}
        harness.in_process(Run("building", _build, build))
        count = size.of(60_000)
        for number in range(size.rounds):
            say(f"round {number + 1}/{size.rounds}  backlog")
            empty = str(Path(place) / f"empty-{number}.db")
            harness.in_process(Run("building", _build, {"path": Path(empty), "count": 0}))
            pairs = [(EMPTY, empty), (FULL, full)]
            # The short log holds what was just published, and no more is received of the long one.
            for measure, figure in (
                (backlog.publish, GROWN),
                (backlog.receive, READ),
            ):
                for subject, file in pairs if number % 2 == 0 else pairs[::-1]:
                    arguments = {"figure": figure, "file": file, "count": count}
                    samples.add(subject, harness.in_process(Run(subject, measure, arguments)))
        say(f"consuming the backlog, for {size.drain:g} s at the most")
        arguments = {
            "file": full,
            "count": size.backlog,
            "seconds": size.drain,
            "handled": DRAINED,
            "early": EARLY,
            "most": MOST,
        }
        samples.add(FULL, harness.in_process(Run(FULL, backlog.drain, arguments)))


def _build(path: Path, count: int) -> dict[str, float]:
    backlog.build(path, count)
    return {}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write the results, print the table."""
    parser = harness.options(__doc__ or "")
    parser.add_argument("--backlog", type=int, help="messages in the long log (10,000,000)")
    parser.add_argument("--folder", help="where the files lie; a real disk, not a tmpfs")
    given = parser.parse_args(arguments)
    base = Size(0.02, 2, 50_000, 20.0) if given.quick else Size()
    size = Size(
        base.scale,
        given.rounds or base.rounds,
        base.backlog if given.backlog is None else given.backlog,
        base.drain,
    )
    samples = Samples()
    runs = sqlite_runs(size)
    for run in runs:
        run.arguments["folder"] = given.folder
    runs += dispatch_runs(size)
    chosen = [run for run in runs if given.only in run.subject]
    harness.measure_in_turn(chosen, size.rounds, samples, say)
    if size.backlog and given.only in FULL:
        measure_backlog(size, samples, given.folder)
    print(BOOK.write(samples, given.results))


if __name__ == "__main__":
    main()
