"""Notifications: a mail for what became of an order.

Mail is outside of every transaction, so it goes out at least once. A provider that is down costs
attempts; after the last one the mail is a dead letter, which `postroad dead-letters` shows and
redrives. All other customers get theirs meanwhile.
"""

from __future__ import annotations

from datetime import timedelta

from examples.shop.events import (
    OrderEvent,
    StockExhausted,
    StockReserved,
    stock_exhausted,
    stock_reserved,
)
from examples.shop.mail import Mail, MailProviderDown, provider
from examples.shop.road import LEASE, road
from postroad import Delivery, Retry

_patient = Retry(
    attempts=5,
    first=timedelta(milliseconds=200),
    longest=timedelta(seconds=30),
    on=(MailProviderDown,),  # what is a mistake of ours is dead at once: no retry cures it
)


@road.subscribe(
    stock_reserved, group="notifications", retry=_patient, start="earliest", lease=LEASE
)
async def tell_reserved(order: StockReserved, delivery: Delivery) -> None:
    """The goods are on their way."""
    await _send(order, delivery, f"{order.quantity} × {order.sku} will be with you soon")


@road.subscribe(
    stock_exhausted, group="notifications", retry=_patient, start="earliest", lease=LEASE
)
async def tell_sold_out(order: StockExhausted, delivery: Delivery) -> None:
    """There were none left."""
    await _send(order, delivery, f"{order.sku} is sold out; your money is on its way back")


async def _send(order: OrderEvent, delivery: Delivery, subject: str) -> None:
    # The key stays the same over retries, crashes and redrives: a provider that honours it sends
    # one mail for it, even if we die between its answer and our acknowledgement.
    mail = Mail(delivery.idempotency_key, order.customer, order.order_id, subject)
    await provider.send(mail)
