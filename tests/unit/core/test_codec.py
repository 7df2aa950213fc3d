"""The JSON codec: every kind of payload type, and every kind of bad input has a defined end."""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import field as data_field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, TypedDict

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroad.core.codec import JsonCodec
from postroad.errors import (
    DeclarationError,
    DecodeError,
    EncodeError,
    PayloadError,
    UnknownFieldError,
    WrongTypeError,
)


class Line(msgspec.Struct):
    name: str
    price: Decimal


class Order(msgspec.Struct):
    number: int
    lines: list[Line] = []


@dataclass
class DataLine:
    name: str
    price: Decimal


@dataclass
class DataOrder:
    number: int
    lines: list[DataLine] = data_field(default_factory=list)


class DictLine(TypedDict):
    name: str
    price: Decimal


class DictOrder(TypedDict):
    number: int
    lines: list[DictLine]


@attrs.define
class AttrsLine:
    name: str
    price: Decimal


@attrs.define
class AttrsOrder:
    number: int
    lines: list[AttrsLine] = attrs.field(factory=list)


class PydanticLine(pydantic.BaseModel):
    name: str
    price: Decimal


class PydanticOrder(pydantic.BaseModel):
    number: int
    lines: list[PydanticLine] = []


class Card(msgspec.Struct, tag="card", rename="camel"):
    last_four: str


class Cash(msgspec.Struct, tag="cash"):
    pass


class Payment(msgspec.Struct):
    by: Card | Cash
    at: datetime | None = None


class Custom:
    pass


class HoldsCustom(msgspec.Struct):
    names: dict[str, list[Custom | None]] = {}


class Tree(msgspec.Struct):
    children: list[Tree] = []


class Picky(msgspec.Struct):
    number: int

    def __post_init__(self) -> None:
        if self.number == 13:
            raise KeyError("hunter2")
        if self.number:
            raise ValueError("only 0")


class Inner(pydantic.BaseModel):
    a: int


class Outer(pydantic.BaseModel):
    one: Inner | None = None
    many: list[Inner] = []
    named: dict[str, Inner] = {}
    pair: tuple[int, Inner] | None = None
    either: list[Inner | int] | dict[str, Inner] = []


PRICE = Decimal("9.90")
PAYLOADS: list[tuple[Any, Any]] = [
    (Order, Order(1, [Line("tea", PRICE)])),
    (DataOrder, DataOrder(1, [DataLine("tea", PRICE)])),
    (DictOrder, {"number": 1, "lines": [{"name": "tea", "price": PRICE}]}),
    (AttrsOrder, AttrsOrder(1, [AttrsLine("tea", PRICE)])),
    (PydanticOrder, PydanticOrder(number=1, lines=[PydanticLine(name="tea", price=PRICE)])),
]


def codec_of(payload_type: Any, *, reject_unknown: bool = False) -> JsonCodec[Any]:
    return JsonCodec(payload_type, reject_unknown=reject_unknown)


TYPES = [payload_type for payload_type, _ in PAYLOADS]
VALID = b'{"number":1,"lines":[{"name":"tea","price":"9.90"}]}'


@pytest.mark.parametrize(("payload_type", "payload"), PAYLOADS)
def test_every_kind_of_type_goes_round(payload_type: Any, payload: Any) -> None:
    codec = codec_of(payload_type)
    data = codec.encode(payload)
    assert msgspec.json.decode(data) == msgspec.json.decode(VALID)
    assert codec.decode(data) == payload
    assert codec.content_type == "application/json"


@pytest.mark.parametrize("payload_type", TYPES)
def test_a_payload_of_another_type_is_unencodable(payload_type: Any) -> None:
    for wrong in ("text", 7, None, object(), Line("tea", PRICE)):
        with pytest.raises(EncodeError):
            codec_of(payload_type).encode(wrong)


def test_models_of_two_kinds_are_not_taken_for_each_other() -> None:
    class Other(pydantic.BaseModel):
        anything: str

    with pytest.raises(EncodeError):
        codec_of(PydanticOrder).encode(Other(anything="x"))


@pytest.mark.parametrize("payload_type", TYPES)
@pytest.mark.parametrize(
    "data",
    [
        b'{"number":"one","lines":[]}',
        b'{"number":1.5,"lines":[]}',
        b'{"lines":[]}',
        b"[]",
        b"null",
        b'"text"',
        b'{"number":1,"lines":[{"name":"tea"}]}',
        b'{"number":1,"lines":[{"name":"tea","price":"a lot"}]}',
    ],
)
def test_a_wrong_type_is_told_apart(payload_type: Any, data: bytes) -> None:
    with pytest.raises(WrongTypeError):
        codec_of(payload_type).decode(data)


