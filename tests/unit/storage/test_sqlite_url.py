"""Which URLs the road takes, and what it says to the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from postroad.errors import InvalidURLError
from postroad.storage.sqlite.url import parse
from postroad.transports.sql import SqlTransport


def test_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse("sqlite:///shop.db").path == tmp_path / "shop.db"
    assert parse("sqlite:////var/lib/a%20shop.db").path == Path("/var/lib/a shop.db")


def test_parameters() -> None:
    place = parse("sqlite:///shop.db?durability=normal&busy=250ms")
    assert (place.durability, place.busy) == ("normal", 0.25)
    assert (parse("sqlite:///a.db").durability, parse("sqlite:///a.db").busy) == ("full", 5.0)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sqlite://", "memory://"),
        ("sqlite:///:memory:", "memory://"),
        ("sqlite://shop.db", "three|no host"),
        ("sqlite:///a.db?durable=full", "durability: full"),
        ("sqlite:///a.db?durability=maybe", "full or normal"),
        ("sqlite:///a.db?busy=soon", "a duration like 5s"),
    ],
)
def test_refusals(url: str, says: str) -> None:
    with pytest.raises(InvalidURLError, match=says):
        SqlTransport(url)


def test_capabilities_say_what_each_durability_risks() -> None:
    full = SqlTransport("sqlite:///a.db").capabilities
    normal = SqlTransport("sqlite:///a.db?durability=normal").capabilities
    assert "loses nothing acknowledged" in full.risk
    assert "may lose the last commits" in normal.risk
