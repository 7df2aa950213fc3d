"""A shop's table of orders on each kind of database, and pollers of it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from postroad.core.delivery import Delivery, Settlement
from postroad.core.subscription import Subscription
from postroad.core.transport import Consumer, Plan
from postroad.transports.polling import PollingSource
from postroad.transports.polling.transport import PollingTransport
from tests.integration.idempotency_databases import Kind

ORDERS = """CREATE TABLE orders (
    id INTEGER NOT NULL PRIMARY KEY,
    customer VARCHAR(50) NOT NULL,
    total DECIMAL(10, 2) NOT NULL,
    status VARCHAR(20) NOT NULL,
    worker VARCHAR(20),
    placed DOUBLE PRECISION NOT NULL
)"""
PATIENCE = 15.0
_BYTES = 1 << 20


def source(**changes: Any) -> PollingSource:
    """Orders that are to be shipped."""
    fields: dict[str, Any] = {
        "table": "orders",
        "where": "status = 'ready_to_ship'",
        "claim": {"status": "shipping"},
        "done": {"status": "shipped"},
        "failed": {"status": "stuck"},
        "every": timedelta(milliseconds=20),
    }
    return PollingSource(**(fields | changes))


def fill(kind: Kind, count: int, status: str = "ready_to_ship") -> None:
    """So many orders, numbered from 1."""
    fill_from(kind, 1, count, status)


def fill_from(kind: Kind, first: int, count: int, status: str = "ready_to_ship") -> None:
    """So many orders, numbered from `first`."""
    with kind.transaction() as connection:
        for number in range(first, first + count):
            kind.execute(
                connection,
                "INSERT INTO orders (id, customer, total, status, placed) VALUES (?, ?, ?, ?, ?)",
                (number, f"customer {number}", "9.90", status, time.time()),
            )


def statuses(kind: Kind) -> dict[Any, str]:
    """Order → status."""
    return dict(rows(kind, "SELECT id, status FROM orders ORDER BY id"))


def rows(kind: Kind, text: str) -> list[Any]:
    with kind.transaction() as connection:
        return [tuple(row) for row in kind.execute(connection, text).fetchall()]


def update(kind: Kind, text: str, *values: Any) -> None:
    """What somebody else does to the table."""
    with kind.transaction() as connection:
        kind.execute(connection, text, values)


@asynccontextmanager
async def polling(kind: Kind, polled: PollingSource | None = None) -> AsyncIterator[Any]:
    """An open transport."""
    polled = polled or source()
    transport = PollingTransport(polled, kind.url)
    await transport.open([], [Subscription(source=polled.topic, group="shipping")])
    try:
        yield transport
    finally:
        await transport.close()


async def join(transport: PollingTransport, lease: float = 30.0) -> Consumer:
    """A member of the group."""
    wanted = Subscription(source=transport.source.topic, group="shipping")
    subscription = transport.source.subscription(wanted)
    return await transport.subscribe(subscription, Plan(lease=timedelta(seconds=lease)))


async def take(consumer: Consumer, count: int, limit: int = 1000) -> list[Delivery]:
    """Exactly so many deliveries."""
    found: list[Delivery] = []
    deadline = time.monotonic() + PATIENCE
    while len(found) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count} came"
        most = min(limit, count - len(found))
        found += await consumer.receive(most, _BYTES, timedelta(milliseconds=100))
    return found


async def nothing(consumer: Consumer, seconds: float = 0.2) -> bool:
    """Whether nothing comes."""
    return not await consumer.receive(10, _BYTES, timedelta(seconds=seconds))


async def answer(
    consumer: Consumer, deliveries: Sequence[Delivery], action: Any = "ack", **more: Any
) -> list[str]:
    return list(await consumer.settle([Settlement(one, action, **more) for one in deliveries]))


def keys(deliveries: Sequence[Delivery]) -> list[int]:
    return sorted(int(delivery.message.key or 0) for delivery in deliveries)
