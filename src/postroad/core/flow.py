"""Flow control as values: rate limits, breakers, shedding; declared with a subscription."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from postroad.errors import DeclarationError


@dataclass(frozen=True)
class Rate:
    """At most so many messages start per second.

    Attributes:
        per_second: the long-run rate.
        burst: how many may start at once after a pause; one second's worth by default.
        shared: over all consumers of the group in all processes, not for each consumer.
    """

    per_second: float
    burst: int | None = None
    shared: bool = False

    def __post_init__(self) -> None:
        if self.per_second <= 0:
            raise DeclarationError("Rate(per_second=…) must be positive")
        if self.burst is not None and self.burst < 1:
            raise DeclarationError("Rate(burst=…) must be at least 1")

    @property
    def capacity(self) -> int:
        """`burst`, resolved."""
        return self.burst or max(1, round(self.per_second))


def draw(rate: Rate, tokens: float, elapsed: float, wanted: int) -> tuple[int, float, float]:
    """Draw from a token bucket that held `tokens` so many seconds ago.

    Returns how many of `wanted` there are, what is left, and with none the seconds until there
    is one. A clock that went back adds nothing.
    """
    # What was given back may stand above the capacity; what refills may not.
    filled = tokens + max(0.0, elapsed) * rate.per_second
    tokens = max(tokens, min(float(rate.capacity), filled))
    granted = min(wanted, int(tokens))
    wait = 0.0 if granted else (1 - tokens) / rate.per_second
    return granted, tokens - granted, wait


@dataclass(frozen=True)
class Breaker:
    """When what the handler depends on is down, pause instead of burning attempts.

    After `after` failures in a row of the named kinds, over whatever messages, no handler starts
    for `pause`; then one message probes. If it fails, the pause doubles, up to `longest`; if it
    succeeds, work goes on. Failures while the breaker is open cost no attempt; the ones that
    opened it do, so a message that alone breaks its downstream still ends as a dead letter.

    Attributes:
        on: the exceptions that are the downstream's fault.
    """

    on: tuple[type[Exception], ...] = (ConnectionError, TimeoutError)
    after: int = 5
    pause: timedelta = timedelta(seconds=5)
    longest: timedelta = timedelta(minutes=5)

    def __post_init__(self) -> None:
        if self.after < 1 or self.pause <= timedelta(0):
            raise DeclarationError("Breaker: after must be at least 1 and pause positive")


@dataclass(frozen=True)
class Shed:
    """Under overload, drop by a rule, counted as `shed`, instead of falling ever further behind.

    A group is overloaded while more than `above` messages wait for it.

    Attributes:
        policy: `sample` keeps the share `keep` of keys (or messages, where there is no key);
            `drop-oldest` drops from the old end until `above` are left; `drop-low-priority`
            drops what has a priority below `below`.
    """

    policy: Literal["sample", "drop-oldest", "drop-low-priority"]
    above: int
    keep: float = 0.1
    below: int = 5

    def __post_init__(self) -> None:
        if self.above < 0 or not 0 <= self.keep <= 1:
            raise DeclarationError("Shed: above must not be negative, keep a share of 0 … 1")
