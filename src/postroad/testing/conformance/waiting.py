"""Waiting for conditions with a deadline, never for luck."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 15.0
"""Seconds after which a condition that should come true is given up."""
_PAUSE = 0.01


async def eventually(
    condition: Callable[[], T | Awaitable[T]], what: str, within: float = PATIENCE
) -> T:
    """The first true value of `condition`, asked again until `within` seconds are over.

    Raises:
        AssertionError: it never was; the message names `what`.
    """
    deadline = time.monotonic() + within
    while True:
        found = condition()
        value: T = await found if inspect.isawaitable(found) else found
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {within} s: {what}"
        await asyncio.sleep(_PAUSE)
