"""A shop that charges cards: `python -m tests.integration.apps.charging ROAD DATABASE PROVIDER`.

It dies between the provider's answer and its own, as often as the file beside the database says.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from datetime import timedelta
from pathlib import Path

import httpx
from msgspec import Struct

from postroad import Delivery, Postroad, Topic, Transaction

GROUP = "payment"


class Order(Struct):
    number: int
    cents: int


ORDERS = Topic("orders", Order)


def make_road(road_url: str, database_url: str, provider: str, deaths: Path) -> Postroad:
    """The app."""
    road = Postroad(road_url, database=database_url, name="shop")

    @road.subscribe(
        ORDERS,
        group=GROUP,
        delivery="effectively-once",
        lease=timedelta(seconds=1),
        concurrency=1,
    )
    async def charge(order: Order, delivery: Delivery, tx: Transaction) -> None:
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.post(
                f"{provider}/charges",
                json={"order": order.number, "cents": order.cents},
                headers={"Idempotency-Key": delivery.idempotency_key},
            )
        receipt = answer.raise_for_status().json()["charge"]
        if _dies(deaths):
            os.kill(os.getpid(), signal.SIGKILL)
        await tx.execute("INSERT INTO paid VALUES (?, ?)", (order.number, receipt))

    return road


def _dies(deaths: Path) -> bool:
    """Whether there is a death left; each is died once."""
    try:
        next(deaths.iterdir()).unlink()
    except (StopIteration, FileNotFoundError):
        return False
    return True


async def main(road_url: str, database_url: str, provider: str, deaths: str) -> None:
    """Consume until a SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await make_road(road_url, database_url, provider, Path(deaths)).run(stop=stop)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
