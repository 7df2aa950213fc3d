"""sqlite:// URLs: which file, and how durable."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from postroad.errors import InvalidURLError
from postroad.storage.sqlite.connection import SqlitePlace

_KNOWN = {
    "durability": "full (default) or normal",
    "busy": "how long to wait for another process's lock, e.g. 5s or 500ms",
}
_UNITS = {"": 1.0, "s": 1.0, "ms": 0.001, "m": 60.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m)?")


def parse(url: str) -> SqlitePlace:
    """The place that a URL names. Relative paths are of the current directory, now.

    Raises:
        InvalidURLError: no file, or a parameter that there is not.
    """
    parts = urlsplit(url)
    if parts.scheme != "sqlite":
        raise InvalidURLError(f"{parts.scheme}:// is not sqlite://")
    if parts.netloc:
        raise InvalidURLError(
            "an sqlite URL has no host: sqlite:///shop.db is a file in the current directory, "
            "sqlite:////var/lib/shop.db an absolute path"
        )
    path = unquote(parts.path).removeprefix("/")
    if path in ("", ":memory:", "/"):
        raise InvalidURLError(
            "sqlite:// needs a file, e.g. sqlite:///shop.db; for a road inside one process use "
            "memory://"
        )
    options = _options(parts.query)
    return SqlitePlace(
        path=Path(path).absolute(),
        durability=_durability(options.get("durability", "full")),
        busy=_seconds(options.get("busy", "5s")),
    )


def _options(query: str) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    unknown = sorted(options.keys() - _KNOWN.keys())
    if unknown:
        known = "; ".join(f"{name}: {meaning}" for name, meaning in _KNOWN.items())
        raise InvalidURLError(f"sqlite:// has no parameter {', '.join(unknown)}; it has {known}")
    return options


def _durability(value: str) -> Literal["full", "normal"]:
    if value == "full":
        return "full"
    if value == "normal":
        return "normal"
    raise InvalidURLError(f"durability={value}: it is full or normal")


def _seconds(value: str) -> float:
    found = _DURATION.fullmatch(value)
    if found is None:
        raise InvalidURLError(f"busy={value}: a duration like 5s, 500ms or 1m is needed")
    return float(found[1]) * _UNITS[found[2] or ""]
