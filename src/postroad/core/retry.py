"""Retry policies: whether a failure is tried again, and when."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from postroad.errors import DeclarationError

_rng = random.Random()


@dataclass(frozen=True)
class Retry:
    """How often and when a failed message is tried again, in its own group only.

    Attributes:
        attempts: how many times the handler may fail on one message before it becomes a dead
            letter; 1 is no retry.
        backoff: `exponential` waits a random time below `first · 2^(n-1)` after failure n (full
            jitter, as in the AWS Architecture Blog's "Exponential Backoff and Jitter"), `fixed`
            waits `first`, `immediate` does not wait.
        first: the base of the waits.
        longest: no wait is longer.
        on: only these exceptions are tried again; others are dead at once.
        never: these are dead at once, even where `on` names their parent.
        crashes: how many times the process may die with this message alone in flight before it
            becomes a dead letter for crashing. Whatever was in flight with others when a process
            died is only suspected: it runs again in halved windows until the guilty one stands
            alone, so a batch of n costs about log2(n) + `crashes` crashes and no innocent.
        hold: with `order="key"`, how many messages of a blocked key are held in memory while it
            waits. At that many the key is parked: the failed message and what stands behind it go
            back to wait on the road, in order, and its later messages join them. Where nothing
            can park, the consumer stops reading the key's partition.
        on_dead: what becomes of an ordered key whose message died. `continue` goes on with the
            next one; dead letters that are redriven run in their own order, but after what has
            run meanwhile. `park-key` stops the key: its later messages wait, in order, until the
            dead letter is redriven, and then run behind it, or discarded.
    """

    attempts: int = 8
    backoff: Literal["exponential", "fixed", "immediate"] = "exponential"
    first: timedelta = timedelta(seconds=1)
    longest: timedelta = timedelta(minutes=10)
    on: tuple[type[BaseException], ...] = (Exception,)
    never: tuple[type[BaseException], ...] = ()
    crashes: int = 3
    hold: int = 100
    on_dead: Literal["continue", "park-key"] = "continue"

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise DeclarationError(f"Retry(attempts={self.attempts}): at least 1 is needed")
        if self.crashes < 1:
            raise DeclarationError(f"Retry(crashes={self.crashes}): at least 1 is needed")
        if self.hold < 1:
            raise DeclarationError(f"Retry(hold={self.hold}): at least 1 is needed")
        if self.first > self.longest:
            raise DeclarationError(
                f"Retry: first ({self.first}) is above longest ({self.longest}); raise longest"
            )
        if self.first < timedelta(0) or self.longest < timedelta(0):
            raise DeclarationError("Retry: first and longest cannot be negative")

    def delay(self, failed: int, error: BaseException) -> timedelta | None:
        """The wait before the next try after `failed` failures (≥ 1), or None: dead now."""
        if failed >= self.attempts or isinstance(error, self.never):
            return None
        if not isinstance(error, self.on):
            return None
        return self._wait(failed)

    def _wait(self, failed: int) -> timedelta:
        if self.backoff == "immediate":
            return timedelta(0)
        if self.backoff == "fixed":
            return min(self.first, self.longest)
        # 2**63 already exceeds any `longest`; the cap keeps the arithmetic in range.
        ceiling = min(
            self.longest.total_seconds(), self.first.total_seconds() * 2.0 ** min(failed - 1, 63)
        )
        return timedelta(seconds=_rng.uniform(0, ceiling))


DEFAULT_RETRY = Retry()
