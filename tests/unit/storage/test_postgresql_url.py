"""Which postgresql:// URLs are taken, and what is said to the others."""

from __future__ import annotations

import pytest
from psycopg.conninfo import conninfo_to_dict

from postroad.errors import InvalidURLError
from postroad.storage.postgresql.url import parse


def test_what_is_ours_and_what_is_the_drivers() -> None:
    place = parse(
        "postgresql://ada:s%40fe@db:5433/shop?sslmode=require&busy=250ms&pool=3&schema=Shop"
        "&application_name=orders"
    )
    assert (place.busy, place.pool, place.schema) == (0.25, 3, "Shop")
    found = conninfo_to_dict(place._conninfo)
    assert found["password"] == "s@fe"
    assert (found["sslmode"], found["application_name"]) == ("require", "orders")
    assert "busy" not in found


def test_its_name_holds_no_secret() -> None:
    place = parse("postgresql://ada:secret@db:5433/shop?passfile=secret")
    assert place.name == "postgresql://db:5433/shop"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql://ada@db", "names a database: postgresql://user"),
        ("postgresql://ada@db/", "names a database"),
        ("postgres://ada@db/shop", "is not postgresql://"),
        ("postgresql://ada@db/shop?busi=5s", "has no parameter busi"),
        ("postgresql://ada@db/shop?shema=x", "schema: where the tables are"),
        ("postgresql://ada@db/shop?options=-csearch_path%3Dx", "has no parameter options"),
        ("postgresql://ada@db/shop?notify=maybe", "on or off"),
        ('postgresql://ada@db/shop?schema=a"b', "a plain name is needed"),
        ("postgresql://ada@db/shop?schema=a;b", "a plain name is needed"),
    ],
)
def test_refusals(url: str, says: str) -> None:
    with pytest.raises(InvalidURLError, match=says):
        parse(url)


def test_what_a_session_is_told() -> None:
    """One round trip, nothing of the URL but checked names and numbers."""
    place = parse(
        "postgresql://db/shop?schema=shop&busy=2s&statement_timeout=3s&idle_transaction=4s"
    )
    told = place._session_settings()
    for words in (
        "statement_timeout = 3000",
        "lock_timeout = 2000",
        "idle_in_transaction_session_timeout = 4000",
        'search_path = "shop", "$user", public',
    ):
        assert words in told
