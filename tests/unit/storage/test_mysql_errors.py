"""MySQL's and MariaDB's errors become ours, by number."""

from __future__ import annotations

import pymysql
import pytest

from postroad.errors import (
    StorageBusyError,
    StorageCorruptError,
    StorageError,
    StorageFullError,
    StoragePermissionError,
    StorageRefusedError,
    StorageUnavailableError,
)
from postroad.storage.mysql.errors import is_lost, is_victim, mapped, number, too_large


def of(code: int, text: str = "what the server said") -> pymysql.MySQLError:
    """The driver's error of a number."""
    return pymysql.OperationalError(code, text)


@pytest.mark.parametrize(
    ("code", "ours"),
    [
        (1213, StorageBusyError),
        (1205, StorageBusyError),
        (1969, StorageBusyError),
        (3024, StorageBusyError),
        (1021, StorageFullError),
        (1114, StorageFullError),
        (1040, StorageUnavailableError),
        (2006, StorageUnavailableError),
        (2013, StorageUnavailableError),
        (1290, StorageUnavailableError),
        (1927, StorageUnavailableError),
        (1045, StoragePermissionError),
        (1142, StoragePermissionError),
        (1049, StoragePermissionError),
        (1034, StorageCorruptError),
        (1062, StorageRefusedError),
        (1146, StorageRefusedError),
        (1406, StorageRefusedError),
    ],
)
def test_by_number(code: int, ours: type[StorageError]) -> None:
    found = mapped(of(code), "mysql://db/shop", committing=False)
    assert type(found) is ours
    assert "mysql://db/shop" in str(found)


def test_a_connection_that_is_lost_during_a_commit_leaves_its_fate_open() -> None:
    for error in (of(2013), pymysql.InterfaceError(0, "")):
        assert is_lost(error)
        assert type(mapped(error, "p", committing=True)) is StorageError
        assert type(mapped(error, "p", committing=False)) is StorageUnavailableError
    assert type(mapped(of(1213), "p", committing=True)) is StorageBusyError


def test_only_a_deadlock_undoes_the_transaction() -> None:
    assert is_victim(of(1213))
    assert not is_victim(of(1205))


@pytest.mark.parametrize("code", [1062, 1264, 1292, 1364, 1366])
def test_a_value_is_never_repeated(code: int) -> None:
    found = mapped(of(code, "Duplicate entry 'secret' for key 'x'"), "p", committing=False)
    assert "secret" not in str(found)
    assert str(code) in str(found)


def test_a_column_that_is_too_short_is_named() -> None:
    found = mapped(of(1406, "Data too long for column 'message_key'"), "p", committing=False)
    assert "message_key" in str(found)


def test_a_statement_that_is_too_large_is_the_messages_own_trouble() -> None:
    error = too_large(20_000_000, 16_777_216)
    assert not is_lost(error)
    found = mapped(error, "p", committing=False)
    assert type(found) is StorageRefusedError
    assert "20,000,000" in str(found)
    assert "max_allowed_packet, 16,777,216" in str(found)


def test_an_error_without_a_number() -> None:
    assert number(pymysql.MySQLError()) == 0
    assert number(ValueError("1213")) == 0
    assert type(mapped(pymysql.MySQLError(), "p", committing=False)) is StorageRefusedError
