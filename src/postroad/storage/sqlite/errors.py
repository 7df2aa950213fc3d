"""SQLite's errors as ours: what happened, where, and the remedy. A driver's error never passes."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from postroad.errors import (
    StorageBusyError,
    StorageCorruptError,
    StorageError,
    StorageFullError,
    StoragePermissionError,
)

_PRIMARY = 0xFF
_FULL_BY_IO = frozenset(
    {sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_TRUNCATE}
)


def is_busy(error: sqlite3.Error) -> bool:
    """Whether another connection is in the way, so that trying again helps."""
    return _code(error) & _PRIMARY in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def mapped(error: sqlite3.Error, path: Path) -> StorageError:
    """Our error for one of SQLite's on this file.

    A plain `StorageError` (no subclass) is one whose effect nobody can tell, such as a failed
    disk write: a commit that ended with it may or may not be durable.
    """
    code = _code(error)
    primary = code & _PRIMARY
    if is_busy(error):
        return StorageBusyError(
            f"{path} is locked by another connection; try again, or raise ?busy= in the URL"
        )
    if primary == sqlite3.SQLITE_FULL or code in _FULL_BY_IO:
        return StorageFullError(
            f"no room left on the disk of {path}; nothing accepted is lost, free some and go on"
        )
    if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return StorageCorruptError(
            f"{path} is not an SQLite database or is damaged ({error}); nothing was written. "
            "Restore it from a copy, or name another file"
        )
    if primary in _DENIED:
        return denied(path)
    return StorageError(f"{path}: {error}")


_DENIED = frozenset(
    {
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_AUTH,
    }
)


def denied(path: Path) -> StoragePermissionError:
    """The error for a place that this process may not write, or cannot."""
    folder = path.parent
    if not folder.is_dir():
        return StoragePermissionError(
            f"{path} cannot be opened: the folder {folder} does not exist; create it first"
        )
    if path.is_dir():
        return StoragePermissionError(f"{path} cannot be opened: it is a folder; name a file in it")
    return StoragePermissionError(
        f"{path} cannot be written: this process needs to read and write the file and its folder "
        f"{folder} (SQLite keeps its log beside the file)"
    )


def _code(error: sqlite3.Error) -> int:
    code = getattr(error, "sqlite_errorcode", None)
    return sqlite3.SQLITE_ERROR if code is None else int(code)
