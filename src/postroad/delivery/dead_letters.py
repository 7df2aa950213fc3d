"""The desk for dead letters: look at them, send them back, let them go."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence

from msgspec.structs import replace

from postroad.core.reports import DeadLetter
from postroad.core.transport import DeadLetters
from postroad.errors import NotSupportedError

_PAGE = 500
_ALL = 1_000_000
_SECOND = re.compile(r"[1-9]:")


class DeadLetterDesk:
    """Dead letters of a road, over all its topics and groups, wherever they are kept.

    Args:
        keepers: the road, the store, or both; the names of one are not those of another.
    """

    def __init__(self, keepers: Callable[[], Awaitable[Sequence[DeadLetters]]]) -> None:
        self._keepers = keepers

    async def list(
        self, pattern: str = "#", group: str | None = None, limit: int = 100
    ) -> Sequence[DeadLetter]:
        """The oldest ones, in the order of the log. `group=None` is every group."""
        found: list[DeadLetter] = []
        keepers = await self._kept()
        for index, keeper in enumerate(keepers):
            letters = await keeper.dead_letters(pattern, group, limit - len(found))
            found += [_named(letter, index) for letter in letters]
        return found

    async def redrive(
        self,
        ids: Sequence[str] | None = None,
        *,
        pattern: str = "#",
        group: str | None = None,
    ) -> int:
        """Send these, or all that fit, to their own group again, attempts reset, in the order of
        the log. Returns how many. What dies again meanwhile is not taken twice."""
        return await self._each(lambda keeper: keeper.redrive, ids, pattern, group)

    async def discard(
        self,
        ids: Sequence[str] | None = None,
        *,
        pattern: str = "#",
        group: str | None = None,
    ) -> int:
        """Drop these, or all that fit, for good; counted as discarded. Returns how many."""
        return await self._each(lambda keeper: keeper.discard, ids, pattern, group)

    async def _each(
        self,
        action: Callable[[DeadLetters], Callable[[Sequence[str]], Awaitable[int]]],
        ids: Sequence[str] | None,
        pattern: str,
        group: str | None,
    ) -> int:
        done = 0
        for index, keeper in enumerate(await self._kept()):
            if ids is not None:
                mine = _ids_of(ids, index)
            else:
                # Listed whole before the first goes: what dies again meanwhile has another id.
                letters = await keeper.dead_letters(pattern, group, _ALL)
                mine = [letter.id for letter in letters]
            for start in range(0, len(mine), _PAGE):
                done += await action(keeper)(mine[start : start + _PAGE])
        return done

    async def _kept(self) -> Sequence[DeadLetters]:
        keepers = await self._keepers()
        if not keepers:
            raise NotSupportedError("this road keeps no dead letters, and no store is given")
        return keepers


def _named(letter: DeadLetter, index: int) -> DeadLetter:
    """With an id that says where it is kept, if that is not the first place."""
    return replace(letter, id=f"{index}:{letter.id}") if index else letter


def _ids_of(ids: Sequence[str], index: int) -> list[str]:
    prefix = f"{index}:"
    if index:
        return [one.removeprefix(prefix) for one in ids if one.startswith(prefix)]
    return [one for one in ids if not _SECOND.match(one)]
