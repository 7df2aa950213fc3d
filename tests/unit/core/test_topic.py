"""Topics: names, keys, envelopes and options."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypedDict

import attrs
import msgspec
import pydantic
import pytest

from postroad.core.topic import DEFAULT_PARTITIONS, Options, Retention, Topic
from postroad.errors import DeclarationError, EncodeError, PayloadTooLargeError

NOW = 1_700_000_000_000_000


class Order(msgspec.Struct):
    number: int
    customer: str | None = None


class Special(Order):
    note: str = ""


@dataclass
class DataOrder:
    number: int


class DictOrder(TypedDict):
    number: int


@attrs.define
class AttrsOrder:
    number: int


class PydanticOrder(pydantic.BaseModel):
    number: int


@pytest.mark.parametrize("name", ["orders", "orders.created", "a-b_c.1", "x" * 200])
def test_good_names(name: str) -> None:
    assert Topic(name, Order).name == name


@pytest.mark.parametrize(
    "name", ["", ".", "a.", ".a", "a..b", "a b", "orders.*", "#", "a/b", "ä", "a\n", "x" * 201]
)
def test_bad_names(name: str) -> None:
    with pytest.raises(DeclarationError, match="topic name"):
        Topic(name, Order)


@pytest.mark.parametrize(
    ("payload_type", "payload"),
    [
        (Order, Order(7)),
        (Special, Special(7)),
        (DataOrder, DataOrder(7)),
        (DictOrder, {"number": 7}),
        (dict, {"number": 7}),
        (AttrsOrder, AttrsOrder(7)),
        (PydanticOrder, PydanticOrder(number=7)),
    ],
)
def test_a_key_is_read_from_a_field(payload_type: Any, payload: Any) -> None:
    topic = Topic("orders", payload_type, key="number")
    message = topic.envelope(payload, NOW, "shop")
    assert message.key == "7"
    assert topic.decode(message.data) == payload


@pytest.mark.parametrize("payload_type", [Order, DataOrder, DictOrder, AttrsOrder, PydanticOrder])
def test_a_key_that_is_no_field_is_refused(payload_type: Any) -> None:
    with pytest.raises(DeclarationError, match="number"):
        Topic("orders", payload_type, key="nummer")


def test_a_key_may_be_a_property_or_a_function() -> None:
    class Named(msgspec.Struct):
        number: int

        @property
        def label(self) -> str:
            return f"#{self.number}"

    assert Topic("a", Named, key="label").key_of(Named(7)) == "#7"
    assert Topic("a", Order, key=lambda order: order.number % 2).key_of(Order(7)) == "1"


def test_a_key_of_none_is_no_key() -> None:
    topic = Topic("orders", Order, key="customer")
    assert topic.envelope(Order(1), NOW, "shop").key is None
    assert topic.envelope(Order(1, ""), NOW, "shop").key == ""


def test_a_payload_without_the_key_is_unencodable() -> None:
    with pytest.raises(EncodeError, match="no key"):
        Topic("orders", dict, key="number").envelope({"other": 1}, NOW, "shop")


@pytest.mark.parametrize("key_error", [KeyError, AttributeError, TypeError])
def test_a_key_function_that_fails_makes_the_payload_unencodable(
    key_error: type[Exception],
) -> None:
    def key(order: Order) -> str:
        raise key_error("secret")

    with pytest.raises(EncodeError) as caught:
        Topic("orders", Order, key=key).envelope(Order(1), NOW, "shop")
    assert "secret" not in str(caught.value)


def test_partitions_follow_the_key() -> None:
    assert Topic("a", Order).partition_count == 1
    assert Topic("a", Order, key="number").partition_count == DEFAULT_PARTITIONS
    assert Topic("a", Order, key="number", partitions=3).partition_count == 3


@pytest.mark.parametrize("partitions", [0, -1, 1025])
def test_impossible_partitions_are_refused(partitions: int) -> None:
    with pytest.raises(DeclarationError, match="1 … 1024"):
        Topic("a", Order, partitions=partitions)


def test_the_envelope_states_the_fact() -> None:
    message = Topic("orders.created", Order).envelope(Order(1), NOW, "shop")
    assert (message.type, message.source, message.time_us) == ("orders.created", "shop", NOW)
    assert message.data == b'{"number":1,"customer":null}'
    assert message.content_type == "application/json"
    other = Topic("orders.created", Order, source="billing").envelope(Order(1), NOW, "shop")
    assert other.source == "billing"


def test_options_reach_the_envelope() -> None:
    topic = Topic("orders", Order, key="number")
    at = datetime(2024, 1, 1, tzinfo=UTC)
    options = Options(
        key="",
        headers={"region": "eu"},
        id="mine",
        subject="order/1",
        time=at,
        delay=timedelta(seconds=1),
        expires_in=timedelta(seconds=2),
        priority=9,
        correlation_id="c",
        causation_id="d",
        traceparent="t",
    )
    message = topic.envelope_with(Order(1), options, NOW, "shop")
    assert (message.key, message.headers, message.id) == ("", {"region": "eu"}, "mine")
    assert (message.subject, message.time, message.priority) == ("order/1", at, 9)
    assert message.deliver_at_us == NOW + 1_000_000
    assert message.expires_at_us == NOW + 2_000_000
    assert (message.correlation_id, message.causation_id, message.traceparent) == ("c", "d", "t")
    plain = topic.envelope_with(Order(1), Options(deliver_at=at, expires_at=at), NOW, "shop")
    assert plain.key == "1"
    assert plain.deliver_at == plain.expires_at == at


@pytest.mark.parametrize(
    "wrong",
    [
        {"priority": 10},
        {"priority": -1},
        {"delay": timedelta(1), "deliver_at": datetime(2024, 1, 1, tzinfo=UTC)},
        {"expires_in": timedelta(1), "expires_at": datetime(2024, 1, 1, tzinfo=UTC)},
    ],
)
def test_contradicting_options_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(DeclarationError):
        Options(**wrong)


def test_a_naive_instant_is_refused() -> None:
    with pytest.raises(ValueError, match="aware"):
        Options(deliver_at=datetime(2024, 1, 1)).deliver_at_us(NOW)  # noqa: DTZ001


def test_an_oversized_payload_is_refused_to_the_byte() -> None:
    exact = Topic("a", str, max_payload=12)
    assert len(exact.envelope("x" * 10, NOW, "s").data) == 12
    with pytest.raises(PayloadTooLargeError, match="13 bytes"):
        exact.envelope("x" * 11, NOW, "s")


@pytest.mark.parametrize("wrong", [{"age": timedelta(0)}, {"size": 0}, {"size": -1}])
def test_impossible_retention_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(DeclarationError, match="positive"):
        Retention(**wrong)


def test_a_topic_without_room_is_refused() -> None:
    with pytest.raises(DeclarationError, match="max_payload"):
        Topic("a", Order, max_payload=0)


def test_an_outgoing_message_keeps_its_topic_and_options() -> None:
    topic = Topic("a", Order)
    options = Options(priority=3)
    outgoing = topic.message(Order(1), options)
    assert (outgoing.topic, outgoing.payload, outgoing.options) == (topic, Order(1), options)
