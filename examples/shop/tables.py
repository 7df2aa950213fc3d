"""The business tables. Each says which part of the shop writes it; the others only read."""

from __future__ import annotations

from sqlalchemy import CheckConstraint, ForeignKey, String, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """The tables of the shop."""


class Product(Base):
    """What is sold. Written by nobody here."""

    __tablename__ = "products"

    sku: Mapped[str] = mapped_column(String(40), primary_key=True)
    cents: Mapped[int]


class Order(Base):
    """Written by the API."""

    __tablename__ = "orders"
    # One order for one request of a customer, whatever happens to its answer.
    __table_args__ = (UniqueConstraint("customer", "request", name="orders_once"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[str] = mapped_column(String(200))
    request: Mapped[str] = mapped_column(String(200))
    sku: Mapped[str] = mapped_column(ForeignKey("products.sku"))
    quantity: Mapped[int]
    cents: Mapped[int]


class Payment(Base):
    """Written by payment. There is no constraint that forbids a second payment of an order: it
    is the consumer's guarantee that does."""

    __tablename__ = "payments"

    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(index=True)
    cents: Mapped[int]
    status: Mapped[str] = mapped_column(String(10))


class Stock(Base):
    """Written by the warehouse."""

    __tablename__ = "stock"
    __table_args__ = (CheckConstraint("reserved BETWEEN 0 AND quantity", name="stock_is_there"),)

    sku: Mapped[str] = mapped_column(String(40), primary_key=True)
    quantity: Mapped[int]
    reserved: Mapped[int] = mapped_column(default=0)


class Reservation(Base):
    """Written by the warehouse: its decision on an order."""

    __tablename__ = "reservations"

    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(index=True)
    sku: Mapped[str] = mapped_column(String(40))
    quantity: Mapped[int]
    status: Mapped[str] = mapped_column(String(10))
