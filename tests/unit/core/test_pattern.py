"""Topic patterns: AMQP's topic rules with `#` in the last place only."""

from __future__ import annotations

import pytest

from postroad.core.pattern import check_pattern, is_pattern, matches
from postroad.errors import DeclarationError


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("orders.created", "orders.created", True),
        ("orders.created", "orders.create", False),
        ("orders.created", "ordersXcreated", False),
        ("orders.*", "orders.created", True),
        ("orders.*", "orders", False),
        ("orders.*", "orders.eu.created", False),
        ("orders.*", "orders.", False),
        ("*.created", "orders.created", True),
        ("*", "orders", True),
        ("*", "orders.created", False),
        ("a.*.c", "a.b.c", True),
        ("a.*.c", "a.c", False),
        ("orders.#", "orders", True),
        ("orders.#", "orders.created", True),
        ("orders.#", "orders.eu.created", True),
        ("orders.#", "ordersx", False),
        ("orders.#", "reorders", False),
        ("*.#", "orders.created", True),
        ("#", "anything.at.all", True),
        ("#", "one", True),
    ],
)
def test_matches(pattern: str, name: str, expected: bool) -> None:
    assert matches(pattern, name) is expected


@pytest.mark.parametrize("pattern", ["a", "a.b", "a.*", "*.b", "a.#", "#", "*", "a-b_c.1", "*.*.#"])
def test_well_formed(pattern: str) -> None:
    check_pattern(pattern)


@pytest.mark.parametrize(
    "pattern",
    ["", ".", "a.", ".a", "a..b", "a.#.b", "#.a", "a#", "a.b*", "**", "a b", "a.#.#", "ä", "a\n"],
)
def test_malformed(pattern: str) -> None:
    with pytest.raises(DeclarationError, match="topic pattern"):
        check_pattern(pattern)


def test_is_pattern() -> None:
    assert is_pattern("a.*")
    assert is_pattern("#")
    assert not is_pattern("a.b")
