"""Printing: JSON for programs, tables for people, and text of others made harmless."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_WIDE = 200
"""Columns of a table that goes to a file or pipe, where nobody's terminal sets a limit."""


def console() -> Console:
    """Standard output, for people."""
    return _console(stderr=False)


def error_console() -> Console:
    """Standard error, for people."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    fixed = stream.isatty() or "COLUMNS" in os.environ
    return Console(stderr=stderr, width=None if fixed else _WIDE, highlight=False, soft_wrap=False)


def table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()
) -> Table:
    """A table without frame lines; the columns in `right` are numbers. Cells are plain text."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for name in columns:
        made.add_column(name, justify="right" if name in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(Text(plain(cell)) for cell in row))
    return made


def print_json(value: Any) -> None:
    """One JSON document on standard output, indented."""
    sys.stdout.write(msgspec.json.format(_encode(value), indent=2).decode() + "\n")


def print_line(value: Any) -> None:
    """One JSON value as one line of a stream on standard output, flushed."""
    sys.stdout.write(json_line(value) + "\n")
    sys.stdout.flush()


def json_line(value: Any) -> str:
    """A JSON value in one line."""
    return _encode(value).decode()


def _encode(value: Any) -> bytes:
    return msgspec.json.encode(value)


def plain(text: str, *, lines: bool = False) -> str:
    """Text of others with its control characters made visible: a key is no place for escapes
    that move the reader's cursor. `lines` leaves line breaks and tabs as they are."""
    kept = "\n\t" if lines else ""
    return "".join(
        char if char in kept or char.isprintable() else char.encode("unicode_escape").decode()
        for char in text
    )


def instant(when: datetime) -> str:
    """ISO 8601 in UTC, to the microsecond."""
    return when.isoformat().replace("+00:00", "Z")


def seconds(duration: timedelta | None) -> float | None:
    """For JSON: unknown stays null."""
    return None if duration is None else duration.total_seconds()


def count(number: int | None) -> str:
    """For people: unknown is said, never 0."""
    return "unknown" if number is None else f"{number:,}"


def size(number: int) -> str:
    """Bytes for people."""
    if number < 1024:
        return f"{number} B"
    if number < 1 << 20:
        return f"{number / (1 << 10):.1f} KiB"
    return f"{number / (1 << 20):.1f} MiB"


def age(duration: timedelta | None) -> str:
    """A duration for people, to two digits of its unit."""
    if duration is None:
        return "unknown"
    left = duration.total_seconds()
    if left < 60:
        return f"{left:.1f} s" if left else "0 s"
    minutes, rest = divmod(int(left), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"
