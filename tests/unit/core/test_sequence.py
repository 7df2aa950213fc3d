"""Sequence numbers: how they travel, and how far a group has come with them."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroad.core.capabilities import Capabilities
from postroad.core.contract import draft
from postroad.core.filters import Exact
from postroad.core.message import Message
from postroad.core.retry import Retry
from postroad.core.sequence import (
    LARGEST,
    LineId,
    Marked,
    Sequence,
    Standing,
    numbered,
    ranges,
    read_number,
    with_number,
)
from postroad.core.subscription import Subscription
from postroad.core.terms import PLAIN, Business, Setting
from postroad.core.topic import Topic
from postroad.core.wire.structured import from_json, to_json
from postroad.errors import DeclarationError, EncodeError

LINE = LineId("t", "ada")


def message(key: str | None = "ada", **headers: str) -> Message:
    return Message(id="1", type="t", source="s", data=b"{}", time_us=0, key=key, headers=headers)


# ------------------------------------------------ how they travel


def test_numbers_sort_as_they_count() -> None:
    values = [numbered(number)["sequence"] for number in (0, 1, 9, 10, 99, 1_000, LARGEST)]
    assert values == sorted(values)
    assert len(set(map(len, values))) == 1


def test_a_number_survives_the_wire_of_cloudevents() -> None:
    sent = with_number(message(), 7, "b")
    received = from_json(to_json(sent), received_us=0)
    assert read_number("t", received) == (LineId("t", "ada", "b"), 7)


@pytest.mark.parametrize("value", ["5", "0000000005", "0005"])
def test_whoever_pads_otherwise_is_understood(value: str) -> None:
    assert read_number("t", message(sequence=value)) == (LINE, 5)


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        ({}, "carries no 'sequence'"),
        ({"sequence": ""}, "not a number"),
        ({"sequence": "-1"}, "not a number"),
        ({"sequence": "1e3"}, "not a number"),
        ({"sequence": "٣"}, "not a number"),
        ({"sequence": "9" * 19}, "not a number"),
        ({"sequence": "1", "sequencetype": "Letters"}, "'sequencetype' is not 'Integer'"),
        ({"sequence": "1", "sequenceepoch": "e" * 65}, "longer than 64"),
    ],
)
def test_what_is_no_number_is_told_why(headers: dict[str, str], why: str) -> None:
    found = read_number("t", message(**headers))
    assert isinstance(found, str)
    assert why in found


def test_a_number_without_a_key_is_of_nothing() -> None:
    found = read_number("t", message(key=None, sequence="1"))
    assert isinstance(found, str)
    assert "no key" in found


@pytest.mark.parametrize("number", [-1, LARGEST + 1])
def test_numbers_end_where_they_would_not_sort_any_more(number: int) -> None:
    with pytest.raises(EncodeError, match="another epoch"):
        numbered(number)


def test_an_epoch_has_a_length() -> None:
    with pytest.raises(EncodeError, match="64"):
        numbered(1, "e" * 65)


def test_a_wish_that_cannot_be_is_refused() -> None:
    with pytest.raises(DeclarationError, match="negative"):
        Sequence(gap=timedelta(seconds=-1))
    with pytest.raises(DeclarationError, match="at least 1"):
        Sequence(limit=0)
    with pytest.raises(DeclarationError, match="first"):
        Sequence(first=-1)
    with pytest.raises(DeclarationError, match="on_gap"):
        Sequence(on_gap="wait")  # type: ignore[arg-type]


def test_where_a_key_begins_follows_from_where_the_group_does() -> None:
    assert Sequence().begins("earliest") == 1
    assert Sequence().begins("latest") is None
    assert Sequence(first=0).begins("latest") == 0


def test_ranges_are_written_as_people_do() -> None:
    assert ranges([(4, 4), (7, 9)]) == "4, 7-9"


# ------------------------------------------------ how far a group has come


def test_what_is_settled_in_turn_needs_no_mark() -> None:
    standing = Standing(1, 1)
    for number in (1, 2, 3):
        standing.settle(number)
    assert (standing.next, standing.marks) == (4, ())
    assert [standing.fate(number, "x") for number in (0, 1, 3, 4)] == [
        "late",
        "repeated",
        "repeated",
        "open",
    ]


def test_what_is_settled_out_of_turn_is_remembered_until_its_turn() -> None:
    standing = Standing(1, 1)
    standing.settle(2)
    assert (standing.next, standing.marks) == (1, (Marked(2, 2, "settled"),))
    assert standing.fate(2, "x") == "repeated"
    standing.settle(1)
    assert (standing.next, standing.marks) == (3, ())


def test_what_is_missing_is_late_then_dead_then_comes_again() -> None:
    standing = Standing(1, 1)
    standing.miss(1, 3)
    assert standing.next == 4
    assert standing.fate(2, "x") == "late"
    standing.bury(2, "x")
    assert [standing.fate(number, "x") for number in (1, 2, 3)] == ["late", "redriven", "late"]
    standing.settle(2)
    assert [standing.fate(number, "x") for number in (1, 2, 3)] == ["late", "repeated", "late"]
    assert standing.next == 4


def test_a_copy_of_a_dead_letter_is_not_the_dead_letter() -> None:
    standing = Standing(1, 1)
    standing.bury(1, "x")
    standing.bury(2, "y")
    assert standing.fate(1, "x") == "redriven"
    assert standing.fate(1, "y") == "repeated"
    assert standing.fate(2, "y") == "redriven"


def test_before_the_beginning_is_too_late_until_it_is_redriven() -> None:
    standing = Standing(5, 5)
    assert standing.fate(4, "x") == "late"
    standing.bury(4, "x")
    assert standing.fate(4, "x") == "redriven"
    standing.settle(4)
    assert standing.fate(4, "x") == "repeated"
    assert standing.fate(3, "x") == "late"
    standing.settle(5)
    assert standing.next == 6


def test_the_parts_without_a_mark() -> None:
    standing = Standing(1, 1)
    standing.settle(3)
    standing.settle(6)
    assert standing.unmarked(1, 8) == [(1, 2), (4, 5), (7, 8)]
    assert standing.after(3) == 4
    assert standing.after(4) == 4


def test_a_gap_of_millions_is_one_mark() -> None:
    standing = Standing(1, 1)
    standing.miss(1, 5_000_000)
    standing.bury(400, "x")
    assert len(standing.marks) == 3


actions = st.lists(
    st.tuples(st.sampled_from(["settle", "miss", "bury"]), st.integers(0, 12)), max_size=30
)


@given(actions, st.integers(0, 6))
def test_marks_are_what_a_plain_table_says(actions: list[tuple[str, int]], first: int) -> None:
    """Against one entry a number, and what is written against what was written before."""
    standing, table = Standing(first, first), dict[int, str]()
    written: dict[int, Marked] = {}
    saved: Standing | None = None
    for name, number in actions:
        if name == "settle":
            standing.settle(number)
            table[number] = "settled"
        elif name == "miss":
            standing.miss(number, number)
            table[number] = "missing"
        else:
            standing.bury(number, "x")
            table[number] = "dead"
        change = standing.since(LINE, saved)
        if change is not None:
            for gone in change.removed:
                del written[gone]
            written.update((one.first, one) for one in change.marked)
        saved = standing.copy()
        assert tuple(sorted(written.values())) == standing.marks
    lowest = first
    while lowest in table:
        lowest += 1
    assert standing.next == lowest
    fates = {"settled": "repeated", "missing": "late", "dead": "redriven"}
    for number in range(15):
        expected = fates[table[number]] if number in table else "open"
        if number not in table and number < first:
            expected = "late"
        assert standing.fate(number, "x") == expected


# ------------------------------------------------ what is refused

ABLE = Capabilities(
    settling="each",
    order="key-group",
    backlog="kept",
    groups=True,
    sequences=True,
    dead_letters=True,
    filters=frozenset({"exact"}),
)
TOPIC: Topic[dict[str, int]] = Topic("t", dict[str, int], key="k")


def gaps(road: Capabilities = ABLE, setting: Setting = PLAIN, **options: Any) -> list[str]:
    """What is said against a wish for sequence numbers."""
    chosen: dict[str, Any] = {"order": "key", "group": "g", "sequence": Sequence(), **options}
    contract = draft(Subscription(source=TOPIC, **chosen), road, setting)
    return [
        term.detail
        for term in contract.terms
        if term.subject == "sequence" and term.keeper == "nobody"
    ]


def test_a_road_that_can_keep_it_is_told_how() -> None:
    assert gaps() == []
    contract = draft(
        Subscription(source=TOPIC, group="g", order="key", sequence=Sequence()), ABLE, PLAIN
    )
    (term,) = [term for term in contract.terms if term.subject == "sequence"]
    assert term.keeper == "engine"
    assert "kept on the road" in term.detail


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"order": "none"}, "order='key'"),
        ({"order": "total"}, "order='key'"),
        ({"delivery": "at-most-once"}, "named group"),
        ({"group": None}, "named group"),
        ({"retry": Retry(on_dead="park-key")}, "on_dead='continue'"),
        ({"prefetch": 500}, "raise prefetch or lower limit"),
        ({"prefetch_bytes": 16 << 20}, "raise prefetch_bytes or lower limit_bytes"),
        ({"filter": Exact("kind", "a")}, "filter in the handler"),
        ({"road": replace(ABLE, settling="cumulative")}, "settles each message by itself"),
        ({"road": replace(ABLE, sequences=False)}, "Postroad(…, database="),
    ],
)
def test_what_cannot_be_kept_is_refused(options: dict[str, Any], why: str) -> None:
    found = gaps(**options)
    assert len(found) == 1
    assert why in found[0]


@pytest.mark.parametrize("setting", [Setting(store=ABLE), Setting(database=Business("shop.db"))])
def test_another_place_may_keep_it(setting: Setting) -> None:
    assert gaps(replace(ABLE, sequences=False), setting) == []
