"""Waiting for something to happen or a time to come, on any clock."""

from __future__ import annotations

import asyncio
from asyncio import Future

from postroad.core.clock import Clock


def ring(bell: Future[None] | None) -> None:
    """Wake whoever waits for the bell, if anybody does."""
    if bell is not None and not bell.done():
        bell.set_result(None)


async def wait_for(bell: Future[None], clock: Clock, seconds: float) -> None:
    """Return when the bell rings or after so many seconds. Cancellable."""
    alarm = asyncio.create_task(_alarm(bell, clock, max(0.0, seconds)))
    try:
        await bell
    finally:
        alarm.cancel()


async def _alarm(bell: Future[None], clock: Clock, seconds: float) -> None:
    await clock.sleep(seconds)
    ring(bell)
