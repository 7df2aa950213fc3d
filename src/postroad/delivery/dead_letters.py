"""The desk for dead letters: look at them, send them back, let them go."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from postroad.core.reports import DeadLetter
from postroad.core.transport import DeadLetters, Transport
from postroad.errors import NotSupportedError

_PAGE = 500
_ALL = 1_000_000


class DeadLetterDesk:
    """Dead letters of a road, over all its topics and groups."""

    def __init__(self, transport: Callable[[], Awaitable[Transport]]) -> None:
        self._transport = transport

    async def list(
        self, pattern: str = "#", group: str | None = None, limit: int = 100
    ) -> Sequence[DeadLetter]:
        """The oldest ones, in the order of the log. `group=None` is every group."""
        return await (await self._kept()).dead_letters(pattern, group, limit)

    async def redrive(
        self,
        ids: Sequence[str] | None = None,
        *,
        pattern: str = "#",
        group: str | None = None,
    ) -> int:
        """Send these, or all that fit, to their own group again, attempts reset, in the order of
        the log. Returns how many. What dies again meanwhile is not taken twice."""
        road = await self._kept()
        if ids is not None:
            return await road.redrive(ids)
        return await self._all(road, road.redrive, pattern, group)

    async def discard(
        self,
        ids: Sequence[str] | None = None,
        *,
        pattern: str = "#",
        group: str | None = None,
    ) -> int:
        """Drop these, or all that fit, for good; counted as discarded. Returns how many."""
        road = await self._kept()
        if ids is not None:
            return await road.discard(ids)
        return await self._all(road, road.discard, pattern, group)

    async def _all(
        self,
        road: DeadLetters,
        action: Callable[[Sequence[str]], Awaitable[int]],
        pattern: str,
        group: str | None,
    ) -> int:
        # Listed whole before the first of them goes: what dies again meanwhile has another id.
        letters = await road.dead_letters(pattern, group, _ALL)
        ids = [letter.id for letter in letters]
        done = 0
        for start in range(0, len(ids), _PAGE):
            done += await action(ids[start : start + _PAGE])
        return done

    async def _kept(self) -> DeadLetters:
        transport = await self._transport()
        if not isinstance(transport, DeadLetters):
            raise NotSupportedError("this road keeps no dead letters")
        return transport