@pytest.mark.parametrize("payload_type", TYPES)
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\x00",
        b"\xff\xfe",
        b'{"number":1,"lines":[]} trailing',
        b'{"number":1,}',
        b"{'number':1}",
        b'{"number":1,"lines":[{"name":"\xff","price":"1"}]}',
        VALID[:-1],
    ],
)
def test_what_is_no_json_is_undecodable(payload_type: Any, data: bytes) -> None:
    with pytest.raises(DecodeError):
        codec_of(payload_type).decode(data)


@pytest.mark.parametrize("payload_type", [*TYPES, Any, dict, list])
@pytest.mark.parametrize("bomb", [b"[" * 100_000, b'{"a":' * 100_000, b"[" * 9000 + b"]" * 9000])
def test_deep_nesting_is_refused_and_crashes_nothing(payload_type: Any, bomb: bytes) -> None:
    with pytest.raises(PayloadError):
        codec_of(payload_type).decode(bomb)


@pytest.mark.parametrize("payload_type", TYPES)
def test_deep_nesting_in_an_unknown_field_crashes_nothing(payload_type: Any) -> None:
    bomb = b'{"number":1,"lines":[],"more":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    for reject in (False, True):
        try:
            codec_of(payload_type, reject_unknown=reject).decode(bomb)
        except PayloadError:
            pass
        else:
            assert not reject


def test_a_payload_that_contains_itself_is_unencodable() -> None:
    knot: dict[str, Any] = {}
    knot["self"] = knot
    with pytest.raises(EncodeError):
        codec_of(dict).encode(knot)


@pytest.mark.parametrize("payload_type", TYPES)
def test_unknown_fields_are_ignored_or_rejected_by_path(payload_type: Any) -> None:
    data = b'{"number":1,"lines":[{"name":"tea","price":"9.90","colour":"green"}],"note":"x"}'
    assert codec_of(payload_type).decode(data) == codec_of(payload_type).decode(VALID)
    with pytest.raises(UnknownFieldError) as caught:
        codec_of(payload_type, reject_unknown=True).decode(data)
    assert "note" in str(caught.value)
    assert "lines[].colour" in str(caught.value)
    assert "green" not in str(caught.value)
    codec_of(payload_type, reject_unknown=True).decode(VALID)


@pytest.mark.parametrize("payload_type", TYPES)
@pytest.mark.parametrize(
    "data",
    [
        b'{"number":"hunter2","lines":[]}',
        b'{"number":1,"lines":[{"name":"tea","price":"hunter2"}]}',
        b'{"number":hunter2',
    ],
)
def test_no_error_repeats_the_payload(payload_type: Any, data: bytes) -> None:
    with pytest.raises(PayloadError) as caught:
        codec_of(payload_type).decode(data)
    assert "hunter2" not in str(caught.value)


class Reading(msgspec.Struct):
    level: float


class PydanticReading(pydantic.BaseModel):
    level: float


def test_not_a_number_does_not_travel_as_one() -> None:
    assert codec_of(dict).encode({"x": float("nan")}) == b'{"x":null}'
    for text in (b"NaN", b"Infinity", b"-Infinity"):
        with pytest.raises(DecodeError):
            codec_of(Reading).decode(b'{"level":%s}' % text)
        # Pydantic reads it; a topic that minds unknown fields reads plain JSON only.
        with pytest.raises(DecodeError):
            codec_of(PydanticReading, reject_unknown=True).decode(b'{"level":%s}' % text)
    with pytest.raises(WrongTypeError):
        codec_of(Reading).decode(codec_of(Reading).encode(Reading(float("inf"))))


def test_an_int_fits_where_a_float_is_due_and_not_the_other_way() -> None:
    assert codec_of(float).decode(codec_of(float).encode(3)) == 3.0
    with pytest.raises(EncodeError):
        codec_of(int).encode(3.5)


def test_a_pydantic_rule_is_kept_and_its_own_alias_travels() -> None:
    class Strict(pydantic.BaseModel):
        number: int = pydantic.Field(gt=0, alias="no")

        @pydantic.field_validator("number")
        @classmethod
        def check(cls, value: int) -> int:
            if value == 13:
                raise ValueError("unlucky hunter2")
            return value

    codec = codec_of(Strict, reject_unknown=True)
    assert codec.encode(Strict(no=1)) == b'{"no":1}'
    assert codec.decode(b'{"no":1}') == Strict(no=1)
    for bad in (b'{"no":0}', b'{"no":13}'):
        with pytest.raises(WrongTypeError, match="no") as caught:
            codec.decode(bad)
        assert "hunter2" not in str(caught.value)
    with pytest.raises(UnknownFieldError):
        codec.decode(b'{"no":1,"number":2}')


