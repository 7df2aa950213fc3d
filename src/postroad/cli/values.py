"""Values on the command line: durations, places in a log, headers."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from postroad.cli.shell import BadUsage

if TYPE_CHECKING:
    from postroad.core.delivery import Start

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_LONGEST = 36_500 * 86400.0


def duration(text: str) -> timedelta:
    """Read `500ms`, `30s`, `5m`, `2h` or `1d`."""
    found = _DURATION.fullmatch(text)
    if found is None or float(found[1]) * _UNITS[found[2]] > _LONGEST:
        raise BadUsage(f"{text!r} is not a duration; write 500ms, 30s, 5m, 2h or 1d")
    return timedelta(seconds=float(found[1]) * _UNITS[found[2]])


def start(text: str) -> Start:
    """Read `earliest`, `latest`, an instant in ISO 8601, or `partition:offset`."""
    if text == "earliest":
        return "earliest"
    if text == "latest":
        return "latest"
    found = _instant(text)
    if found is not None:
        return found
    from postroad.core.delivery import Position

    try:
        return Position.parse(text)
    except ValueError:
        raise BadUsage(
            f"{text!r} is no place in a log; write earliest, latest, an instant with its zone "
            "(2026-01-31T12:00:00Z), or partition:offset (0:1042)"
        ) from None


def _instant(text: str) -> datetime | None:
    if not re.match(r"\d{4}-\d{2}-\d{2}", text):
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise BadUsage(f"{text!r} is not an instant in ISO 8601") from None
    if found.tzinfo is None:
        raise BadUsage(f"{text!r} has no zone; write {text}Z for UTC")
    return found


def headers(pairs: list[str]) -> dict[str, str]:
    """Read repeated `name=value`."""
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise BadUsage(f"{pair!r} is not a header; write name=value")
        found[name] = value
    return found
