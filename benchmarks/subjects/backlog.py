"""A road with millions of messages behind it, against one that is empty."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchmarks.subjects.order import SIZE, TOPIC, OrderCreated
from benchmarks.subjects.raw_sqlite import rows
from benchmarks.subjects.road import Counter, rate_from_tasks, time_to_settle
from postroad import Postroad, Subscription
from postroad.transports.sql.rows import OFFSET_BITS

GROUP = "all"
_SEED = 10_000
_EACH = 500_000


def road(path: Path, counter: Counter) -> Postroad:
    """The road on this file, with one group that begins at the first message."""
    made = Postroad(f"sqlite:///{path}", hooks=counter)

    @made.subscribe(TOPIC, group=GROUP, start="earliest")
    async def handler(order: OrderCreated) -> None:
        pass

    return made


def build(path: Path, count: int) -> None:
    """Create the file with so many messages that no group has read yet.

    They are copied inside SQLite, 500,000 a transaction and without syncs: publishing them is
    measured elsewhere. Ids stay unique; payloads repeat.
    """

    async def create() -> None:
        async with road(path, Counter(1)):
            pass

    asyncio.run(create())
    if not count:
        return
    with _unsynced(path) as connection:
        (stream,) = connection.execute("SELECT id FROM postroad_streams").fetchone()
        base = stream << OFFSET_BITS
        seed = rows(min(_SEED, count), stream)
        connection.execute("CREATE TEMP TABLE seed AS SELECT * FROM postroad_messages")
        connection.executemany("INSERT INTO seed VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", seed)
        now, origin = seed[0][5], seed[0][2]
        source, kind = "postroad", TOPIC.content_type
        values = (origin, TOPIC.name, source, kind, None)
        connection.execute("INSERT INTO postroad_origins VALUES (?, ?, ?, ?, ?)", values)
        done = 0
        while done < count:
            connection.execute("BEGIN")
            end = min(done + _EACH, count)
            while done < end:
                part = min(len(seed), end - done)
                connection.execute(
                    "INSERT INTO postroad_messages SELECT position + ?1, "
                    "substr(id, 1, 24) || printf('%012x', position - ?2 + ?1), origin, key, "
                    "time_us, appended_us, expires_at_us, data, envelope FROM seed "
                    "ORDER BY position LIMIT ?3",
                    (done, base, part),
                )
                done += part
            connection.execute("COMMIT")
        connection.execute(
            "UPDATE postroad_streams SET next_offset = ?1, published = ?1, bytes = ?2, last_us = ?3"
            " WHERE id = ?4",
            (count, count * SIZE, now, stream),
        )


@contextmanager
def _unsynced(path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA synchronous = OFF")
        yield connection
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        connection.close()


def publish(figure: str, file: str, count: int) -> Mapping[str, float]:
    """Publish to the file from 1,000 tasks."""

    async def run() -> Mapping[str, float]:
        async with road(Path(file), Counter(1)) as made:
            return {figure: await rate_from_tasks(made, count, 1000)}

    return asyncio.run(run())


def receive(figure: str, file: str, count: int) -> Mapping[str, float]:
    """Consume so many messages of the file, from where the group stands."""

    async def run() -> Mapping[str, float]:
        counter = Counter(count)
        async with road(Path(file), counter) as made:
            seconds = await time_to_settle(made, counter)
        return {figure: counter.at_reaching / seconds}

    return asyncio.run(run())


class Memory(Counter):
    """Notes this process's resident memory once a twentieth is settled, and from then on."""

    def __init__(self, wanted: int) -> None:
        super().__init__(wanted)
        self.early = 0.0
        self.most = 0.0
        self._next = wanted // 20

    def settled(self, subscription: Subscription, counts: Mapping[str, int]) -> None:
        """See `Hooks.settled`."""
        super().settled(subscription, counts)
        if self.handled >= self._next:
            self._next += max(1, self.wanted // 200)
            resident = _resident_mib()
            self.early = self.early or resident
            self.most = max(self.most, resident)


def drain(
    file: str, count: int, seconds: float, *, handled: str, early: str, most: str
) -> Mapping[str, float]:
    """Consume the backlog, or as much as comes in the given time, and watch the memory."""

    async def run() -> Mapping[str, float]:
        counter = Memory(count)
        async with road(Path(file), counter) as made:
            timer = asyncio.get_running_loop().call_later(seconds, counter.reached.set)
            await time_to_settle(made, counter)
            timer.cancel()
        return {handled: counter.handled, early: counter.early, most: counter.most}

    return asyncio.run(run())


def _resident_mib() -> float:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("this system does not tell a process's resident memory")
