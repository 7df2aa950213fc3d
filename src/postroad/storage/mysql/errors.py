"""MySQL's and MariaDB's errors as ours, by their numbers (MySQL's error reference; MariaDB's own
begin at 1900)."""

from __future__ import annotations

import pymysql

from postroad.errors import (
    StorageBusyError,
    StorageCorruptError,
    StorageError,
    StorageFullError,
    StoragePermissionError,
    StorageRefusedError,
    StorageUnavailableError,
)

_DEADLOCK = 1213
_LOCK_WAIT = 1205
_LOST = frozenset({1040, 1053, 1077, 1079, 1152, 1158, 1159, 1160, 1161, 1184, 1290, 1836, 1927,
                   2002, 2003, 2006, 2013, 2055})  # fmt: skip
"""Shutdown, a connection that was ended, too many of them, a server that only reads."""
_DENIED = frozenset({1044, 1045, 1049, 1142, 1143, 1227, 1370, 1698})
MAY_NOT = frozenset({1044, 1142, 1143, 1227})
"""This user may not, in a database that it may use."""
_FULL = frozenset({1021, 1114})
_DAMAGED = frozenset({126, 127, 145, 1034, 1035, 1194, 1195})
_TOO_LONG = frozenset({1969, 3024, 1317})
"""max_statement_time, max_execution_time, and a statement that somebody ended."""
_LARGE_PACKET = 1153
_QUOTES_A_VALUE = frozenset({1062, 1264, 1292, 1364, 1366})
THERE_ALREADY = frozenset({1050, 1060, 1061, 1826})
"""A table, a column, an index, a constraint of that name."""


def too_large(size: int, limit: int) -> pymysql.MySQLError:
    """The error for a statement that the server would answer by closing the connection."""
    return pymysql.DataError(
        _LARGE_PACKET,
        f"a statement of {size:,} bytes is above the server's max_allowed_packet, {limit:,}; raise "
        "that, or send less in one message",
    )


def number(error: Exception) -> int:
    """The server's or the client's number of an error; 0 if it has none."""
    if isinstance(error, pymysql.MySQLError) and error.args and isinstance(error.args[0], int):
        return error.args[0]
    return 0


def is_lost(error: Exception) -> bool:
    """Whether the connection is of no use any more, or goes to a server that cannot write."""
    return number(error) in _LOST or isinstance(error, pymysql.InterfaceError)


def is_victim(error: Exception) -> bool:
    """Whether the transaction was undone for the sake of another one."""
    return number(error) == _DEADLOCK


def mapped(error: Exception, place: str, *, committing: bool) -> StorageError:
    """Our error for one of PyMySQL's; see `Place.mapped`."""
    code = number(error)
    if is_lost(error):
        if committing:
            return StorageError(f"{place}: the connection was lost during a commit")
        return StorageUnavailableError(
            f"{place} cannot be reached now ({_what(error)}); nothing was committed"
        )
    if code in (_DEADLOCK, _LOCK_WAIT):
        return StorageBusyError(
            f"{place}: another transaction was in the way for too long; try again, or raise "
            "?busy= in the URL"
        )
    if code in _TOO_LONG:
        return StorageBusyError(
            f"{place}: a statement took longer than ?statement_timeout= allows and was cancelled"
        )
    if code in _FULL:
        return StorageFullError(
            f"no room left on the disk of {place}; nothing accepted is lost, free some and go on"
        )
    if code in _DENIED:
        return StoragePermissionError(
            f"{place}: {_what(error)}. Grant it to this user (docs/databases.md lists what is "
            "needed), or name another database or user"
        )
    if code in _DAMAGED:
        return StorageCorruptError(f"{place} is damaged ({_what(error)})")
    return StorageRefusedError(f"{place} refused: {_what(error)}")


def _what(error: Exception) -> str:
    """What happened. A message may quote a value: then only its number."""
    code = number(error)
    if code in _QUOTES_A_VALUE:
        return f"error {code}"
    text = str(error.args[1]) if len(error.args) > 1 else ""
    return text.splitlines()[0] if text else "the connection was lost"
