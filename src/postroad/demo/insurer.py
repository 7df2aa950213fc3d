"""Somebody else's service: the insurer that approves claims, and is often busy at first."""

import asyncio
import zlib

from postroad.demo.flights import Departure

TOOK = 0.005
"""Seconds that an answer takes."""


class InsurerBusy(Exception):
    """Not now. Worth trying again."""


async def approve(departure: Departure, failed_before: int) -> None:
    """Approve a claim: every sixth flight is refused at first, some of them twice.

    Raises:
        InsurerBusy: try again. Which flights meet it depends on their id alone.
    """
    await asyncio.sleep(TOOK)
    if failed_before < refusals(departure.flight_id):
        raise InsurerBusy(f"the insurer is busy, ask again for {departure.flight_id}")


def refusals(flight_id: str) -> int:
    """How often the insurer refuses a flight before it approves: 0, 1 or 2."""
    draw = zlib.crc32(flight_id.encode()) % 30
    return 2 if draw == 0 else int(draw < 5)
