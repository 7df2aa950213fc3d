"""Placing an order, and asking what became of it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, HTTPException
from pydantic import BaseModel, Field
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from examples.shop.database import readers, sessions
from examples.shop.events import OrderPlaced, orders_placed
from examples.shop.road import outbox
from examples.shop.tables import Order, Payment, Product, Reservation
from postroad.idempotency import unique

router = APIRouter()

# Your authentication says who it is; here a header does.
Customer = Annotated[str, Header(alias="X-Customer", min_length=3, max_length=200)]
Request = Annotated[str, Header(alias="Idempotency-Key", max_length=200)]


class NewOrder(BaseModel):
    """What a customer asks for."""

    sku: str
    quantity: int = Field(default=1, ge=1, le=100)


class OrderStatus(BaseModel):
    """What became of it: placed → paid → reserved, or → sold-out → refunded."""

    id: int
    sku: str
    quantity: int
    cents: int
    status: str


@router.post("/orders", status_code=201)
async def place(wanted: NewOrder, customer: Customer, request: Request) -> OrderStatus:
    """The order and its event are one commit: none is ever there without the other."""
    async with sessions() as session, session.begin():
        product = await session.get(Product, wanted.sku)
        if product is None:
            raise HTTPException(404, f"we do not sell {wanted.sku}")
        order = Order(
            customer=customer,
            request=request,
            sku=product.sku,
            quantity=wanted.quantity,
            cents=product.cents * wanted.quantity,
        )
        # The middleware answers repeated requests. This is for the one whose process died between
        # our commit and the middleware's: when it comes again, the order is here already.
        async with unique.once(session, "orders_once") as attempt:
            session.add(order)
        if attempt.repeated:
            order = await _placed_before(session, customer, request)
        else:
            await outbox.add(session, orders_placed, _event(order))
    return _view(order, "placed")


@router.get("/orders/{order_id}")
async def read(order_id: int, customer: Customer) -> OrderStatus:
    """What became of an order of the customer's own."""
    async with readers() as session:
        found = await session.execute(
            select(Order, Payment.status, Reservation.status)
            .outerjoin(Payment, Payment.order_id == Order.id)
            .outerjoin(Reservation, Reservation.order_id == Order.id)
            .where(Order.id == order_id, Order.customer == customer)
        )
        row = found.first()
    if row is None:
        raise HTTPException(404, "you have no such order")
    order, payment, reservation = row
    return _view(order, _status(payment, reservation))


async def _placed_before(session: AsyncSession, customer: str, request: str) -> Order:
    mine = select(Order).where(Order.customer == customer, Order.request == request)
    return (await session.scalars(mine)).one()


def _event(order: Order) -> OrderPlaced:
    return OrderPlaced(order.id, order.customer, order.sku, order.quantity, order.cents)


def _status(payment: str | None, reservation: str | None) -> str:
    if payment == "refunded":
        return payment
    return reservation or ("placed" if payment is None else "paid")


def _view(order: Order, status: str) -> OrderStatus:
    return OrderStatus(
        id=order.id, sku=order.sku, quantity=order.quantity, cents=order.cents, status=status
    )
