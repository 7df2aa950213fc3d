"""Payment: an order is paid exactly once, however often its event arrives.

What goes through `tx` commits together with the record that the event was handled.
"""

from __future__ import annotations

from examples.shop.events import (
    OrderPlaced,
    PaymentCaptured,
    StockExhausted,
    orders_placed,
    payments_captured,
    stock_exhausted,
)
from examples.shop.road import LEASE, road
from postroad import Transaction


@road.subscribe(
    orders_placed, group="payment", delivery="effectively-once", start="earliest", lease=LEASE
)
async def capture(order: OrderPlaced, tx: Transaction) -> None:
    """Take the money. A real provider is outside of the transaction: give it
    `delivery.idempotency_key`, so that it does not charge twice if we die before the commit."""
    await tx.execute(
        "INSERT INTO payments (order_id, cents, status) VALUES (?, ?, 'captured')",
        (order.order_id, order.cents),
    )
    await tx.publish(payments_captured, PaymentCaptured.after(order))


@road.subscribe(
    stock_exhausted, group="payment", delivery="effectively-once", start="earliest", lease=LEASE
)
async def refund(order: StockExhausted, tx: Transaction) -> None:
    """Give it back."""
    await tx.execute(
        "UPDATE payments SET status = 'refunded' WHERE order_id = ?", (order.order_id,)
    )
