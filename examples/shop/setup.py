"""`python -m examples.shop.setup` creates the tables and fills the shelves: once, as a step of a
release. It can be run again."""

from __future__ import annotations

import asyncio

from sqlalchemy import select

from examples.shop.consumers import road
from examples.shop.database import engine, sessions
from examples.shop.tables import Base, Product, Stock

_SHELVES = {"tea": (450, 1000), "coffee": (690, 1000), "teapot": (4900, 5)}
"""SKU → price in cents, pieces."""


async def setup() -> None:
    """Make what is missing."""
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with sessions() as session, session.begin():
        known = set(await session.scalars(select(Product.sku)))
        for sku, (cents, quantity) in _SHELVES.items():
            if sku not in known:
                session.add_all([Product(sku=sku, cents=cents), Stock(sku=sku, quantity=quantity)])
    async with road:  # creates the outbox, the topics, and every group at its start
        pass


async def _main() -> None:
    await setup()
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(_main())
