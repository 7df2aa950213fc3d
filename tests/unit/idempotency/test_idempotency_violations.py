"""How each driver says which unique constraint was violated; integration has the real ones."""

from __future__ import annotations

import sqlite3
from types import SimpleNamespace
from typing import Any

import pytest

from postroad.idempotency.savepoint import savepoint
from postroad.idempotency.violations import Violation, violation
from postroad.storage.joining import Joined, join


class Driver(Exception):
    """An error with what a driver puts on it."""

    def __init__(self, *args: Any, **attributes: Any) -> None:
        super().__init__(*args)
        self.__dict__.update(attributes)


class Wrapped(Exception):
    """As SQLAlchemy wraps one."""

    def __init__(self, orig: Exception) -> None:
        super().__init__("(IntegrityError) in a statement")
        self.orig = orig


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (Driver("duplicate", sqlstate="23505", constraint_name="by_ref"), "by_ref"),
        (
            Driver("x", sqlstate="23505", diag=SimpleNamespace(constraint_name="by_ref")),
            "by_ref",
        ),
        (Driver(1062, "Duplicate entry 'a' for key 'by_ref'"), "by_ref"),  # MariaDB
        (Driver(1062, "Duplicate entry 'a' for key 'payments.by_ref'"), "by_ref"),  # MySQL 8
        (Driver(1062, "Duplicate entry 'x' for key 'y'' for key 'by_ref'"), "by_ref"),
        (Driver("UNIQUE constraint failed: index 'by_ref'"), "by_ref"),
    ],
)
def test_a_violation_is_recognised(error: Exception, name: str) -> None:
    assert violation(error) == Violation(name)
    assert violation(Wrapped(error)) == Violation(name)


@pytest.mark.parametrize(
    "error",
    [
        None,
        ValueError("UNIQUE is a nice word"),
        Driver("not null", sqlstate="23502", constraint_name="by_ref"),
        Driver("a domain's", sqlstate="23505", constraint_name=None),
        Driver(1048, "Column 'a' cannot be null for key 'by_ref'"),
        Driver("NOT NULL constraint failed: payments.reference"),
    ],
)
def test_another_error_is_none(error: Exception | None) -> None:
    assert violation(error) is None


def test_savepoints_may_be_nested() -> None:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE t (n INTEGER)")
    joined = join(connection)
    assert isinstance(joined, Joined)
    with savepoint(connection, joined):
        connection.execute("INSERT INTO t VALUES (1)")
        with pytest.raises(ZeroDivisionError), savepoint(connection, joined):
            connection.execute(f"INSERT INTO t VALUES ({1 / 0})")
        with savepoint(connection, joined):
            connection.execute("INSERT INTO t VALUES (3)")
    assert connection.in_transaction, "a savepoint commits nothing"
    assert connection.execute("SELECT n FROM t").fetchall() == [(1,), (3,)]
    connection.close()
