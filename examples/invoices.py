"""An order is charged in effect once, and then invoiced: no server, one file.

    python -m examples.invoices                        publishes three orders and handles them here
    postroad run examples.invoices:road --workers 4    handles them in processes of their own
    postroad explain examples.invoices:road            what is guaranteed, and by whom

It prints:

    invoice for ada: 9.90
    invoice for bob: 20.00
    invoice for ada: 5.10
    balanced
"""

import asyncio
from decimal import Decimal

from msgspec import Struct

from postroad import Postroad, Retry, Topic, Transaction


class OrderCreated(Struct):
    order_id: int
    customer: str
    total: Decimal


class OrderCharged(Struct):
    order_id: int
    customer: str
    total: Decimal


orders_created = Topic("orders.created", OrderCreated, key="customer")
orders_charged = Topic("orders.charged", OrderCharged, partitions=1)

road = Postroad("sqlite:///invoices.db")


@road.subscribe(
    orders_created,
    group="payment",
    order="key",  # a customer's orders one after the other, different customers in parallel
    concurrency=32,
    retry=Retry(attempts=8),
    delivery="effectively-once",  # what goes through tx commits with the message, or not at all
)
async def charge(order: OrderCreated, tx: Transaction) -> None:
    await tx.execute("CREATE TABLE IF NOT EXISTS charges (order_id INTEGER, total TEXT)")
    await tx.execute("INSERT INTO charges VALUES (?, ?)", (order.order_id, str(order.total)))
    await tx.publish(orders_charged, OrderCharged(order.order_id, order.customer, order.total))


@road.subscribe(orders_charged, group="invoicing", order="total")
def send_invoice(order: OrderCharged) -> None:  # a plain function runs in a thread
    print(f"invoice for {order.customer}: {order.total}")


async def main() -> None:
    orders = [
        OrderCreated(1, "ada", Decimal("9.90")),
        OrderCreated(2, "bob", Decimal("20.00")),
        OrderCreated(3, "ada", Decimal("5.10")),
    ]
    async with road.consuming():
        for order in orders:
            await road.publish(orders_created, order)
            while any(lag.messages for lag in await road.lag()):
                await asyncio.sleep(0.01)
        print((await road.audit()).verdict)


if __name__ == "__main__":
    asyncio.run(main())
