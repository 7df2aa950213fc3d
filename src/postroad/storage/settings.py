"""What the URLs of database servers have in common."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from postroad.errors import InvalidURLError

_UNITS = {"": 1.0, "s": 1.0, "ms": 0.001, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)?")
_KNOWN = {
    "busy": "how long to wait for somebody else's lock or for the server to come back, e.g. 10s",
    "poll": "the longest time between two looks for news while idle, e.g. 5s",
    "pool": "handlers' transactions at once, each with a connection, e.g. 10",
    "statement_timeout": "how long one statement may take, e.g. 30s",
    "idle_transaction": "how long the transaction of a process that was stopped lives, e.g. 20s",
}


@dataclass(frozen=True)
class Settings:
    """Of one place; durations in seconds.

    Attributes:
        busy: how long to wait for somebody else's lock, or for a lost server.
        poll: the longest time between two looks for news, while nothing happens.
        pool: how many handlers' transactions are open at once, each on its own connection.
        statement_timeout: after which the server cancels a statement.
        idle_transaction: after which the server ends a transaction of ours in which nothing
            happens: its process was stopped, and others wait for its locks.
    """

    busy: float = 10.0
    poll: float = 5.0
    pool: int = 10
    statement_timeout: float = 30.0
    idle_transaction: float = 20.0

    @property
    def silence_ms(self) -> int:
        """After how many milliseconds without any answer a server counts as lost: longer than a
        statement and its wait for a lock may take."""
        return int((self.statement_timeout + self.busy + 5) * 1000)


def settings_of(
    scheme: str, options: Mapping[str, str], others: Mapping[str, str] = MappingProxyType({})
) -> Settings:
    """The settings that a URL's parameters make; `others` are those that the scheme has besides.

    Raises:
        InvalidURLError: a parameter that there is not, or a value that is none.
    """
    unknown = sorted(options.keys() - _KNOWN.keys())
    if unknown:
        known = "; ".join(f"{name}: {meaning}" for name, meaning in (_KNOWN | dict(others)).items())
        raise InvalidURLError(f"{scheme}:// has no parameter {', '.join(unknown)}; it has {known}")
    default = Settings()
    return Settings(
        busy=_seconds(scheme, options, "busy", default.busy),
        poll=_seconds(scheme, options, "poll", default.poll),
        pool=_number(scheme, options, "pool", default.pool),
        statement_timeout=_seconds(scheme, options, "statement_timeout", default.statement_timeout),
        idle_transaction=_seconds(scheme, options, "idle_transaction", default.idle_transaction),
    )


def _seconds(scheme: str, options: Mapping[str, str], name: str, default: float) -> float:
    if name not in options:
        return default
    found = _DURATION.fullmatch(options[name])
    if found is None or not float(found[1]):
        raise parameter_error(scheme, name, options[name], "a duration like 5s, 500ms or 1m")
    return float(found[1]) * _UNITS[found[2] or ""]


def _number(scheme: str, options: Mapping[str, str], name: str, default: int) -> int:
    if name not in options:
        return default
    if not options[name].isdigit() or not int(options[name]):
        raise parameter_error(scheme, name, options[name], "a number from 1 up")
    return int(options[name])


def parameter_error(scheme: str, name: str, value: str, wanted: str) -> InvalidURLError:
    """The error for a parameter whose value is none."""
    return InvalidURLError(f"{scheme}:// with {name}={value}: {wanted} is needed")
