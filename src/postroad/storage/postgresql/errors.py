"""PostgreSQL's errors as ours, by SQLSTATE (PostgreSQL's documentation, appendix A)."""

from __future__ import annotations

import re

import psycopg

from postroad.errors import (
    StorageBusyError,
    StorageCorruptError,
    StorageError,
    StorageFullError,
    StoragePermissionError,
    StorageRefusedError,
    StorageUnavailableError,
)

_VICTIM = ("40001", "40P01")
"""Serialization failure, deadlock: the same again may well succeed."""
_GONE = ("08", "57P01", "57P02", "57P03", "57P05", "25P03", "25006", "53300", "26000")
"""Connection trouble, shutdown, a crash, an idle session ended, a standby after a failover, too
many connections, a prepared statement that is gone."""
_DENIED = ("28", "42501", "3D000", "3F000")
_LOGIN = re.compile(
    r'(role|database) ".*" does not exist|authentication failed|no pg_hba\.conf entry|'
    r"no password supplied|permission denied|not permitted to log in"
)
"""A login that is refused has no SQLSTATE in libpq, only the server's text."""


def is_lost(error: Exception) -> bool:
    """Whether the connection is of no use any more, or goes to a server that cannot write."""
    state = _state(error)
    if state is None:
        return isinstance(error, psycopg.OperationalError) and not _is_refused_login(error)
    return state.startswith(_GONE)


def is_victim(error: Exception) -> bool:
    """Whether the transaction was undone for the sake of another one."""
    return _state(error) in _VICTIM


def mapped(error: Exception, place: str, *, committing: bool) -> StorageError:
    """Our error for one of psycopg's; see `Place.mapped`."""
    state = _state(error) or ""
    if is_lost(error):
        if committing:
            return StorageError(f"{place}: the connection was lost during a commit")
        return StorageUnavailableError(
            f"{place} cannot be reached now ({_first_line(error)}); nothing was committed"
        )
    if state in _VICTIM or state == "55P03":
        return StorageBusyError(
            f"{place}: another transaction was in the way for too long; try again, or raise "
            "?busy= in the URL"
        )
    if state == "57014":
        return StorageBusyError(
            f"{place}: a statement took longer than ?statement_timeout= allows and was cancelled"
        )
    if state == "53100":
        return StorageFullError(
            f"no room left on the disk of {place}; nothing accepted is lost, free some and go on"
        )
    if state.startswith(_DENIED) or _is_refused_login(error):
        return StoragePermissionError(
            f"{place}: {_first_line(error)}. Grant it to this role (docs/databases.md lists what "
            "is needed), or name another database or user"
        )
    if state.startswith("XX0"):
        return StorageCorruptError(f"{place} is damaged ({_first_line(error)})")
    return StorageRefusedError(f"{place} refused: {_first_line(error)}")


def _is_refused_login(error: Exception) -> bool:
    return _state(error) is None and _LOGIN.search(str(error)) is not None


def _state(error: Exception) -> str | None:
    return error.sqlstate if isinstance(error, psycopg.Error) else None


def _first_line(error: Exception) -> str:
    """What happened, without the DETAIL, which may hold values of a row."""
    diagnosis = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    return diagnosis or next(iter(str(error).splitlines()), type(error).__name__)
