"""Values on the command line."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from postroad.cli.shell import BadUsage
from postroad.cli.values import duration, headers, start
from postroad.core.delivery import Position


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("500ms", timedelta(milliseconds=500)),
        ("30s", timedelta(seconds=30)),
        ("1.5s", timedelta(seconds=1.5)),
        ("5m", timedelta(minutes=5)),
        ("2h", timedelta(hours=2)),
        ("1d", timedelta(days=1)),
    ],
)
def test_a_duration_is_a_number_with_its_unit(text: str, expected: timedelta) -> None:
    assert duration(text) == expected


@pytest.mark.parametrize("text", ["", "30", "s", "-1s", "30 s", "1w", "1e9s", "99999999d", "٣s٣"])
def test_anything_else_is_no_duration(text: str) -> None:
    with pytest.raises(BadUsage, match="30s, 5m, 2h"):
        duration(text)


def test_a_start_is_a_word_an_instant_or_a_place() -> None:
    assert start("earliest") == "earliest"
    assert start("latest") == "latest"
    assert start("2026-01-31T12:00:00Z") == datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert start("3:1042") == Position(3, 1042)
    assert start("0:1700000000-0") == Position(0, "1700000000-0")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("first", "partition:offset"),
        ("3:", "partition:offset"),
        ("2026-01-31T12:00:00", "write 2026-01-31T12:00:00Z"),
        ("2026-13-31", "ISO 8601"),
    ],
)
def test_a_bad_start_says_what_a_good_one_is(text: str, said: str) -> None:
    with pytest.raises(BadUsage, match=said):
        start(text)


def test_headers_are_pairs_and_a_value_may_hold_an_equals_sign() -> None:
    assert headers(["a=1", "b=x=y", "c="]) == {"a": "1", "b": "x=y", "c": ""}
    for bad in ("a", "=1"):
        with pytest.raises(BadUsage, match="name=value"):
            headers([bad])
