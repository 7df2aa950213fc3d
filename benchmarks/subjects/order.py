"""The event of every benchmark: an order of 200 bytes of JSON."""

from __future__ import annotations

import msgspec

from postroad import Topic


class Line(msgspec.Struct):
    """One line of an order."""

    sku: str
    quantity: int
    cents: int


class OrderCreated(msgspec.Struct):
    """An order was created."""

    order_id: int
    customer: str
    currency: str
    cents: int
    placed_at: str
    lines: list[Line]


TOPIC: Topic[OrderCreated] = Topic("orders.created", OrderCreated)
SIZE = 200


def order(number: int) -> OrderCreated:
    """The order of this number, below 900,000."""
    return OrderCreated(
        order_id=100_000 + number % 900_000,
        customer="adele",
        currency="EUR",
        cents=12_990,
        placed_at="2026-05-04T10:20:30Z",
        lines=[Line("A-1001", 2, 4_990), Line("B-2002", 1, 3_010)],
    )


def orders(count: int) -> list[OrderCreated]:
    """So many of them."""
    return [order(number) for number in range(count)]


def encoded(count: int) -> list[bytes]:
    """The same, as JSON.

    Raises:
        ValueError: they are not of the size that the benchmark is about.
    """
    found = [TOPIC.encode(one) for one in orders(count)]
    if any(len(one) != SIZE for one in found):
        raise ValueError(f"an order has {len(found[0])} bytes, not {SIZE}")
    return found
