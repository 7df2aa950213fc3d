"""The warehouse: puts goods aside for what is paid, one order of a product after the other.

An empty shelf is no exception: nothing is retried, nobody is paged. It is a decision, and the rest
of the shop hears of it as an event.
"""

from __future__ import annotations

from examples.shop.events import (
    PaymentCaptured,
    StockExhausted,
    StockReserved,
    payments_captured,
    stock_exhausted,
    stock_reserved,
)
from examples.shop.road import LEASE, road
from postroad import Transaction


@road.subscribe(
    payments_captured,
    group="warehouse",
    order="key",  # the key is the product; different products go in parallel
    delivery="effectively-once",
    start="earliest",
    lease=LEASE,
)
async def reserve(order: PaymentCaptured, tx: Transaction) -> None:
    """Put the goods aside, or say that there are not enough."""
    if await _take(order, tx):
        await _decide(order, "reserved", tx)
        await tx.publish(stock_reserved, StockReserved.after(order))
    else:
        await _decide(order, "sold-out", tx)
        await tx.publish(stock_exhausted, StockExhausted.after(order))


async def _take(order: PaymentCaptured, tx: Transaction) -> bool:
    changed = await tx.execute(
        "UPDATE stock SET reserved = reserved + ? WHERE sku = ? AND quantity - reserved >= ?",
        (order.quantity, order.sku, order.quantity),
    )
    return changed == 1


async def _decide(order: PaymentCaptured, status: str, tx: Transaction) -> None:
    await tx.execute(
        "INSERT INTO reservations (order_id, sku, quantity, status) VALUES (?, ?, ?, ?)",
        (order.order_id, order.sku, order.quantity, status),
    )
