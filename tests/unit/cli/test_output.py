"""What is printed for people and for programs."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
from rich.console import Console

from postroad.cli import output


def test_control_characters_of_others_are_made_visible() -> None:
    assert output.plain("a\x1b[31mb\nc\u202e") == "a\\x1b[31mb\\nc\\u202e"
    assert output.plain("a\n\tb\x07", lines=True) == "a\n\tb\\x07"
    assert output.plain("Köln → 東京") == "Köln → 東京"


def test_unknown_is_said_and_never_zero() -> None:
    assert output.count(None) == "unknown"
    assert output.count(0) == "0"
    assert output.count(1234567) == "1,234,567"
    assert output.age(None) == "unknown"
    assert output.age(timedelta(0)) == "0 s"
    assert output.seconds(None) is None


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (timedelta(seconds=1.26), "1.3 s"),
        (timedelta(seconds=61), "1 min 1 s"),
        (timedelta(hours=3, minutes=5), "3 h 5 min"),
        (timedelta(days=3, hours=5), "3 d 5 h"),
    ],
)
def test_an_age_has_two_units(duration: timedelta, text: str) -> None:
    assert output.age(duration) == text


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 20, "5.0 MiB")]
)
def test_sizes(size: int, text: str) -> None:
    assert output.size(size) == text


def test_an_instant_is_in_utc() -> None:
    assert output.instant(datetime(2026, 1, 31, 12, tzinfo=UTC)) == "2026-01-31T12:00:00Z"


def test_a_cell_is_text_and_not_markup() -> None:
    made = output.table(("a", "n"), [["[red]x[/]", "1"]], right=("n",))
    printed = StringIO()
    Console(file=printed, width=60).print(made)
    assert "[red]x[/]" in printed.getvalue()


def test_json_is_one_document_or_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_json({"a": [1, None]})
    assert json.loads(capsys.readouterr().out) == {"a": [1, None]}
    output.print_line({"a": "x\ny"})
    assert capsys.readouterr().out.count("\n") == 1
