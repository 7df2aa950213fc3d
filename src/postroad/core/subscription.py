"""Subscriptions: a group's declared wish to read a topic, with its guarantees."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypeAlias

from postroad.core.delivery import Start
from postroad.core.filters import Filter
from postroad.core.flow import Breaker, Rate, Shed
from postroad.core.pattern import check_pattern, is_pattern, matches
from postroad.core.retry import DEFAULT_RETRY, Retry
from postroad.core.sequence import Sequence
from postroad.core.topic import Topic
from postroad.errors import DeclarationError

Guarantee: TypeAlias = Literal["at-most-once", "at-least-once", "effectively-once", "exactly-once"]
"""at-most-once: settled before the handler runs; a crash or failure loses it, counted.
at-least-once: settled after the handler; may repeat, never lost.
effectively-once: the handler's writes through `tx` and the settlement commit together: delivered
perhaps twice, in effect once.
exactly-once: an alias of effectively-once. No network can deliver exactly once (the two generals'
problem); what can be had is that the effect happens once, and that is what you get."""

Order: TypeAlias = Literal["none", "key", "total"]
"""none: as it comes. key: one message of a key at a time, in the order of the log, over all
consumers of the group. total: one message of the topic at a time, in the order of the log."""


@dataclass(frozen=True)
class Batch:
    """The handler takes lists: up to `size` messages, waiting up to `wait` to fill one."""

    size: int = 100
    wait: timedelta = timedelta(milliseconds=50)

    def __post_init__(self) -> None:
        if self.size < 1:
            raise DeclarationError("Batch(size=…) must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Subscription:
    """What a group wants of a topic. Checked against the road when the road is opened.

    Attributes:
        source: a topic, or a pattern over names (`orders.*`, `orders.#`).
        group: consumers of one group share the work and its progress outlives them. None: every
            consumer gets its own copy, from now on, and nothing outlives it.
        delivery: see `Guarantee`.
        order: see `Order`. Order holds within one priority.
        start: where a group that is new to the topic begins; later it goes on where it was.
        concurrency: how many handlers run at once in one consumer.
        batch: hand lists to the handler.
        timeout: a handler that takes longer is cancelled; it costs an attempt.
        retry: what happens after a failure.
        rate: how many may start per second; see `Rate`. A number is a rate of one consumer.
        breaker: when to pause because what the handler depends on is down; see `Breaker`.
        filter: what does not pass is settled and counted as filtered.
        shed: what to drop under overload; see `Shed`.
        prefetch: at most so many messages are held unsettled by one consumer.
        prefetch_bytes: and at most so many payload bytes (one larger message still passes).
        lease: how long a consumer may be silent before its messages go to another one.
        sequence: take each key's messages in the order of their numbers; see `Sequence`.
        inbox_window: with effectively-once, how long it is remembered that a message was handled:
            a copy that comes later runs again.
    """

    source: Topic[Any] | str
    group: str | None
    delivery: Guarantee = "at-least-once"
    order: Order = "none"
    start: Start = "latest"
    concurrency: int = 16
    batch: Batch | None = None
    timeout: timedelta | None = None
    retry: Retry = DEFAULT_RETRY
    rate: Rate | float | None = None
    breaker: Breaker | None = None
    filter: Filter | None = None
    shed: Shed | None = None
    prefetch: int = 1000
    prefetch_bytes: int = 64 << 20
    lease: timedelta = timedelta(seconds=30)
    sequence: Sequence | None = None
    inbox_window: timedelta = timedelta(days=7)

    def __post_init__(self) -> None:
        if isinstance(self.source, str):
            check_pattern(self.source)
        if self.concurrency < 1 or self.prefetch < 1 or self.prefetch_bytes < 1:
            raise DeclarationError(f"{self}: concurrency and prefetch must be at least 1")
        if self.group is not None and not self.group.strip():
            raise DeclarationError("a group needs a name; None is every consumer for itself")
        if isinstance(self.rate, int | float) and self.rate <= 0:
            raise DeclarationError(f"{self}: a rate must be positive")
        if self.lease < timedelta(milliseconds=100):
            raise DeclarationError(f"{self}: a lease below 100 ms expires by itself")

    def __str__(self) -> str:
        return f"{self.source_name} → {self.group or 'every consumer'}"

    @property
    def limit(self) -> Rate | None:
        """`rate` as a `Rate`."""
        return Rate(self.rate) if isinstance(self.rate, int | float) else self.rate

    @property
    def source_name(self) -> str:
        """The topic's name, or the pattern."""
        return self.source if isinstance(self.source, str) else self.source.name

    @property
    def is_pattern(self) -> bool:
        """Whether it may read more than one topic."""
        return is_pattern(self.source_name)

    @property
    def effectively_once(self) -> bool:
        """Whether effects and settlement have to commit together."""
        return self.delivery in ("effectively-once", "exactly-once")

    def reads(self, topic: str) -> bool:
        """Whether a topic of this name belongs to it."""
        return topic == self.source_name or (self.is_pattern and matches(self.source_name, topic))
