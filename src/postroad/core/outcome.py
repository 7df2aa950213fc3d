"""What a handler may raise to decide its message's fate itself."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta


class HandlerOutcome(Exception):
    """Raised by a handler to say what becomes of its message. Not a `PostroadError`."""


class Reject(HandlerOutcome):
    """Never again: the message becomes a dead letter at once, with `reason` kept beside it."""

    def __init__(self, reason: str = "rejected by its handler") -> None:
        self.reason = reason
        super().__init__(reason)


class Discard(HandlerOutcome):
    """Done without effect: acknowledged and counted as `discarded`, no dead letter."""


class Later(HandlerOutcome):
    """Not now: comes again after `delay`; it costs one attempt like any failure."""

    def __init__(self, delay: timedelta, reason: str = "asked for later by its handler") -> None:
        self.delay = delay
        self.reason = reason
        super().__init__(reason)


class PartialFailure(HandlerOutcome):
    """Raised by a batch handler: these failed, every other message of the batch is handled.

    Args:
        failed: index in the batch → what that message failed with.
    """

    def __init__(self, failed: Mapping[int, Exception]) -> None:
        self.failed = dict(failed)
        super().__init__(f"{len(self.failed)} of the batch failed")
