"""No password of a URL and no text of a payload reaches a log through an error or a repr."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import traceback
import warnings
from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, TypedDict

import attrs
import pydantic
import pytest
from msgspec import Struct

from postroad import Hooks, Postroad, Topic
from postroad.app import mask
from postroad.core.delivery import Delivery, Failure, Settlement
from postroad.core.subscription import Subscription
from postroad.errors import DeclarationError, PayloadError, PostroadError

SECRET = "hunter2"


def told(error: BaseException) -> str:
    """Everything of an error that a log may show."""
    return f"{error} {error!r} {''.join(traceback.format_exception(error))}"


# --- URLs ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("amqp://ada:hunter2@host/shop", "amqp://ada:***@host/shop"),
        ("redis://:hunter2@host", "redis://:***@host"),
        ("amqp://ada:hunter2@[::1/shop", "amqp://ada:***@[::1/shop"),
        ("amqp://ada:hun/ter2hunter2@host", "amqp://ada:***@host"),
        ("amqp://ada:p@hunter2@host", "amqp://ada:***@host"),
        ("amqp:ada:hunter2@host", "amqp:***@host"),
        ("sqs://host?secret_key=hunter2&region=eu", "sqs://host?secret_key=***&region=eu"),
        ("kafka://host?sasl_password=hunter2", "kafka://host?sasl_password=***"),
        ("sqlite:///shop.db?durability=full", "sqlite:///shop.db?durability=full"),
        ("kafka://one:9092,two:9092/?acks=all", "kafka://one:9092,two:9092/?acks=all"),
    ],
)
def test_a_masked_url_shows_all_but_its_secrets(url: str, masked: str) -> None:
    assert mask(url) == masked


@pytest.mark.parametrize(
    "url",
    [
        "amqp://ada:hunter2@host",
        "amqp:ada:hunter2@host",
        "ada:hunter2@host",
        "sqlite://ada:hunter2@host/shop.db",
        "sqlite://ada:hunter2@[host/shop.db",
        "memory://ada:hunter2@host",
        "sqlite:///shop.db?password=hunter2",
        "memory://?password=hunter2",
    ],
)
def test_what_is_wrong_with_a_url_is_told_without_its_password(url: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        Postroad(url)
    assert SECRET not in f"{caught.value} {caught.value!r}"


# --- decoding --------------------------------------------------------------------------------


class Color(enum.Enum):
    RED = "red"


class OfEnum(Struct):
    field: Color


class OfLiteral(Struct):
    field: Literal["red", "blue"]


class OfDate(Struct):
    field: datetime


class OfDecimal(Struct):
    field: Decimal


class OfInt(Struct):
    field: int


class OfDict(Struct):
    field: dict[str, int]


class Checked(Struct):
    field: str

    def __post_init__(self) -> None:
        raise ValueError(f"{self.field} is not allowed")


@dataclasses.dataclass
class CheckedDataclass:
    field: str

    def __post_init__(self) -> None:
        raise LookupError(f"{self.field} is not allowed")


@attrs.define
class CheckedAttrs:
    field: str = attrs.field()

    @field.validator
    def _check(self, attribute: Any, value: str) -> None:
        raise ValueError(f"{value} is not allowed")


class OfTypedDict(TypedDict):
    field: int


class Model(pydantic.BaseModel):
    field: int


class CheckedModel(pydantic.BaseModel):
    field: str

    @pydantic.field_validator("field")
    @classmethod
    def _check(cls, value: str) -> str:
        raise ValueError(f"{value} is not allowed")


class TaggedA(Struct, tag="a"):
    field: int


class TaggedB(Struct, tag="b"):
    field: int


TYPES: list[Any] = [
    OfEnum,
    OfLiteral,
    OfDate,
    OfDecimal,
    OfInt,
    Checked,
    CheckedDataclass,
    CheckedAttrs,
    OfTypedDict,
    Model,
    CheckedModel,
    TaggedA | TaggedB,
    int,
]


@pytest.mark.parametrize("payload_type", TYPES, ids=str)
@pytest.mark.parametrize(
    "data",
    [
        b'{"field": "hunter2"}',
        b'{"type": "hunter2", "field": null}',
        b'{"field": {"hunter2": "hunter2"}}',
        b'{"field": "hunter2',
        b"hunter2",
        b"\xff\xfehunter2",
        b'"hunter2"',
        b'["hunter2"]',
        b'{"field": 1} hunter2',
    ],
)
def test_decoding_never_quotes_the_payload(payload_type: Any, data: bytes) -> None:
    with pytest.raises(PayloadError) as caught:
        Topic("t", payload_type).decode(data)
    assert SECRET not in told(caught.value)


def test_decoding_tells_what_was_expected_and_where() -> None:
    with pytest.raises(PayloadError, match=r"Invalid enum value - at `\$\.field`"):
        Topic("t", OfLiteral).decode(b'{"field": "hunter2"}')
    with pytest.raises(PayloadError, match=r"Expected `int`, got `str` - at `\$\.field\[\.\.\.\]`"):
        Topic("t", OfDict).decode(b'{"field": {"hunter2": "x"}}')
    with pytest.raises(PayloadError, match="the type's own check raised ValueError"):
        Topic("t", Checked).decode(b'{"field": "hunter2"}')


# --- encoding --------------------------------------------------------------------------------


class Odd:
    def __repr__(self) -> str:
        return SECRET


class OfAny(Struct):
    field: Any


@pytest.mark.parametrize(
    ("payload_type", "payload"),
    [
        (OfInt, SECRET),
        (OfInt, Odd()),
        (OfAny, OfAny(Odd())),
        (OfAny, OfAny({Odd(): 1})),
        (OfAny, OfAny("\udc80" + SECRET)),
        (Any, Odd()),
        (dict, {1j: SECRET}),
        (Model, {"field": SECRET}),
        (Model, Model.model_construct(field=SECRET)),
        (Model, Model.model_construct(field=Odd())),
    ],
)
def test_encoding_never_quotes_the_payload(payload_type: Any, payload: Any) -> None:
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with pytest.raises(PayloadError) as caught:
            Topic("t", payload_type).encode(payload)
    assert SECRET not in told(caught.value)
    assert not warned


# --- what is shown of messages ---------------------------------------------------------------


class Note(Struct):
    text: str


def notes() -> Topic[Note]:
    return Topic("notes", Note, max_payload=100)


class Watching(Hooks):
    """Keeps what a log would be told."""

    def __init__(self) -> None:
        self.shown: list[str] = []
        self.pending = True

    def settled(self, subscription: Subscription, counts: Mapping[str, int]) -> None:
        self.pending = False

    def failed(self, subscription: Subscription, delivery: Delivery, failure: Failure) -> None:
        self.shown += [repr(subscription), repr(delivery), repr(failure)]
        self.shown += [repr(delivery.message), repr(Settlement(delivery, failure=failure))]


@pytest.mark.parametrize("url", ["memory://", "sqlite:///{}/shop.db"])
async def test_messages_and_deliveries_and_dead_letters_show_no_payload(
    tmp_path: Path, url: str
) -> None:
    hooks, topic = Watching(), notes()
    road = Postroad(url.format(tmp_path), hooks=hooks)

    @road.subscribe("notes", group="strict")
    async def handle(order: OfInt) -> None: ...

    async with road.consuming():
        await road.publish(topic, Note(SECRET), headers={"token": SECRET})
        await _until(lambda: not hooks.pending)
        [letter] = await road.dead_letters.list()
    assert letter.failures[0].reason == "wrong-type"
    assert SECRET in letter.message.data.decode()
    assert SECRET not in " ".join([*hooks.shown, repr(letter)])


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - others make it true
            await asyncio.sleep(0.01)


async def test_what_was_not_published_is_told_without_it() -> None:
    topic = notes()
    async with Postroad("memory://?capacity=1&when_full=refuse") as road:
        with pytest.raises(PostroadError, match="a payload of") as caught:
            await road.publish(topic, Note(SECRET * 100))
        assert SECRET not in told(caught.value)
        await road._transport.open([topic], [Subscription(source=topic, group="g")])
        await road.publish(topic, Note(SECRET))
        with pytest.raises(PostroadError, match="not accepted") as caught:
            await road.publish(topic, Note(SECRET))
        assert SECRET not in told(caught.value)
