"""What a `memory://` URL may say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast
from urllib.parse import parse_qsl, urlsplit

from postroad.errors import InvalidURLError

_FORM = "memory://?capacity=10000&when_full=wait|refuse"


@dataclass(frozen=True)
class Settings:
    """The parameters of a memory road.

    Attributes:
        capacity: how many unsettled messages each queue holds, and how many scheduled ones each
            topic.
        when_full: whether a publisher then waits or is refused.
    """

    capacity: int = 10_000
    when_full: Literal["wait", "refuse"] = "wait"


def read_settings(url: str) -> Settings:
    """Read a URL.

    Raises:
        InvalidURLError: another scheme, a host or path, an unknown, repeated or bad parameter.
    """
    try:
        parts = urlsplit(url)
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise _invalid("it is not a URL") from None
    if parts.scheme != "memory":
        raise _invalid("its scheme is another one")
    if parts.netloc or parts.path or parts.fragment:
        raise _invalid("a memory road has no host, path or fragment")
    values = dict(pairs)
    if len(values) < len(pairs):
        raise _invalid("a parameter is given twice")
    unknown = sorted(values.keys() - {"capacity", "when_full"})
    if unknown:
        raise _invalid(f"it has no parameter {', '.join(unknown)}")
    return Settings(_capacity(values.get("capacity")), _when_full(values.get("when_full")))


def _capacity(text: str | None) -> int:
    if text is None:
        return Settings.capacity
    if not (text.isascii() and text.isdigit() and len(text) <= 12 and int(text) >= 1):
        raise _invalid("capacity is a whole number, at least 1")
    return int(text)


def _when_full(text: str | None) -> Literal["wait", "refuse"]:
    if text is None:
        return Settings.when_full
    if text not in ("wait", "refuse"):
        raise _invalid("when_full is wait or refuse")
    return cast(Literal["wait", "refuse"], text)


def _invalid(why: str) -> InvalidURLError:
    return InvalidURLError(f"not a memory URL: {why}; it looks like {_FORM}")
