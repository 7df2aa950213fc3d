"""A disk that is full for a while, under load: refusals of our own, nothing lost, no restart."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
from msgspec import Struct

from postroad import Postroad, Topic, Transaction
from postroad.errors import PublishError, StorageError, StorageFullError

DISK = 12 << 20
FILLER = 8 << 20
"""Bytes of the disk that somebody else takes, and gives back later."""
PUBLISHERS = 8
LEASE = timedelta(seconds=1)


class Order(Struct):
    id: str
    text: str = "x" * 2000


late = Topic("late", Order)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with little room."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(place)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a small file system can be mounted by root only")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@dataclass
class Load:
    """Publishers that never give up, and consumers; with what they saw."""

    url: str
    accepted: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    causes: list[Exception] = field(default_factory=list)
    handled: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.stop = asyncio.Event()
        self.orders = Topic("orders", Order)
        self.road = Postroad(self.url)
        self.consumers = Postroad(self.url)

        @self.consumers.subscribe(self.orders, group="plain", start="earliest", lease=LEASE)
        async def plain(order: Order) -> None:
            self.handled[order.id] += 1

        @self.consumers.subscribe(
            self.orders,
            group="exact",
            start="earliest",
            lease=LEASE,
            delivery="effectively-once",
        )
        async def exact(order: Order, tx: Transaction) -> None:
            await tx.execute("INSERT INTO effects VALUES (?)", (order.id,))

    async def publish(self, publisher: int) -> None:
        """One after the other, until told to stop; what fails is not tried again."""
        number = 0
        while not self.stop.is_set():
            order = Order(f"{publisher}-{number}")
            number += 1
            try:
                await self.road.publish(self.orders, order)
            except PublishError as error:
                self.causes += [*error.failed.values(), *error.unknown.values()]
                (self.refused if error.failed else self.unknown).append(order.id)
                await asyncio.sleep(0.02)
            else:
                self.accepted.append(order.id)
                await asyncio.sleep(0.002)


async def reach(condition: Callable[[], bool]) -> None:
    """Wait until it is true."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - others make it true
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("durability", ["full", "normal"])
async def test_a_full_disk_refuses_loses_nothing_and_goes_on(
    small_disk: Path, durability: str
) -> None:
    """Publishers get a `PublishError` whose causes say that the disk is full, and that nothing
    of theirs was accepted; consumers wait, past their leases. Once there is room again, the
    same objects go on: every message accepted is handled, and none that was refused."""
    filler = small_disk / "filler"
    load = Load(f"sqlite:///{small_disk}/shop.db?durability={durability}")
    async with load.consumers, load.road:
        await asyncio.to_thread(make_room_scarce, filler, small_disk / "shop.db")
        async with load.consumers.consuming():
            async with asyncio.TaskGroup() as tasks:
                for publisher in range(PUBLISHERS):
                    tasks.create_task(load.publish(publisher))
                await reach(lambda: len(load.refused) >= 50)
                await a_lease_ago()
                await refused_topic(load.road)
                before = len(load.accepted)
                assert before > 0
                filler.unlink()
                await reach(lambda: len(load.accepted) > before + 200)
                load.stop.set()
            async with asyncio.timeout(60):
                await load.consumers.settled("orders")
        await load.road.publish(late, Order("late"))
        audit = await load.road.audit("orders")
        kept = await kept_ids(load)
    assert set(map(type, load.causes)) <= {StorageFullError, StorageError}
    assert audit.verdict == "balanced"
    assert [entry.pending for entry in audit.entries] == [0, 0]
    assert set(load.accepted) <= set(kept)
    assert not set(load.refused) & set(kept)
    assert set(kept) == set(load.handled)
    assert (Counter(kept), "ok") == effects_and_soundness(small_disk / "shop.db")
    duplicates = {entry.group: entry.account.duplicates for entry in audit.entries if entry.account}
    assert load.handled.total() - len(kept) <= duplicates["plain"]
    print(
        f"{durability}: {len(kept)} messages, {len(load.accepted)} accepted, "
        f"{len(load.refused)} refused, {len(load.unknown)} of unknown fate; 0 lost; "
        f"duplicates {duplicates}"
    )


def make_room_scarce(filler: Path, database: Path) -> None:
    """And the table of the effects, while there is room."""
    with closing(sqlite3.connect(database, timeout=30)) as connection, connection:
        connection.execute("CREATE TABLE effects (id TEXT)")
    filler.write_bytes(bytes(FILLER))


async def a_lease_ago() -> None:
    """Let so much time pass that every lease which was not renewed is over."""
    await asyncio.sleep(1.5 * LEASE.total_seconds())


async def refused_topic(road: Postroad) -> None:
    """One more topic cannot be made now; that must not close the road on the others."""
    with pytest.raises(StorageFullError, match="no room left on the disk"):
        await road.publish(late, Order("early"))


async def kept_ids(load: Load) -> list[str]:
    found = await load.road.browse("orders", limit=1_000_000)
    return [load.orders.decode(delivery.message.data).id for delivery in found]


def effects_and_soundness(database: Path) -> tuple[Counter[str], str]:
    with closing(sqlite3.connect(database)) as connection:
        effects = Counter(row[0] for row in connection.execute("SELECT id FROM effects"))
        return effects, connection.execute("PRAGMA integrity_check").fetchone()[0]
