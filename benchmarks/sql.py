"""Roads on PostgreSQL: against psycopg by hand and other queues on the same server, the outbox, the
inbox, latency and bloat. `make bench BENCH=sql`; docs/benchmarks.md tells how it measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks import harness
from benchmarks.harness import Bar, Book, Figure, Run, Samples, say
from benchmarks.subjects import (
    postgresql,
    postgresql_bloat,
    postgresql_inbox,
    postgresql_latency,
    postgresql_outbox,
    postgresql_peers,
    raw_postgresql,
    road_postgresql,
)

ROAD, EAGER = "postroad", "postroad, prefetch=4000"
BY_HAND, BEST, FASTEST = "psycopg by hand", "psycopg by hand, its best", "the fastest worker"
COPY, INSERT = "COPY", "INSERT of many rows"
WHOLE, CALLS = f"{ROAD}, publish_many", f"{ROAD}, publish_many, 1000 a call"
TASKS = f"{ROAD}, 1000 tasks"
PROCRASTINATE, PGQUEUER = "procrastinate", "pgqueuer"
DRAMATIQ, HUEY, PGMQ = "dramatiq-pg", "huey SqlHuey", "pgmq, loop by hand"

CONSUME = "consume from PostgreSQL"
PUBLISH = "publish to PostgreSQL"
ADD, ADD_ALONE = "a row in the outbox, 100 a transaction", "a row in the outbox, 1 a transaction"
RELAY = "relay to another road"
EFFECTS = "one UPDATE and one INSERT a message"
HALF, LATE = "commit to handler, half within", "commit to handler, 99 % within"
CALLED = "call of publish to handler, 99 % within"
SIZE, RECEIVE = "all tables of a queue", "receive of a queue, 99 % within"

ONCE, BESIDE, REPEATS = (
    "effectively-once",
    "effectively-once, database beside the road",
    "at-least-once, pool of its own",
)
ADDED, ADDED_ASYNC = "outbox.add, psycopg", "outbox.add, asyncpg"
BARE, BARE_ASYNC = "bare insert, psycopg", "bare insert, asyncpg"
WOKEN, LOOKING = f"{ROAD}, NOTIFY", f"{ROAD}, notify=off"
SECOND, THIRD, LAST = "second tenth", "after three tenths", "at the end"
PLATEAU = 10_000_000
"""Messages through the queue from which its size says something."""
RATE, SIZES, PGQUEUER_SIZES = 200, (100, 1000, 2000), (100, 1000)

FIGURES = (
    Figure(CONSUME, note="the loop by hand has no leases, retries, groups or concurrency"),
    Figure(PUBLISH, note="1000 rows a transaction; dramatiq and huey publish one by one only"),
    Figure(ADD, "rows/s"),
    Figure(ADD_ALONE, "rows/s"),
    Figure(RELAY),
    Figure(EFFECTS, note=f"{postgresql_inbox.CONCURRENCY} handlers at once, a transaction each"),
    Figure(HALF, "ms", note=f"{RATE} messages/s from another process"),
    Figure(LATE, "ms", note=f"{RATE} messages/s from another process"),
    Figure(CALLED, "ms", note=f"{RATE} messages/s from another process; with the commit itself"),
    Figure(SIZE, "MiB"),
    Figure(RECEIVE, "ms"),
)

BARS = (
    Bar("consume, prefetch=4000 / by hand", (CONSUME, EAGER), (CONSUME, BEST), 0.5),
    Bar("consume / by hand", (CONSUME, ROAD), (CONSUME, BEST), 0.5),
    Bar("consume / the fastest other worker", (CONSUME, ROAD), (CONSUME, FASTEST), 2),
    Bar("consume / pgmq", (CONSUME, ROAD), (CONSUME, PGMQ), 2),
    Bar("consume / procrastinate", (CONSUME, ROAD), (CONSUME, PROCRASTINATE), 10),
    Bar("publish_many / COPY", (PUBLISH, WHOLE), (PUBLISH, COPY), 0.6),
    Bar("publish_many / INSERT of many rows", (PUBLISH, WHOLE), (PUBLISH, INSERT), 0.6),
    Bar("outbox.add / bare insert, psycopg", (ADD, ADDED), (ADD, BARE), 0.77),
    Bar("outbox.add / bare insert, asyncpg", (ADD, ADDED_ASYNC), (ADD, BARE_ASYNC), 0.77),
    Bar("the same, 1 a transaction", (ADD_ALONE, ADDED), (ADD_ALONE, BARE), 0.77),
    Bar("relay / 20,000 messages/s", (RELAY, ROAD), 20_000, 1),
    Bar("effectively-once / at-least-once", (EFFECTS, ONCE), (EFFECTS, REPEATS), 0.5),
    Bar("20 ms / commit to handler, 99 %", 20, (LATE, WOKEN), 1),
    Bar("receive in the second tenth / the last", (RECEIVE, SECOND), (RECEIVE, LAST), 0.67),
    Bar("tables after three tenths / at the end", (SIZE, THIRD), (SIZE, LAST), 0.67),
)

BOOK = Book(
    "sql",
    FIGURES,
    BARS,
    packages=(
        "postroad",
        "msgspec",
        "psycopg",
        "asyncpg",
        "procrastinate",
        "pgqueuer",
        "dramatiq",
        "dramatiq-pg",
        "huey",
        "peewee",
        "pgmq",
    ),
)


@dataclass(frozen=True)
class Size:
    """How much of everything.

    Attributes:
        scale: 1 for figures that mean something.
        rounds: how often every subject runs.
        seconds: of the latency's measurement.
        through: messages that go through the queue.
    """

    scale: float = 1.0
    rounds: int = 3
    seconds: float = 30.0
    through: int = 3_000_000

    def of(self, count: int) -> int:
        """So many, scaled, in whole thousands."""
        return max(1000, int(count * self.scale) // 1000 * 1000)


def log_runs(size: Size) -> list[Run]:
    """Publishing and consuming, by hand, by the road and by others."""
    of = size.of
    both = {"publish": PUBLISH, "consume": CONSUME}
    peers = [
        Run(PROCRASTINATE, postgresql_peers.procrastinate, {**both, "count": of(5_000)}),
        *(
            Run(
                _sized(PGQUEUER, batch),
                postgresql_peers.pgqueuer,
                {**both, "count": of(40_000), "batch": batch},
            )
            for batch in PGQUEUER_SIZES
        ),
        Run(DRAMATIQ, postgresql_peers.dramatiq, {**both, "count": of(4_000)}),
        Run(HUEY, postgresql_peers.huey, {**both, "count": of(2_000)}),
        Run(PGMQ, postgresql_peers.pgmq, {**both, "count": of(60_000), "batch": 1000}),
    ]
    return [
        *(
            Run(
                _sized(BY_HAND, batch),
                raw_postgresql.consume,
                {"figure": CONSUME, "count": of(200_000), "size": batch},
            )
            for batch in SIZES
        ),
        *(
            Run(
                subject,
                road_postgresql.consume,
                {"figure": CONSUME, "count": of(200_000), "prefetch": prefetch},
            )
            for subject, prefetch in ((ROAD, 1000), (EAGER, 4000))
        ),
        Run(COPY, raw_postgresql.copy, {"figure": PUBLISH, "count": of(200_000), "size": 1000}),
        Run(INSERT, raw_postgresql.insert, {"figure": PUBLISH, "count": of(200_000), "size": 1000}),
        *(
            Run(
                subject,
                road_postgresql.publish_many,
                {"figure": PUBLISH, "count": of(200_000), "size": each},
            )
            for subject, each in ((WHOLE, of(200_000)), (CALLS, 1000))
        ),
        Run(
            TASKS,
            road_postgresql.publish_from_tasks,
            {"figure": PUBLISH, "count": of(100_000), "tasks": 1000},
        ),
        *peers,
    ]


def _sized(subject: str, size: int) -> str:
    return f"{subject}, {size} a batch"


def business_runs(size: Size) -> list[Run]:
    """The outbox and the inbox."""
    of = size.of
    adding = [
        (ADD, BARE, postgresql_outbox.insert_psycopg, 30_000, 100),
        (ADD, ADDED, postgresql_outbox.add_psycopg, 30_000, 100),
        (ADD, BARE_ASYNC, postgresql_outbox.insert_asyncpg, 30_000, 100),
        (ADD, ADDED_ASYNC, postgresql_outbox.add_asyncpg, 30_000, 100),
        (ADD_ALONE, BARE, postgresql_outbox.insert_psycopg, 4_000, 1),
        (ADD_ALONE, ADDED, postgresql_outbox.add_psycopg, 4_000, 1),
    ]
    return [
        *(
            Run(subject, measure, {"figure": figure, "count": of(count), "size": each})
            for figure, subject, measure, count, each in adding
        ),
        Run(ROAD, postgresql_outbox.relay, {"figure": RELAY, "count": of(200_000)}),
        *(
            Run(subject, measure, {"figure": EFFECTS, "count": of(15_000)})
            for subject, measure in (
                (REPEATS, postgresql_inbox.at_least_once),
                (ONCE, postgresql_inbox.effectively_once),
                (BESIDE, postgresql_inbox.effectively_once_beside),
            )
        ),
    ]


def latency_run(size: Size, *, notify: bool) -> Run:
    """From commit to handler."""
    return Run(
        WOKEN if notify else LOOKING,
        postgresql_latency.commit_to_handler,
        {"figures": (HALF, LATE, CALLED), "rate": RATE, "seconds": size.seconds, "notify": notify},
    )


def choose_best(samples: Samples) -> None:
    """Name what is compared with: by hand with its best batch, and the fastest worker of others."""
    by_hand = [_sized(BY_HAND, size) for size in SIZES]
    workers = [_sized(PGQUEUER, size) for size in PGQUEUER_SIZES]
    workers += [PROCRASTINATE, DRAMATIQ, HUEY]
    known = samples.values
    for name, subjects in ((BEST, by_hand), (FASTEST, workers)):
        found = [known[CONSUME, one] for one in subjects if (CONSUME, one) in known]
        if found:
            known[CONSUME, name] = max(found, key=median)


def measure_bloat(size: Size, samples: Samples, server: str, folder: Path) -> None:
    """Let millions go through one queue; the table of it is written beside the results."""
    say(f"{size.through:,} messages through one queue")
    arguments = {"server": server, "count": size.through, "limit": 100}
    found = harness.in_process(Run(ROAD, _bloat, {**arguments, "folder": folder}))
    samples.add(SECOND, {RECEIVE: found["second receive"]})
    samples.add(LAST, {RECEIVE: found["last receive"]})
    if size.through >= PLATEAU:
        samples.add(THIRD, {SIZE: found["third size"]})
        samples.add(LAST, {SIZE: found["last size"]})


def _bloat(server: str, count: int, limit: int, folder: Path) -> Mapping[str, float]:
    parts = postgresql_bloat.through(server, count, limit)
    folder.mkdir(parents=True, exist_ok=True)
    table = postgresql_bloat.table(parts, count)
    (folder / "sql-bloat.md").write_text(table, encoding="utf-8")
    say(table)
    return {
        "second receive": parts[1].late,
        "last receive": parts[-1].late,
        "third size": parts[2].size,
        "last size": parts[-1].size,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write the results, print the table."""
    parser = harness.options(__doc__ or "")
    parser.add_argument("--long", action="store_true", help="ten million through the queue")
    parser.add_argument("--through", type=int, help="messages through the queue; 0 for none")
    given = parser.parse_args(arguments)
    base = Size(0.02, 2, 3.0, 100_000) if given.quick else Size()
    through = 10_000_000 if given.long else base.through
    size = Size(
        base.scale,
        given.rounds or base.rounds,
        base.seconds,
        through if given.through is None else given.through,
    )
    samples = Samples()
    with postgresql.server() as server:
        say(f"server: {postgresql.settings(server)}")
        often = [*log_runs(size), *business_runs(size), latency_run(size, notify=True)]
        for runs, rounds in ((often, size.rounds), ([latency_run(size, notify=False)], 1)):
            chosen = [run for run in runs if given.only in run.subject]
            for run in chosen:
                run.arguments["server"] = server
            harness.measure_in_turn(chosen, rounds, samples, say)
        if size.through and given.only in ROAD:
            measure_bloat(size, samples, server, given.results)
    choose_best(samples)
    print(BOOK.write(samples, given.results))


if __name__ == "__main__":
    main()
