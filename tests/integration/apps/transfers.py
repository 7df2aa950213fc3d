"""A bank that moves money once: `python -m tests.integration.apps.transfers ROAD DATABASE`.

The table of what was applied has no unique key: what is applied twice is there twice.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from datetime import timedelta

from msgspec import Struct

from postroad import Postroad, Topic, Transaction

ACCOUNTS = 200
OPENING = 1_000
GROUP = "bank"
TABLES = (
    "CREATE TABLE accounts (id INTEGER PRIMARY KEY, balance BIGINT NOT NULL)",
    "CREATE TABLE applied (transfer INTEGER NOT NULL)",
)
_MOVE = """
UPDATE accounts SET balance = balance + CASE WHEN id = ?1 THEN -?2 ELSE ?2 END
WHERE id IN (?1, ?3)
"""
_LOCK = "SELECT id FROM accounts WHERE id IN (?, ?) ORDER BY id FOR UPDATE"


class Transfer(Struct):
    number: int
    source: int
    target: int
    amount: int


TRANSFERS = Topic("transfers", Transfer)


def make_road(road_url: str, database_url: str) -> Postroad:
    """The app; both URLs may be the same."""
    own = road_url == database_url
    road = Postroad(road_url, database=None if own else database_url, name="bank")
    on_file = database_url.startswith("sqlite:")

    @road.subscribe(
        TRANSFERS,
        group=GROUP,
        delivery="effectively-once",
        lease=timedelta(seconds=2),
        concurrency=4 if on_file else 10,
    )
    async def apply(transfer: Transfer, tx: Transaction) -> None:
        pair = (transfer.source, transfer.target)
        if not on_file:  # two transfers between the same accounts would wait in a circle
            await tx.fetch(_LOCK, pair)
        await tx.execute(_MOVE, (transfer.source, transfer.amount, transfer.target))
        await tx.execute("INSERT INTO applied VALUES (?)", (transfer.number,))

    return road


async def main(road_url: str, database_url: str) -> None:
    """Consume until a SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await make_road(road_url, database_url).run(stop=stop)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
