"""What a handler may look like, and what an error says to one that does not fit."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Protocol, TypedDict, TypeVar

import pytest
from msgspec import Meta, Struct
from pydantic import BaseModel

from postroad import Batch, Delivery, Message, Subscription, Topic, Transaction
from postroad.delivery.handler import Handler, accepts, inspect_handler
from postroad.errors import HandlerTypeError

T = TypeVar("T")


class Order(Struct):
    n: int


class Express(Order):
    hours: int = 1


class Refund(Struct):
    n: int


class Row(TypedDict):
    n: int


class Model(BaseModel):
    n: int


@dataclasses.dataclass
class Plain:
    n: int


class HasNumber(Protocol):
    n: int


ORDERS: Topic[Order] = Topic("orders", Order)
BATCH = Batch(10)


def read(
    function: Callable[..., Any], source: Topic[Any] | str = ORDERS, batch: Batch | None = None
) -> Handler:
    return inspect_handler(function, Subscription(source=source, group="g", batch=batch))


def refused(*args: Any, **kwargs: Any) -> str:
    with pytest.raises(HandlerTypeError) as caught:
        read(*args, **kwargs)
    return str(caught.value)


async def takes_order(order: Order) -> None: ...
async def takes_refund(refund: Refund) -> None: ...
async def takes_list(orders: list[Order]) -> None: ...
async def takes_refunds(refunds: list[Refund]) -> None: ...
async def takes_message(message: Message) -> None: ...
async def takes_messages(messages: list[Message]) -> None: ...
async def takes_keyword(order: Order, *, note: str) -> None: ...
async def takes_all(
    order: Order, tx: Transaction, delivery: Delivery, message: Message
) -> None: ...


def test_what_is_read_off_a_signature() -> None:
    found = read(takes_all)
    assert (found.is_async, found.yields, found.wants_payload, found.wants_tx) == (
        True,
        False,
        True,
        True,
    )
    assert found.payload_type is Order
    assert found.extras == {"tx": Transaction, "delivery": Delivery, "message": Message}
    assert found.name == "takes_all"
    only = read(takes_message)
    assert not only.wants_payload
    assert not only.wants_tx


def test_kinds_of_functions() -> None:
    def plain(order: Order) -> None: ...
    def generator(order: Order) -> Iterator[Any]:
        yield

    async def async_generator(order: Order) -> AsyncIterator[Any]:
        yield

    class Machine:
        async def __call__(self, order: Order) -> None: ...
        async def method(self, order: Order) -> None: ...
        @staticmethod
        async def static(order: Order) -> None: ...
        @classmethod
        async def of_class(cls, order: Order) -> None: ...

    kinds = {plain: (False, False), generator: (False, True), async_generator: (True, True)}
    for function, (is_async, yields) in kinds.items():
        found = read(function)
        assert (found.is_async, found.yields, found.payload_type) == (is_async, yields, Order)
    instance = Machine()
    partial = functools.partial(takes_keyword, note="")
    for one in (instance, instance.method, instance.static, instance.of_class, partial):
        found = read(one)
        assert (found.is_async, found.payload_type) == (True, Order)
    assert read([].append).payload_type is None


@pytest.mark.parametrize(
    ("annotation", "payload"),
    [
        (Order, Order),
        (Order, Express),
        (object, Order),
        (Any, Order),
        (T, Order),
        (HasNumber, Order),
        (Order | Refund, Order),
        (Order | None, Order),
        (Order | Refund, Order | Refund),
        (Order | Refund | Plain, Order | Refund),
        (Row, Row),
        (dict, Row),
        (dict[str, Any], Row),
        (Mapping[str, Any], Row),
        (Mapping, dict),
        (dict[str, Any], dict),
        (dict, dict[str, int]),
        (list[int], list[int]),
        (Model, Model),
        (Plain, Plain),
        (int, Annotated[int, Meta(gt=0)]),
        (None, Order),
    ],
)
def test_an_annotation_that_fits(annotation: Any, payload: Any) -> None:
    assert accepts(annotation, payload)


@pytest.mark.parametrize(
    ("annotation", "payload"),
    [
        (Refund, Order),
        (Express, Order),
        (Refund | Plain, Order),
        (Order, Order | Refund),
        (Row, Order),
        (Row, dict),
        (Order, Row),
        (list[Order], Order),
        (list[str], list[int]),
        (dict, Model),
        (Model, Plain),
        (str, Annotated[int, Meta(gt=0)]),
    ],
)
def test_an_annotation_that_does_not(annotation: Any, payload: Any) -> None:
    assert not accepts(annotation, payload)


def test_the_error_names_handler_topic_and_both_types() -> None:
    text = refused(takes_refund)
    assert "takes_refund takes Refund, but topic 'orders' carries Order" in text
    for kind in (Row, Model, Plain):
        topic: Topic[Any] = Topic("other", kind)
        assert f"topic 'other' carries {kind.__name__}" in refused(takes_order, topic)


def test_the_error_names_methods_and_objects_in_full() -> None:
    class Office:
        async def method(self, refund: Refund) -> None: ...
        async def __call__(self, refund: Refund) -> None: ...

    assert "Office.method takes Refund" in refused(Office().method)
    assert "Office.__call__ takes Refund" in refused(Office())


def test_unions_are_shown_whole() -> None:
    async def handler(event: Refund | Plain) -> None: ...

    assert "Refund | " in refused(handler)


def test_batches_take_lists() -> None:
    assert read(takes_list, batch=BATCH).payload_type == list[Order]

    async def sequence(orders: Sequence[Order]) -> None: ...
    async def bare(orders: list) -> None: ...

    read(sequence, batch=BATCH)
    read(bare, batch=BATCH)
    assert "annotate it as list[Order]" in refused(takes_order, batch=BATCH)
    assert "takes Refund, but topic 'orders' carries Order" in refused(takes_refunds, batch=BATCH)
    assert "takes list[" in refused(takes_list)


def test_lists_of_envelopes_come_with_batches_only() -> None:
    found = read(takes_messages, batch=BATCH)
    assert found.extras == {"messages": Message}
    message = Message(id="1", type="t", source="s", data=b"", time_us=0)
    one = Delivery(message=message, topic="orders")
    assert found.extra_arguments([one], None) == {"messages": [message]}
    assert "annotate it as list[Message]" in refused(takes_message, batch=BATCH)
    assert "annotate it as Message" in refused(takes_messages)


def test_a_pattern_takes_any_payload() -> None:
    assert read(takes_refund, "orders.*").payload_type is Refund
    assert "gets a list" in refused(takes_refund, "orders.*", BATCH)


def test_parameters_that_nobody_fills() -> None:
    async def two(order: Order, customer: str) -> None: ...
    async def default(order: Order, customer: str = "") -> None: ...
    async def any_more(order: Order, *args: Any, **kwargs: Any) -> None: ...
    async def none() -> None: ...
    async def keyword(*, order: Order) -> None: ...
    async def positional(message: Message, /) -> None: ...

    assert "takes 'customer', which nobody fills" in refused(two)
    read(default)
    read(any_more)
    assert "takes no parameter" in refused(none)
    assert "no positional parameter" in refused(keyword)
    assert "takes 'message', which nobody fills" in refused(positional)


def test_annotations_that_cannot_be_resolved() -> None:
    async def handler(order: Missing) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    text = refused(handler)
    assert "Missing" in text
    assert "TYPE_CHECKING" in text
