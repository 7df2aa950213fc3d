"""CloudEvents on the wire: the specification's rules, and the events that its authors published."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroad.core import wire
from postroad.core.message import Message
from postroad.core.wire.percent import percent_decode, percent_encode
from postroad.errors import DecodeError, EncodeError

NOW = 1_700_000_000_000_000
PLAIN = Message(id="1", type="a.b", source="/here", data=b'{"a":1}', time_us=NOW)
FULL = Message(
    id="0190-😀",
    type="orders.created",
    source="urn:shop:orders",
    data=b'{"total":"9.90"}',
    time_us=NOW + 123_456,
    content_type="application/vnd.shop+json; charset=utf-8",
    schema="https://example.com/schema/1",
    subject='ünï "quoted" 100 %',
    key="tail N123 😀",
    headers={"tenant": "ä\n", "X-Odd Name": "\x00", "priority": "high", "data": "d", "empty": ""},
    priority=9,
    deliver_at_us=NOW + 1,
    expires_at_us=NOW + 2_000_000,
    correlation_id="c",
    causation_id="0189",
    traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
)
BINARY = msgspec.structs.replace(PLAIN, data=bytes(range(256)), content_type="image/png")
SAMPLES = {
    "plain": PLAIN,
    "full": FULL,
    "bytes": BINARY,
    "empty": msgspec.structs.replace(PLAIN, data=b""),
    "empty key": msgspec.structs.replace(PLAIN, key=""),
    "not json": msgspec.structs.replace(PLAIN, data=b"\xff{"),
    "latin": msgspec.structs.replace(
        PLAIN, data="é".encode("latin-1"), content_type="text/plain; charset=iso-8859-1"
    ),
    "xml": msgspec.structs.replace(PLAIN, data="<é/>".encode(), content_type="application/xml"),
}


def through_json(message: Message) -> Message:
    return wire.from_json(wire.to_json(message), received_us=0)


def through_http(message: Message) -> Message:
    headers, body = wire.to_http(message)
    assert all(value.isascii() and value.isprintable() for value in headers.values())
    return wire.from_http(headers, body, received_us=0)[0]


def through_http_structured(message: Message) -> Message:
    headers, body = wire.to_http(message, "structured")
    return wire.from_http(headers, body, received_us=0)[0]


def through_kafka(message: Message) -> Message:
    headers, value = wire.to_kafka(message)
    return wire.from_kafka(headers, value, received_us=0)


def through_kafka_structured(message: Message) -> Message:
    headers, value = wire.to_kafka(message, "structured")
    return wire.from_kafka(headers, value, received_us=0)


def through_amqp(message: Message) -> Message:
    headers = wire.to_binary(message, wire.AMQP)
    return wire.from_binary(headers, message.data, wire.AMQP, received_us=0)


ROUTES = [
    through_json,
    through_http,
    through_http_structured,
    through_kafka,
    through_kafka_structured,
    through_amqp,
]


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("message", SAMPLES.values(), ids=SAMPLES.keys())
def test_nothing_of_a_message_is_lost(route: Any, message: Message) -> None:
    assert route(message) == message


TEXTS = st.text(max_size=20)
MESSAGES = st.builds(
    Message,
    id=st.text("abc-é😀", min_size=1),
    type=st.just("a.b"),
    source=st.just("/s"),
    data=st.binary(max_size=40),
    time_us=st.integers(-(2**50), 2**55),
    content_type=st.sampled_from(["application/json", "text/plain", "image/png", "a/b+xml"]),
    key=st.none() | TEXTS,
    headers=st.dictionaries(TEXTS | st.sampled_from(["tenant", "key", "headers", "id"]), TEXTS),
    priority=st.integers(0, 9),
    deliver_at_us=st.none() | st.integers(0, 2**50),
    correlation_id=st.none() | TEXTS,
)


@given(MESSAGES)
def test_any_message_survives_every_route(message: Message) -> None:
    for route in ROUTES:
        back = route(message)
        if back.data != message.data:  # a JSON value may lose the blanks around it
            assert back.data == message.data.strip()
            back = msgspec.structs.replace(back, data=message.data)
        assert back == message


@given(st.text())
def test_percent_encoding_turns_back(value: str) -> None:
    encoded = percent_encode(value)
    assert encoded.isascii()
    assert not set(encoded) & set(' "')
    assert percent_decode("ce-x", encoded) == value


def test_json_is_embedded_and_bytes_are_base64() -> None:
    assert json.loads(wire.to_json(PLAIN))["data"] == {"a": 1}
    document = json.loads(wire.to_json(BINARY))
    assert "data_base64" in document
    assert "data" not in document


def test_a_batch_keeps_order_and_may_be_empty() -> None:
    messages = list(SAMPLES.values())
    assert wire.from_json_batch(wire.to_json_batch(messages), received_us=0) == messages
    headers = {"Content-Type": "application/cloudevents-batch+json; charset=UTF-8"}
    assert wire.from_http(headers, b"[]", received_us=0) == []


def test_what_is_missing_has_a_stated_default() -> None:
    headers = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/s", "ce-type": "t"}
    (message,) = wire.from_http(headers, b"\x00", received_us=NOW)
    assert message.time_us == NOW
    assert message.content_type == "application/octet-stream"
    document = b'{"specversion":"1.0","id":"1","source":"/s","type":"t","data":"I am a string"}'
    structured = wire.from_json(document, received_us=NOW)
    assert structured.content_type == "application/json"
    assert structured.data == b'"I am a string"'


def test_null_is_unset_except_as_json_data() -> None:
    document = event(subject=None, ext=None, data=None)
    message = wire.from_json(document, received_us=0)
    assert message.subject is None
    assert "ext" not in message.headers
    assert message.data == b"null"


def test_extension_types_have_their_canonical_text() -> None:
    message = wire.from_json(event(flag=True, count=-5), received_us=0)
    assert message.headers == {"flag": "true", "count": "-5"}


def test_quoted_header_values_of_older_senders_are_read() -> None:
    assert percent_decode("ce-x", '"a \\"b\\" %20"') == 'a "b"  '


def test_timestamps_of_rfc_3339() -> None:
    def at(time: str) -> int:
        return wire.from_json(event(time=time), received_us=0).time_us

    assert at("2018-04-05T03:56:24Z") == at("2018-04-05t05:56:24.000+02:00")
    assert at("1970-01-01T00:00:00.1234567Z") == 123_456
    assert at("2016-12-31T23:59:60Z") == at("2017-01-01T00:00:00Z")


def event(**changes: Any) -> bytes:
    members: dict[str, Any] = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}
    return json.dumps(members | changes).encode()


REFUSED = {
    "not json": b"{",
    "not an object": b"[]",
    "not utf-8": b'{"id": "\xff"}',
    "deep": b"[" * 100_000,
    "version 0.3": event(specversion="0.3"),
    "no version": event(specversion=None),
    "no id": event(id=None),
    "empty id": event(id=""),
    "empty source": event(source=""),
    "source with blank": event(source="a b"),
    "empty type": event(type=""),
    "empty subject": event(subject=""),
    "relative schema": event(dataschema="orders/1"),
    "content type": event(datacontenttype="json"),
    "time": event(time="yesterday"),
    "no such day": event(time="2018-02-30T00:00:00Z"),
    "time without zone": event(time="2018-02-03T00:00:00"),
    "fraction": event(ext=1.5),
    "integer of 33 bits": event(ext=2**31),
    "object": event(ext={"a": 1}),
    "upper-case name": event(Ext="a"),
    "underscore": event(my_ext="a"),
    "both data": event(data=1, data_base64="AA=="),
    "base64": event(data_base64="A"),
    "base64 number": event(data_base64=5),
    "text that is none": event(datacontenttype="text/plain", data={"a": 1}),
    "charset": event(datacontenttype="text/plain; charset=us-ascii", data="é"),
    "unknown charset": event(datacontenttype="text/plain; charset=nope", data="e"),
    "empty key": event(partitionkey=""),
    "expiry": event(expirytime="soon"),
    "extra": event(postroadextra="[]"),
}


@pytest.mark.parametrize("document", REFUSED.values(), ids=REFUSED.keys())
def test_what_the_specification_refuses_is_refused(document: bytes) -> None:
    with pytest.raises(DecodeError):
        wire.from_json(document, received_us=0)


HEADERS = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/s", "ce-type": "t"}


@pytest.mark.parametrize(
    "headers",
    [
        HEADERS | {"ce-subject": "%C0%A0"},
        HEADERS | {"ce-subject": "%ED%A0%80"},
        HEADERS | {"ce-subject": "100%"},
        HEADERS | {"ce-subject": '"open'},
        HEADERS | {"ce-subject": "é"},
        HEADERS | {"CE-ID": "2"},
        HEADERS | {"ce-datacontenttype": "application/json"},
        HEADERS | {"ce-my-ext": "a"},
        HEADERS | {"ce-data": "a"},
        {"content-type": "application/cloudevents+avro"},
        {},
    ],
)
def test_http_headers_that_are_refused(headers: dict[str, str]) -> None:
    with pytest.raises(DecodeError):
        wire.from_http(headers, b"", received_us=0)


def test_kafka_headers_that_are_no_text_are_refused() -> None:
    with pytest.raises(DecodeError):
        wire.from_kafka([("ce_id", b"\xff")], b"", received_us=0)


@pytest.mark.parametrize(
    "change",
    [
        {"id": ""},
        {"id": "a\r\nb"},
        {"type": "a\nb"},
        {"source": "a b"},
        {"schema": "relative"},
        {"content_type": "text/plain\r\nx: y"},
        {"time_us": 2**62},
    ],
)
def test_what_no_cloudevent_can_carry_is_an_encode_error(change: dict[str, Any]) -> None:
    message = msgspec.structs.replace(PLAIN, **change)
    for encode in (wire.to_json, wire.to_http, wire.to_kafka):
        with pytest.raises(EncodeError):
            encode(message)


# What the specification's authors publish

_ROOT = Path(__file__).parents[3]
_FILE = "cloudevents_conformance.json"


def published() -> dict[str, Any]:
    folder = Path(os.environ.get("POSTROAD_CASES") or _ROOT.parent / "shared" / "cases")
    path = folder / _FILE
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}


CASES = published()
needs_cases = pytest.mark.skipif(
    not CASES, reason=f"no {_FILE} in POSTROAD_CASES or beside the repository in shared/cases"
)


def text_of(message: Message) -> dict[str, str]:
    headers = wire.to_binary(message, wire.KAFKA)
    found = {name.removeprefix("ce_"): value for name, value in headers.items()}
    return found | {"datacontenttype": found.pop("content-type")}


@needs_cases
@pytest.mark.parametrize("case", CASES.get("feature_cases", ()))
def test_published_features(case: dict[str, Any]) -> None:
    body = case["body"].encode()
    if case["binding"] == "http":
        (message,) = wire.from_http(case["headers"], body, received_us=0)
    else:
        message = wire.from_kafka(case["headers"], body, received_us=0)
    assert text_of(message) == case["attributes"]
    assert json.loads(message.data) == case["data"]
    for route in ROUTES:
        back = route(message)
        assert text_of(back) == case["attributes"]
        assert json.loads(back.data) == case["data"]


@needs_cases
def test_published_percent_encoding() -> None:
    rules = CASES["spec_http"]
    for case in rules["http_header_percent_encoding"]:
        assert percent_encode(case["value"]) == case["encoded"]
        assert percent_decode("ce-x", case["encoded"]) == case["value"]
        assert percent_decode("ce-x", case["encoded"].lower()) == case["value"].lower()
    for encoded in rules["must_reject"]:
        with pytest.raises(DecodeError):
            percent_decode("ce-x", encoded)


def attributes(published_event: dict[str, Any]) -> dict[str, str]:
    found: dict[str, Any] = dict(published_event["ContextAttributes"])
    extensions: dict[str, str] = found.pop("Extensions", {})
    return found | extensions


@needs_cases
@pytest.mark.parametrize("case", CASES.get("conformance_events", ()))
def test_published_events(case: dict[str, Any]) -> None:
    found = attributes(case)
    content_type = found.pop("datacontenttype", "application/json")
    headers = {f"ce-{name}": percent_encode(value) for name, value in found.items()}
    headers |= {"Content-Type": content_type} | case.get("TransportExtensions", {})
    if found["specversion"] != "1.0":
        with pytest.raises(DecodeError, match="specversion"):
            wire.from_http(headers, case["Data"].encode(), received_us=0)
        return
    (message,) = wire.from_http(headers, case["Data"].encode(), received_us=NOW)
    assert text_of(message).items() >= (found | {"datacontenttype": content_type}).items()
    for route in ROUTES:
        back = route(message)
        assert text_of(back) == text_of(message)
        assert back.data.strip() == message.data.strip()
