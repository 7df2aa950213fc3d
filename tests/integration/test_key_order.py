"""Key order on one SQLite file, while processes join, leave, freeze and are killed."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest
from msgspec.structs import replace

from postroad import Audit, Postroad
from postroad.core.notices import Revoking
from postroad.core.transport import Consumer
from tests.integration.apps.ordered import LEASE, Note, Step, make_road, notes, steps
from tests.integration.sqlite_road import KEYED, SOON, ack, group, join, publish, road, take

KEYS = [f"k{number}" for number in range(24)]
RATE = 200
"""Messages a second, over all keys."""
PATIENCE = 30.0
ROOT = Path(__file__).parents[2]


class Worker:
    """A process that runs the app, as `postroad run` starts it."""

    def __init__(self, process: asyncio.subprocess.Process, errors: Path) -> None:
        self._process = process
        self._errors = errors
        self.pid = process.pid
        self.killed_at: int | None = None
        self.frozen_at: int | None = None
        self.spell: tuple[int, int] | None = None

    @classmethod
    async def start(cls, folder: Path) -> Worker:
        command = ["-m", "postroad", "run", "tests.integration.apps.ordered:road", "--drain=10s"]
        number, name = tempfile.mkstemp(".errors", dir=folder)
        with os.fdopen(number) as errors:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *command,
                cwd=ROOT,
                env={**os.environ, "POSTROAD_TEST_FOLDER": str(folder)},
                stdout=asyncio.subprocess.DEVNULL,
                stderr=errors,
            )
        return cls(process, Path(name))

    def check(self) -> None:
        """It has not ended by itself."""
        assert self._process.returncode is None, self._errors.read_text()

    async def leave(self) -> None:
        """SIGTERM: drains, and ends well."""
        self.check()
        self._process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(self._process.wait(), PATIENCE)
        assert self._process.returncode == 0, self._errors.read_text()

    async def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        self.killed_at = self.frozen_at or time.monotonic_ns()

    async def freeze(self, folder: Path) -> None:
        """SIGSTOP at a bad moment: a handler is running. It is not one in which it has the
        database's only write lock, for then nobody could go on, on any day."""
        for _ in range(500):
            self._process.send_signal(signal.SIGSTOP)
            self.frozen_at = time.monotonic_ns()
            if await asyncio.to_thread(_is_free, folder) and self._is_handling(folder):
                return
            self._process.send_signal(signal.SIGCONT)
            await asyncio.sleep(0.02)
        raise AssertionError("it was never found at work and without the lock")

    def _is_handling(self, folder: Path) -> bool:
        mine = [note.kind for note in notes(folder) if note.pid == self.pid]
        return mine.count("begin") > len(mine) - mine.count("begin")

    def thaw(self) -> None:
        """SIGCONT; notes from when until when it was frozen."""
        self.spell = (self.frozen_at or 0, time.monotonic_ns())
        self.frozen_at = None
        self._process.send_signal(signal.SIGCONT)


