"""What the URLs of database servers have in common."""

from __future__ import annotations

import pytest

from postroad.errors import InvalidURLError
from postroad.storage.settings import Settings, settings_of


def test_the_usual() -> None:
    assert settings_of("mysql", {}) == Settings()


def test_durations_and_numbers() -> None:
    found = settings_of(
        "postgresql",
        {
            "busy": "250ms",
            "poll": "1.5s",
            "pool": "3",
            "statement_timeout": "2m",
            "idle_transaction": "1h",
        },
    )
    assert found == Settings(0.25, 1.5, 3, 120.0, 3600.0)
    assert settings_of("postgresql", {"busy": "7"}).busy == 7


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"busy": "soon"}, "mysql:// with busy=soon: a duration like 5s"),
        ({"busy": "0s"}, "a duration like 5s"),
        ({"poll": "-1s"}, "a duration like 5s"),
        ({"pool": "0"}, "a number from 1 up"),
        ({"pool": "many"}, "a number from 1 up"),
        ({"bussy": "5s", "pol": "1s"}, "no parameter bussy, pol; it has busy: how long"),
    ],
)
def test_refusals(options: dict[str, str], says: str) -> None:
    with pytest.raises(InvalidURLError, match=says):
        settings_of("mysql", options)
