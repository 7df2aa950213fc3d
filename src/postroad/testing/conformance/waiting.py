"""Waiting for conditions with a deadline, never for luck."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable

PATIENCE = 15.0
"""Seconds after which a condition that should come true is given up."""
_PAUSE = 0.01


async def eventually(
    condition: Callable[[], object | Awaitable[object]], what: str, within: float = PATIENCE
) -> None:
    """Ask `condition`, a function or a coroutine function, until it is true.

    Raises:
        AssertionError: it was not within so many seconds; the message names `what`.
    """
    deadline = time.monotonic() + within
    while True:
        found = condition()
        if await found if inspect.isawaitable(found) else found:
            return
        assert time.monotonic() < deadline, f"not within {within} s: {what}"
        await asyncio.sleep(_PAUSE)
