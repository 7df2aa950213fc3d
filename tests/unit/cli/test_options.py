"""The ROAD in front of the other arguments."""

from __future__ import annotations

import pytest

from postroad.cli.options import VARIABLE, road_and_pattern, split_road
from postroad.cli.shell import BadUsage
from postroad.errors import DeclarationError


@pytest.fixture(autouse=True)
def _no_road_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


def test_a_first_word_with_a_colon_is_the_road() -> None:
    assert split_road(["shop:road", "orders"], most=1) == ("shop:road", ["orders"])
    assert split_road(["sqlite:///a.db"], most=1) == ("sqlite:///a.db", [])


def test_without_one_the_environment_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "shop:road")
    assert split_road(["orders"], most=1) == ("shop:road", ["orders"])
    assert split_road(None, most=1) == ("shop:road", [])
    assert split_road(["other:road"], most=1) == ("other:road", [])


def test_without_either_the_error_says_how_to_name_one() -> None:
    with pytest.raises(BadUsage, match=VARIABLE):
        split_road([], most=1)
    with pytest.raises(BadUsage, match="'shop' is none, it has no colon"):
        split_road(["shop"], most=1)


def test_too_many_arguments_are_named() -> None:
    with pytest.raises(BadUsage, match="b c"):
        split_road(["shop:road", "a", "b", "c"], most=1)


def test_the_pattern_is_every_topic_by_default_and_is_checked() -> None:
    assert road_and_pattern(["shop:road"]) == ("shop:road", "#")
    assert road_and_pattern(["shop:road", "orders.*"]) == ("shop:road", "orders.*")
    with pytest.raises(DeclarationError, match="not a topic pattern"):
        road_and_pattern(["shop:road", "orders.#.x"])
