"""An app whose handlers note, in order, when they began and ended on each message of each key.

`POSTROAD_TEST_FOLDER` names the folder of its database and of its notes, one file a process.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from datetime import timedelta
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from postroad import Delivery, Postroad, Retry, Topic, Transaction

LEASE = timedelta(seconds=2)
PARTITIONS = 12


class Step(Struct):
    """The n-th message of a key; some of them fail at first."""

    key: str
    seq: int

    @property
    def stumbles(self) -> bool:
        return self.seq % 29 == 7


class Note(Struct):
    """What a handler did, and when, on the machine's monotonic clock in nanoseconds."""

    kind: Literal["begin", "end", "fail"]
    key: str
    seq: int
    pid: int
    fence: int
    attempt: int
    at: int


steps = Topic("steps", Step, key="key", partitions=PARTITIONS)


class Notes:
    """Appends to a file of this process: a note that is written survives SIGKILL."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = -1

    def add(self, kind: Literal["begin", "end", "fail"], step: Step, delivery: Delivery) -> None:
        if self._file < 0:
            path = self._folder / f"{os.getpid()}.notes"
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        note = Note(
            kind,
            step.key,
            step.seq,
            os.getpid(),
            delivery.fence or 0,
            delivery.attempts,
            time.monotonic_ns(),
        )
        os.write(self._file, msgspec.json.encode(note) + b"\n")


def notes(folder: Path) -> list[Note]:
    """The notes of all processes by time; a last line that is not whole is not there yet."""
    decode = msgspec.json.Decoder(Note).decode
    found = [
        decode(line)
        for path in folder.glob("*.notes")
        for line in path.read_bytes().rpartition(b"\n")[0].splitlines()
    ]
    return sorted(found, key=lambda note: note.at)


def make_road(folder: Path) -> Postroad:
    """The app on a database in this folder."""
    road = Postroad(f"sqlite:///{folder}/ordered.db?durability=normal&busy=20s")
    book = Notes(folder)

    @road.subscribe(
        steps,
        group="noted",
        order="key",
        start="earliest",
        concurrency=8,
        lease=LEASE,
        retry=Retry(attempts=5, backoff="fixed", first=timedelta(milliseconds=30)),
    )
    async def note(step: Step, delivery: Delivery) -> None:
        book.add("begin", step, delivery)
        await asyncio.sleep(random.uniform(0, 0.06))
        if step.stumbles and not delivery.attempts:
            book.add("fail", step, delivery)
            raise RuntimeError("stumbled")
        book.add("end", step, delivery)

    @road.subscribe(
        steps,
        group="exact",
        order="key",
        start="earliest",
        concurrency=8,
        lease=LEASE,
        delivery="effectively-once",
    )
    async def effect(step: Step, delivery: Delivery, tx: Transaction) -> None:
        await asyncio.sleep(random.uniform(0, 0.01))
        values = (step.key, step.seq, os.getpid())
        await tx.execute("INSERT INTO effects (key, seq, pid) VALUES (?, ?, ?)", values)

    return road


road = make_road(Path(os.environ.get("POSTROAD_TEST_FOLDER", ".")))
