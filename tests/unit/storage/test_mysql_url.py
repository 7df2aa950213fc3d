"""Which mysql:// URLs are taken, and what is said to the others."""

from __future__ import annotations

import pytest

from postroad.errors import InvalidURLError
from postroad.storage.mysql.url import parse


def test_what_is_ours_and_what_is_the_drivers() -> None:
    place = parse("mysql://ada:s%40fe@db/shop?ssl_ca=/ca.pem&ssl_verify_identity=on&busy=2s")
    assert place.busy == 2
    assert place._login == {
        "host": "db",
        "port": 3306,
        "user": "ada",
        "password": "s@fe",
        "database": "shop",
        "ssl_ca": "/ca.pem",
        "ssl_verify_identity": True,
    }


def test_its_name_holds_no_secret() -> None:
    assert parse("mysql://ada:secret@db:33/shop?ssl_key=/secret").name == "mysql://db:33/shop"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("mysql://ada@db", "names a database: mysql://user"),
        ("mysql://ada@db/", "names a database"),
        ("mariadb://ada@db/shop", "is not mysql://"),
        ("mysql://ada@db/shop?charset=latin1", "has no parameter charset"),
        ("mysql://ada@db/shop?notify=off", "has no parameter notify"),
        ("mysql://ada@db/shop?ssl_verify_cert=perhaps", "on or off"),
    ],
)
def test_refusals(url: str, says: str) -> None:
    with pytest.raises(InvalidURLError, match=says):
        parse(url)


def test_what_a_session_is_told() -> None:
    place = parse("mysql://db/shop?busy=1500ms&statement_timeout=3s&idle_transaction=4s")
    mariadb = place._session_settings(mariadb=True)
    assert "SET innodb_lock_wait_timeout = 2" in mariadb
    assert "SET max_statement_time = 3.000000" in mariadb
    assert "SET idle_transaction_timeout = 4" in mariadb
    mysql = place._session_settings(mariadb=False)
    assert "SET max_execution_time = 3000" in mysql
    assert not any("idle_transaction" in one or "max_statement" in one for one in mysql)
