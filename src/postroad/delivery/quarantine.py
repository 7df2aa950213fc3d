"""Suspects of a crash run alone in their process: while one runner has some, the others rest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from postroad.delivery.hand import Hand


class Quarantine:
    """One for all runners of a process, since a crash takes all of them along.

    Attributes:
        owner: the hand whose suspects run now; no handler of another one starts meanwhile.
    """

    def __init__(self) -> None:
        self.owner: Hand | None = None
        self._hands: list[Hand] = []
        self._turn = asyncio.Lock()
        self._over = asyncio.Event()

    def join(self, hand: Hand) -> None:
        """Take part."""
        self._hands.append(hand)

    def leave(self, hand: Hand) -> None:
        """Take part no more."""
        self._hands.remove(hand)

    async def over(self) -> None:
        """Return when suspects of another hand have run."""
        await self._over.wait()

    @asynccontextmanager
    async def alone(self, hand: Hand) -> AsyncIterator[None]:
        """Inside the block no handler of another hand runs."""
        async with self._turn:
            self.owner = hand
            self._over.clear()
            try:
                for other in [one for one in self._hands if one is not hand]:
                    await other.at_rest()
                yield
            finally:
                self.owner = None
                self._over.set()
