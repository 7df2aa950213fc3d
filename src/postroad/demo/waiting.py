"""Waiting for what other processes do, of which nothing tells us."""

import asyncio
from collections.abc import Callable

LOOK_EVERY = 0.01
"""Seconds between two looks."""


async def until(holds: Callable[[], bool]) -> None:
    """Return once the condition holds. Cancellable."""
    while True:
        if holds():
            return
        await asyncio.sleep(LOOK_EVERY)
