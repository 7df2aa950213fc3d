"""What happens in the shop: facts, in the past tense, and the topics that carry them.

This file is what the services share. Each event carries all that its readers need, so that none
has to ask another service back.
"""

from __future__ import annotations

from typing import Self

from msgspec import Struct, structs

from postroad import Topic


class OrderEvent(Struct, frozen=True):
    """Something happened to an order."""

    order_id: int
    customer: str
    sku: str
    quantity: int
    cents: int

    @classmethod
    def after(cls, event: OrderEvent) -> Self:
        """The next event of the same order."""
        return cls(**structs.asdict(event))


class OrderPlaced(OrderEvent, frozen=True):
    """A customer has ordered."""


class PaymentCaptured(OrderEvent, frozen=True):
    """The order is paid."""


class StockReserved(OrderEvent, frozen=True):
    """The goods are put aside for the customer."""


class StockExhausted(OrderEvent, frozen=True):
    """There are not enough goods left. A fact like any other, and no error."""


orders_placed = Topic("orders.placed", OrderPlaced, key="order_id")
# Keyed by product: the last piece goes to whoever has paid first.
payments_captured = Topic("payments.captured", PaymentCaptured, key="sku")
stock_reserved = Topic("stock.reserved", StockReserved, key="order_id")
stock_exhausted = Topic("stock.exhausted", StockExhausted, key="order_id")