@pytest.mark.parametrize(
    ("data", "path"),
    [
        (b'{"one":{"a":1,"b":2}}', "one.b"),
        (b'{"many":[{"a":1},{"a":1,"b":2}]}', "many[].b"),
        (b'{"named":{"x":{"a":1,"b":2}}}', "named.x.b"),
        (b'{"pair":[1,{"a":1,"b":2}]}', "pair[].b"),
        (b'{"either":[{"a":1,"b":2},3]}', "either[].b"),
        (b'{"either":{"x":{"a":1,"b":2}}}', "either.x.b"),
    ],
)
def test_unknown_fields_in_nested_pydantic_containers(data: bytes, path: str) -> None:
    codec_of(Outer).decode(data)
    with pytest.raises(UnknownFieldError) as caught:
        codec_of(Outer, reject_unknown=True).decode(data)
    assert str(caught.value).endswith(f": {path}")


def test_known_fields_in_nested_pydantic_containers() -> None:
    data = (
        b'{"one":null,"many":[{"a":1}],"named":{"x":{"a":1}},"pair":[1,{"a":1}],'
        b'"either":[{"a":1},1]}'
    )
    codec_of(Outer, reject_unknown=True).decode(data)


def test_a_pydantic_model_that_allows_extra_fields_knows_them() -> None:
    class Open(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(extra="allow")
        a: int

    codec_of(Open, reject_unknown=True).decode(b'{"a":1,"b":2}')


def test_every_name_that_pydantic_reads_a_field_by_is_known() -> None:
    class Aliased(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(populate_by_name=True)
        a: int = pydantic.Field(0, alias="b")
        c: int = pydantic.Field(
            0, validation_alias=pydantic.AliasChoices("d", pydantic.AliasPath("e", "f"))
        )

    codec = codec_of(Aliased, reject_unknown=True)
    for data in (b'{"a":1}', b'{"b":1}', b'{"c":1}', b'{"d":1}', b'{"e":{"f":1}}'):
        codec.decode(data)
    with pytest.raises(UnknownFieldError):
        codec.decode(b'{"f":1}')


def test_tagged_unions_and_renamed_fields_are_known() -> None:
    codec = codec_of(Payment, reject_unknown=True)
    good = Payment(Card("1234"), datetime(2024, 1, 1, tzinfo=UTC))
    assert codec.decode(codec.encode(good)) == good
    with pytest.raises(UnknownFieldError, match=r"by\.lastFour"):
        codec.decode(b'{"by":{"type":"cash","lastFour":"1234"}}')


def test_a_type_that_holds_itself_is_read() -> None:
    codec = codec_of(Tree, reject_unknown=True)
    assert codec.decode(codec.encode(Tree([Tree()]))) == Tree([Tree()])
    with pytest.raises(UnknownFieldError, match=r"children\[\]\.x"):
        codec.decode(b'{"children":[{"x":1}]}')


@pytest.mark.parametrize("number", [1, 13])
def test_a_type_s_own_check_makes_a_wrong_type_whatever_it_raises(number: int) -> None:
    assert codec_of(Picky).decode(b'{"number":0}') == Picky(0)
    with pytest.raises(WrongTypeError) as caught:
        codec_of(Picky).decode(b'{"number":%d}' % number)
    assert "hunter2" not in str(caught.value)


def test_a_struct_encoded_as_an_array_has_no_field_names_to_mind() -> None:
    class Point(msgspec.Struct, array_like=True):
        x: int
        y: int

    codec = codec_of(Point, reject_unknown=True)
    assert codec.decode(codec.encode(Point(1, 2))) == Point(1, 2)


@pytest.mark.parametrize("payload_type", [Custom, HoldsCustom, list[Custom], dict[int, Custom]])
def test_a_type_without_json_form_is_refused(payload_type: Any) -> None:
    with pytest.raises(DeclarationError, match=r"JSON.*Custom"):
        codec_of(payload_type)


def test_a_union_that_json_cannot_tell_apart_is_refused() -> None:
    with pytest.raises(DeclarationError, match="JSON"):
        codec_of(Line | Order)


def test_an_annotation_that_cannot_be_found_is_a_declaration_error() -> None:
    class Local(msgspec.Struct):
        pass

    class Holder(msgspec.Struct):
        local: Local

    with pytest.raises(DeclarationError, match="Local"):
        codec_of(Holder)


@given(st.binary(max_size=200))
def test_any_bytes_end_in_a_payload_or_a_payload_error(data: bytes) -> None:
    for payload_type in TYPES:
        codec = codec_of(payload_type, reject_unknown=True)
        try:
            codec.decode(data)
        except PayloadError:
            pass
