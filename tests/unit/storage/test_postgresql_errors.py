"""PostgreSQL's errors become ours, by SQLSTATE."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import errors

from postroad.errors import (
    StorageBusyError,
    StorageCorruptError,
    StorageError,
    StorageFullError,
    StoragePermissionError,
    StorageRefusedError,
    StorageUnavailableError,
)
from postroad.storage.postgresql.errors import is_lost, is_victim, mapped


def of(state: str, text: str = "what the server said") -> psycopg.Error:
    """The driver's error of a state."""
    return errors.lookup(state)(text)


@pytest.mark.parametrize(
    ("state", "ours"),
    [
        ("40001", StorageBusyError),
        ("40P01", StorageBusyError),
        ("55P03", StorageBusyError),
        ("57014", StorageBusyError),
        ("53100", StorageFullError),
        ("53300", StorageUnavailableError),
        ("57P01", StorageUnavailableError),
        ("57P03", StorageUnavailableError),
        ("08006", StorageUnavailableError),
        ("25006", StorageUnavailableError),
        ("25P03", StorageUnavailableError),
        ("42501", StoragePermissionError),
        ("28P01", StoragePermissionError),
        ("3D000", StoragePermissionError),
        ("XX001", StorageCorruptError),
        ("22021", StorageRefusedError),
        ("42P01", StorageRefusedError),
        ("23505", StorageRefusedError),
    ],
)
def test_by_state(state: str, ours: type[StorageError]) -> None:
    found = mapped(of(state), "postgresql://db/shop", committing=False)
    assert type(found) is ours
    assert str(found).startswith("postgresql://db/shop") or ours is StorageFullError


def test_a_connection_that_is_lost_during_a_commit_leaves_its_fate_open() -> None:
    for error in (of("57P01"), psycopg.OperationalError("server closed the connection")):
        assert is_lost(error)
        assert type(mapped(error, "p", committing=True)) is StorageError
        assert type(mapped(error, "p", committing=False)) is StorageUnavailableError
    assert type(mapped(of("40001"), "p", committing=True)) is StorageBusyError


def test_victims_are_run_again() -> None:
    assert is_victim(of("40P01"))
    assert is_victim(of("40001"))
    assert not is_victim(of("55P03"))
    assert not is_victim(psycopg.OperationalError("gone"))


@pytest.mark.parametrize(
    "text",
    [
        'FATAL:  password authentication failed for user "ada"',
        'FATAL:  role "ada" does not exist',
        'FATAL:  database "shop" does not exist',
        'FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "ada"',
        'FATAL:  permission denied for database "shop"',
        "fe_sendauth: no password supplied",
    ],
)
def test_a_refused_login_has_no_state(text: str) -> None:
    """Trying again for as long as a lost server is waited for would be of no use."""
    error = psycopg.OperationalError(f"connection failed: {text}")
    assert not is_lost(error)
    assert type(mapped(error, "p", committing=False)) is StoragePermissionError


def test_a_value_is_never_repeated() -> None:
    """PostgreSQL puts values into DETAIL, which is a line of its own."""
    error = of("23505", "duplicate key value violates a constraint\nDETAIL:  Key (id)=(secret)")
    assert "secret" not in str(mapped(error, "p", committing=False))


def test_a_nul_is_refused_by_the_driver() -> None:
    error = psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes")
    assert type(mapped(error, "p", committing=False)) is StorageRefusedError