def _is_free(folder: Path) -> bool:
    """Whether the write lock can be had: the others hold it for milliseconds at a time."""
    path = folder / "ordered.db"
    with closing(sqlite3.connect(path, timeout=0.5, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        connection.execute("ROLLBACK")
        return True


class Story:
    """What happened: the workers, and the notes that they took."""

    def __init__(self, folder: Path, road: Postroad) -> None:
        self.folder = folder
        self.road = road
        self.workers: list[Worker] = []
        self.published = dict.fromkeys(KEYS, 0)

    async def join(self) -> Worker:
        """One more process, which has begun to work."""
        worker = await Worker.start(self.folder)
        self.workers.append(worker)

        def works() -> bool:
            worker.check()
            return len(self.of(worker)) >= 40

        await self.eventually(works, f"{worker.pid} to work")
        return worker

    def of(self, worker: Worker, after: int = 0) -> list[Note]:
        """A worker's notes after an instant."""
        return [note for note in notes(self.folder) if note.pid == worker.pid and note.at > after]

    async def eventually(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for a condition."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"waited {PATIENCE:g} s for {what}"
            await asyncio.sleep(0.05)

    async def publish(self, stop: asyncio.Event) -> None:
        """Publish the next steps of all keys until told to stop."""
        while not stop.is_set():
            for key in KEYS:
                await self.road.publish(steps, Step(key, self.published[key]))
                self.published[key] += 1
            await asyncio.sleep(len(KEYS) / RATE)

    async def drained(self) -> Audit:
        """The audit once nothing is pending."""
        deadline = time.monotonic() + PATIENCE
        while True:
            audit = await self.road.audit()
            if not any(entry.pending for entry in audit.entries):
                return audit
            assert time.monotonic() < deadline, f"still pending: {audit.entries}"
            await asyncio.sleep(0.1)


@pytest.fixture
async def story(tmp_path: Path) -> AsyncIterator[Story]:
    async with make_road(tmp_path) as road:
        with closing(sqlite3.connect(tmp_path / "ordered.db")) as database, database:
            database.execute(
                "CREATE TABLE effects (n INTEGER PRIMARY KEY, key TEXT, seq INTEGER, pid INTEGER)"
            )
        story = Story(tmp_path, road)
        yield story
        for worker in story.workers:
            await worker.kill()


@pytest.mark.slow
async def test_key_order_holds_while_processes_come_go_freeze_and_die(story: Story) -> None:
    stop = asyncio.Event()
    publishing = asyncio.create_task(story.publish(stop))
    first = await story.join()
    frozen = await story.join()
    victim = await story.join()

    await first.leave()
    fourth = await story.join()

    await freeze_past_its_lease(story, frozen)

    await victim.freeze(story.folder)
    await victim.kill()
    fifth = await story.join()

    stop.set()
    await publishing
    audit = await story.drained()
    for worker in (frozen, fourth, fifth):
        await worker.leave()

    check_audit(story, audit)
    check_exact(story)
    check_noted(story, audit)


async def freeze_past_its_lease(story: Story, worker: Worker) -> None:
    """Stop it until others have its keys, and let it go on until it works as a new member."""
    recent = time.monotonic_ns() - 1_000_000_000
    await worker.freeze(story.folder)
    frozen_at = worker.frozen_at or 0
    keys = {note.key for note in story.of(worker, after=recent)}
    assert keys
    lapsed = frozen_at + int(LEASE.total_seconds() * 1e9)

    def taken_over() -> bool:
        return keys <= {note.key for note in notes(story.folder) if note.at > lapsed}

    await story.eventually(taken_over, f"others to take over {sorted(keys)}")
    before = {note.fence for note in story.of(worker)}
    worker.thaw()
    await story.eventually(
        lambda: not before.issuperset(note.fence for note in story.of(worker)),
        "the frozen process to come back",
    )


def check_audit(story: Story, audit: Audit) -> None:
    total = sum(story.published.values())
    assert audit.verdict == "balanced"
    assert {entry.group for entry in audit.entries} == {"noted", "exact"}
    for entry in audit.entries:
        assert entry.account is not None
        assert entry.account.accepted == total
        assert dict(entry.account.outcomes) == {"handled": total}
        assert entry.pending == 0


def check_exact(story: Story) -> None:
    """What was written through `tx`: each step of a key once, in order, whoever wrote it."""
    with closing(sqlite3.connect(story.folder / "ordered.db")) as database:
        rows = database.execute("SELECT key, seq, pid FROM effects ORDER BY n").fetchall()
    by_key = defaultdict(list)
    for key, seq, _ in rows:
        by_key[key].append(seq)
    assert by_key == {key: list(range(count)) for key, count in story.published.items()}
    assert {pid for _, _, pid in rows} == {worker.pid for worker in story.workers}


def check_noted(story: Story, audit: Audit) -> None:
    """What handlers did outside `tx`.

    A handler of a process that was frozen past its lease may finish what it had in hand: such
    late notes settle nothing, and only they may be out of place. Of all others, for each key: no
    two overlap, and after a step comes the next one, or an earlier one again.
    """
    everything = notes(story.folder)
    [(pid, (frozen_at, thawed_at))] = [(w.pid, w.spell) for w in story.workers if w.spell]
    lapsed = {note.fence for note in everything if note.pid == pid and note.at <= frozen_at}
    late = {id(note) for note in everything if note.fence in lapsed and note.at > thawed_at}
    by_key = defaultdict(list)
    for begin, end in spans(story, everything):
        if id(begin) in late:
            continue
        # What was running as it froze is over for the others once its lease is.
        by_key[begin.key].append((begin, frozen_at if id(end) in late else end.at))
    assert {key: max(begin.seq for begin, _ in found) + 1 for key, found in by_key.items()} == (
        story.published
    )
    for found in by_key.values():
        assert found[0][0].seq == 0
        for (before, end_at), (after, _) in pairwise(found):
            assert after.seq <= before.seq + 1, f"a step is missing between {before} and {after}"
            assert end_at <= after.at, f"two at once: {before} until {end_at}, and {after}"
    assert late, "the frozen process had nothing in hand"
    check_duplicates(everything, audit)


def spans(story: Story, everything: list[Note]) -> list[tuple[Note, Note]]:
    """Each beginning with its end, by the time of the beginning; SIGKILL ends everything."""
    running: dict[tuple[int, str, int], Note] = {}
    ends: dict[int, Note] = {}
    for note in everything:
        place = (note.pid, note.key, note.seq)
        if note.kind == "begin":
            assert place not in running, f"begun twice at once: {note}"
            running[place] = note
        else:
            ends[id(running.pop(place))] = note
    killed = {worker.pid: worker.killed_at for worker in story.workers}
    for begin in running.values():
        killed_at = killed[begin.pid]
        assert killed_at is not None, f"never ended: {begin}"
        ends[id(begin)] = replace(begin, kind="end", at=killed_at)
    return [(note, ends[id(note)]) for note in everything if note.kind == "begin"]


def check_duplicates(everything: list[Note], audit: Audit) -> None:
    """The audit counts at least the repetitions that handlers saw (what was handed out and not
    begun before its process died is one more that none saw)."""
    arrivals = {(note.key, note.seq, note.fence) for note in everything if note.kind == "begin"}
    messages = {(note.key, note.seq) for note in everything}
    [entry] = [entry for entry in audit.entries if entry.group == "noted"]
    assert entry.account is not None
    repeated = len(arrivals) - len(messages)
    assert 2 <= repeated <= entry.account.duplicates


async def test_fences_of_a_partition_grow_with_every_owner(tmp_path: Path) -> None:
    """Else a resource that remembers the highest fence refuses the rightful owner for ever."""
    async with road(tmp_path) as transport:
        seen: dict[str, list[int]] = defaultdict(list)

        async def own(consumer: Consumer) -> None:
            """Take the next eight messages of all keys, as far as they come to this consumer."""
            for delivery in await take(consumer, wait=SOON):
                seen[delivery.message.key or ""].append(delivery.fence or 0)
                await ack(consumer, [delivery])

        first = await join(transport, group(KEYED, order="key"), ordered=True)
        releasing = asyncio.create_task(_release(first))
        await publish(transport, range(8), KEYED, keys=8)
        await own(first)
        guest = await join(transport, group(KEYED, order="key"), ordered=True)
        await publish(transport, range(8), KEYED, keys=8)
        await own(guest)
        await own(first)
        await guest.close()
        await publish(transport, range(8), KEYED, keys=8)
        while any(len(fences) < 3 for fences in seen.values()):
            await own(first)
        releasing.cancel()
        assert any(len(set(fences)) > 1 for fences in seen.values()), "nothing moved"
        assert all(fences == sorted(fences) for fences in seen.values()), dict(seen)


async def _release(consumer: Consumer) -> None:
    """Let go of what is wanted elsewhere, at once."""
    async for notice in consumer.notices():
        if isinstance(notice, Revoking):
            await consumer.release(notice.partitions)
