"""A consumer of numbered messages that is killed: `python -m tests.integration.apps.sequenced
FOLDER`. It writes down what its handlers did, a line each; a kill does not take that back."""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import timedelta
from pathlib import Path

from msgspec import Struct

from postroad import Postroad, Sequence, Topic, Transaction


class Step(Struct):
    order: str
    number: int


steps: Topic[Step] = Topic("steps", Step, key="order", partitions=4)
LEASE = timedelta(seconds=1)
TABLE = "CREATE TABLE IF NOT EXISTS effects (place INTEGER PRIMARY KEY, name TEXT, number INTEGER)"


def make_road(folder: Path) -> Postroad:
    road = Postroad(f"sqlite:///{folder / 'road.db'}")
    notes = os.open(folder / "notes", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    wish = Sequence(gap=timedelta(seconds=20))

    @road.subscribe(steps, group="plain", order="key", start="earliest", lease=LEASE, sequence=wish)
    async def note(step: Step) -> None:
        await asyncio.sleep(0.001)
        os.write(notes, f"{os.getpid()} {step.order} {step.number}\n".encode())

    @road.subscribe(
        steps,
        group="once",
        order="key",
        start="earliest",
        lease=LEASE,
        sequence=wish,
        delivery="effectively-once",
    )
    async def apply(step: Step, tx: Transaction) -> None:
        await tx.execute(
            "INSERT INTO effects (name, number) VALUES (?, ?)", (step.order, step.number)
        )

    return road


if __name__ == "__main__":
    asyncio.run(make_road(Path(sys.argv[1])).run())
