"""Waiting out a road that is down for the moment."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from postroad.core.clock import Clock
from postroad.errors import PostroadError, PublishError

T = TypeVar("T")

_FIRST_WAIT = 0.05
_LONGEST_WAIT = 2.0


async def patiently(clock: Clock, call: Callable[[], Awaitable[T]]) -> T:
    """Call until it does not end in a transient error, waiting twice as long each time.

    Raises:
        PostroadError: one that waiting does not cure.
    """
    wait = _FIRST_WAIT
    while True:
        try:
            return await call()
        except PostroadError as error:
            if not is_transient(error):
                raise
        await clock.sleep(wait)
        wait = min(wait * 2, _LONGEST_WAIT)


def is_transient(error: BaseException) -> bool:
    """Whether waiting may cure it; a `PublishError`, whether it may cure every cause."""
    if isinstance(error, PublishError):
        causes = [*error.failed.values(), *error.unknown.values()]
        return bool(causes) and all(is_transient(cause) for cause in causes)
    return isinstance(error, PostroadError) and error.transient
