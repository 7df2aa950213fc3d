"""Writers and consumers that are made to be killed:
`python -m tests.integration.apps.crashing writer|consumer FOLDER NUMBER SLOT SEED`.

Each note is one `write` to a file opened for appending: what a process noted before SIGKILL
stays, and a writer notes that a message is acknowledged only after the road has said so.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Literal, TypeAlias, Unpack

import msgspec
from msgspec import Struct

from postroad import Delivery, Postroad, Retry, Topic, Transaction
from postroad.app import SubscribeOptions

Kind: TypeAlias = Literal["ready", "try", "accepted", "begin", "end", "fail"]

KEYS_PER_WRITER = 4
INCARNATION = 1_000_000
"""A writer's sequence numbers begin at its process's number times this, so that a key's grow
whatever became of the last ones of the process before."""
PACE = 0.01
"""Seconds between two messages of a key, on the average."""
BACKLOG = 500
"""Writers wait while a group is that far behind: the kills must be able to end."""
LEASE = timedelta(seconds=1)
PATIENT = Retry(
    attempts=1000, crashes=1000, backoff="fixed", first=timedelta(milliseconds=30), hold=50
)
"""Whoever kills from outside may hit the same message alone again and again; it is no poison."""


class Step(Struct, frozen=True):
    """The message `seq` of a key."""

    key: str
    seq: int

    @property
    def stumbles(self) -> bool:
        return self.seq % 41 == 7


class Note(Struct, frozen=True, array_like=True):
    """What a process did, when, on the machine's monotonic clock in nanoseconds."""

    kind: Kind
    at: int
    step: Step | None = None
    group: str = ""
    attempts: int = 0
    number: int = 0


GROUPS = ("ordered", "loose", "exact")
ORDERED = ("ordered", "exact")
steps = Topic("steps", Step, key="key", partitions=8)
receipts = Topic("receipts", Step, key="key", partitions=2)


class Notes:
    """The notes of one process."""

    def __init__(self, folder: Path, number: int) -> None:
        self._number = number
        self._file = os.open(
            folder / f"{number}.notes", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600
        )

    def add(self, kind: Kind, *some: Step, group: str = "", attempts: int = 0) -> None:
        """Append a note for each step (or one for none), in one write."""
        now = time.monotonic_ns()
        notes = [Note(kind, now, step, group, attempts, self._number) for step in some or (None,)]
        os.write(self._file, b"".join(msgspec.json.encode(note) + b"\n" for note in notes))


def read_notes(path: Path) -> list[Note]:
    """The whole lines of a process's notes; what is not whole was not noted."""
    if not path.exists():
        return []
    decode = msgspec.json.Decoder(Note).decode
    return [decode(line) for line in path.read_bytes().rpartition(b"\n")[0].splitlines()]


def url(folder: Path) -> str:
    """The road of all processes. `busy` is generous because the machine may be busy elsewhere."""
    return f"sqlite:///{folder}/crashing.db?durability=full&busy=30s"


def settings(**more: Unpack[SubscribeOptions]) -> SubscribeOptions:
    """What all groups have, and more."""
    return {
        "start": "earliest",
        "lease": LEASE,
        "prefetch": 64,
        "retry": PATIENT,
        "concurrency": 8,
        **more,
    }


def make_road(folder: Path, notes: Notes, rng: random.Random) -> Postroad:
    """Three groups on one topic: in order, in any order, and effectively once."""
    road = Postroad(url(folder))

    @road.subscribe(steps, group="ordered", **settings(order="key"))
    async def ordered(step: Step, delivery: Delivery) -> None:
        notes.add("begin", step, group="ordered", attempts=delivery.attempts)
        await asyncio.sleep(rng.uniform(0, 0.02))
        notes.add("end", step, group="ordered")

    @road.subscribe(steps, group="loose", **settings())
    async def loose(step: Step, delivery: Delivery) -> None:
        notes.add("begin", step, group="loose", attempts=delivery.attempts)
        await asyncio.sleep(rng.uniform(0, 0.02))
        if step.stumbles and not delivery.attempts:
            notes.add("fail", step, group="loose")
            raise RuntimeError("stumbled")
        notes.add("end", step, group="loose")

    @road.subscribe(steps, group="exact", **settings(order="key", delivery="effectively-once"))
    async def exact(step: Step, delivery: Delivery, tx: Transaction) -> None:
        notes.add("begin", step, group="exact", attempts=delivery.attempts)
        await tx.execute("INSERT INTO effects (key, seq) VALUES (?, ?)", (step.key, step.seq))
        await tx.publish(receipts, step)
        notes.add("end", step, group="exact")

    return road


async def consume(folder: Path, notes: Notes, rng: random.Random) -> None:
    """Consume until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with make_road(folder, notes, rng) as road:
        notes.add("ready")
        await road.run(stop=stop)


async def write(folder: Path, notes: Notes, rng: random.Random, first: int, slot: int) -> None:
    """Publish to this slot's keys, each in order and all at once, until killed."""
    clear = asyncio.Event()
    async with Postroad(url(folder)) as road, asyncio.TaskGroup() as tasks:
        notes.add("ready")
        tasks.create_task(_regulate(road, clear))
        for number in range(KEYS_PER_WRITER):
            key = f"w{slot}-{number}"
            tasks.create_task(_write_key(road, notes, rng, clear, key, first))


async def _regulate(road: Postroad, clear: asyncio.Event) -> None:
    while True:
        behind = max((lag.messages or 0 for lag in await road.lag("steps")), default=0)
        if behind < BACKLOG:
            clear.set()
        else:
            clear.clear()
        await asyncio.sleep(0.1)


async def _write_key(
    road: Postroad, notes: Notes, rng: random.Random, clear: asyncio.Event, key: str, seq: int
) -> None:
    while True:
        await clear.wait()
        count = 1 if rng.random() < 0.9 else 5
        batch = [Step(key, seq + number) for number in range(count)]
        notes.add("try", *batch)
        await _publish(road, batch)
        notes.add("accepted", *batch)
        seq += count
        await asyncio.sleep(rng.uniform(0, 2 * PACE))


async def _publish(road: Postroad, batch: Iterable[Step]) -> None:
    first, *more = batch
    if more:
        await road.publish_many(steps, [first, *more])
    else:
        await road.publish(steps, first)


async def main(role: str, folder: Path, number: int, slot: int, seed: int) -> None:
    notes, rng = Notes(folder, number), random.Random(seed)
    if role == "writer":
        await write(folder, notes, rng, number * INCARNATION, slot)
    else:
        await consume(folder, notes, rng)


if __name__ == "__main__":
    role, folder, *numbers = sys.argv[1:]
    asyncio.run(main(role, Path(folder), *map(int, numbers)))
