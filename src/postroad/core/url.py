"""A road's URL as text: whether it can be read, and what of it may be shown."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

_PASSWORD = re.compile(r"([^/:@?#]*):(?!//).*@")
_SECRET = re.compile(r"(?i)([^?&#=]*(?:password|passwd|pwd|secret|token|key)[^?&#=]*)=[^&#]*")


def mask(url: str) -> str:
    """The URL without its secrets, for people and logs: what stands between a user's name and
    an `@`, and the parameters whose names say that they are secret."""
    open_url = _PASSWORD.sub(r"\1:***@", url)
    return _SECRET.sub(r"\1=***", open_url)


def is_readable(url: str) -> bool:
    """Whether it can be taken apart, and has neither a port 0 nor a NUL."""
    try:
        parts = urlsplit(url)
        return parts.port != 0 and "\0" not in unquote(url)
    except ValueError:
        return False


def place_of(url: str) -> str:
    """Which server and what on it: the URL without user, password and parameters."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
