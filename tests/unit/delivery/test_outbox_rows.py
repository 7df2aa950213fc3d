"""A message as a row and back: nothing is lost, and what others write is taken as it is."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroad.core.message import Message
from postroad.delivery.outbox.rows import headers_of, message_from, record_of, row_of
from postroad.delivery.outbox.sql import Reading, lists, sql_of
from postroad.delivery.outbox.table import OWN, SLICES, OutboxTable
from postroad.errors import DeclarationError, DecodeError

NOW = 1_700_000_000_000_000
TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=20)
MAYBE = st.none() | TEXT
INSTANT = st.none() | st.integers(1, 4_000_000_000_000_000)
MESSAGES = st.builds(
    Message,
    id=TEXT,
    type=TEXT,
    source=TEXT,
    data=st.binary(max_size=50),
    time_us=st.just(NOW) | st.integers(1, 4_000_000_000_000_000),
    content_type=st.sampled_from(["application/json", "application/x-other"]),
    schema=st.none() | st.just("https://example.com/order"),
    subject=MAYBE,
    key=st.none() | st.just("") | TEXT,
    headers=st.dictionaries(TEXT, TEXT, max_size=3),
    priority=st.integers(0, 9),
    deliver_at_us=INSTANT,
    expires_at_us=INSTANT,
    correlation_id=MAYBE,
    causation_id=MAYBE,
    traceparent=MAYBE,
)


def through(message: Message) -> Message:
    """As the database gives it back."""
    id_, aggregate, key, kind, payload, source, headers, _, created = row_of(
        message, OWN, "orders", "orders", NOW
    )
    row = (1, id_, aggregate, key, kind, payload, created, source, headers)
    return message_from(record_of(row, OWN), "nobody")


@given(MESSAGES)
def test_every_message_comes_back_as_it_was(message: Message) -> None:
    assert through(message) == message


def test_a_plain_message_needs_no_headers() -> None:
    plain = Message(id="1", type="orders", source="shop", data=b"{}", time_us=NOW, key="a")
    assert headers_of(plain, NOW, "orders") is None


def record(headers: Any = None, **more: Any) -> Any:
    values = {"key": "a", "created": NOW, "payload": b"{}", "source": None} | more
    row = (1, "id", "orders", values["key"], "t", values["payload"], values["created"])
    return record_of((*row, values["source"], headers), OWN)


@pytest.mark.parametrize(
    ("payload", "data"),
    [
        (b"x", b"x"),
        ("å", "å".encode()),
        (memoryview(b"x"), b"x"),
        ({"a": 1}, b'{"a":1}'),
        (None, b""),
    ],
)
def test_payloads_of_other_columns(payload: Any, data: bytes) -> None:
    assert message_from(record(payload=payload), "s").data == data


@pytest.mark.parametrize(
    "created",
    [
        datetime.fromtimestamp(NOW / 1e6, UTC),
        datetime.fromtimestamp(NOW / 1e6, UTC).replace(tzinfo=None),
        "2023-11-14 22:13:20",
    ],
)
def test_instants_of_other_columns(created: Any) -> None:
    assert message_from(record(created=created), "s").time_us == NOW


def test_headers_that_others_wrote() -> None:
    found = message_from(record('{"tenant": "acme", "X-Odd": 5, "subject": "s"}'), "s")
    assert (found.headers, found.subject) == ({"tenant": "acme", "X-Odd": "5"}, "s")
    assert found.source == "s"
    for wrong in ("[1]", "{", "5"):
        with pytest.raises(DecodeError, match="no JSON object"):
            message_from(record(wrong), "s")


def test_a_slice_follows_from_the_key_alone() -> None:
    def slice_of(message: Message) -> int:
        found = row_of(message, OWN, message.type, message.type, NOW)[-2]
        assert isinstance(found, int)
        return found

    def message(kind: str, id_: str, key: str | None) -> Message:
        return Message(id=id_, type=kind, source="s", data=b"", time_us=NOW, key=key)

    assert slice_of(message("a", "1", "k")) == slice_of(message("b", "2", "k"))
    slices = {slice_of(message("a", str(n), None)) for n in range(1000)}
    assert slices == set(range(SLICES))


def test_a_table_that_no_relay_could_work_with_is_refused() -> None:
    with pytest.raises(DeclarationError, match="what was published"):
        OutboxTable(processed_at=None)
    with pytest.raises(DeclarationError, match="slice= needs number="):
        OutboxTable(number=None)
    with pytest.raises(DeclarationError, match="no name"):
        _ = sql_of(OutboxTable(name="a.")).insert


def test_lists_have_few_sizes() -> None:
    assert lists([], 4) == []
    assert lists([1, 2, 3], 64) == [[1, 2, 3, 3]]
    assert lists(list(range(5)), 4) == [[0, 1, 2, 3], [4]]
    sizes = {len(part) for n in range(1, 300) for part in lists(list(range(n)), 100)}
    assert sizes == {1, 4, 16, 64, 100}


def test_sql_is_of_the_table_that_was_named() -> None:
    table = OutboxTable(name="shop.outbox", id='i"d', slice=None, number=None)
    read = sql_of(table).read(Reading(after=False, some=False, parked=True))
    text = read.text("postgresql", "dollar").sql
    assert 'FROM "shop"."outbox"' in text
    assert '"i""d"' in text
    assert "pg_notify" in sql_of(table).insert.text("postgresql", "dollar").sql
    assert "pg_notify" not in sql_of(table).insert.text("mysql", "format").sql
