"""One database for everything: the road's own, named as the business database too."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

from msgspec import Struct

from postroad import Outbox, Postroad, Topic


class Order(Struct):
    number: int


orders = Topic("orders.created", Order, key="number")


async def test_its_outbox_is_relayed_while_the_road_consumes(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shop.db"
    road, outbox = Postroad(url, database=url), Outbox()
    mailed: asyncio.Queue[int] = asyncio.Queue()

    @road.subscribe(orders, group="mail")
    async def mail(order: Order) -> None:
        mailed.put_nowait(order.number)

    async with road:
        running = asyncio.create_task(road.run())
        with sqlite3.connect(tmp_path / "shop.db") as connection:
            connection.execute("BEGIN")
            outbox.add(connection, orders, Order(7))
        assert await asyncio.wait_for(mailed.get(), 20) == 7
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
