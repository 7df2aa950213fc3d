"""Asking: topics, lag, audit and dead letters, of the road and of its store; moving a group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from postroad.core.delivery import Start
from postroad.core.reports import Lag, TopicInfo
from postroad.core.transport import Audited, DeadLetters
from postroad.delivery.audit import Audit, audit
from postroad.delivery.dead_letters import DeadLetterDesk
from postroad.delivery.stored import StoredLetters, stored_groups
from postroad.errors import NotSupportedError
from postroad.road.connection import Connection
from postroad.road.declarations import Wiring


class Questions(Connection):
    """What can be asked about a road."""

    def __init__(self, wiring: Wiring) -> None:
        super().__init__(wiring)
        self.dead_letters = DeadLetterDesk(self._keepers)

    async def topic_infos(self, pattern: str = "#") -> Sequence[TopicInfo]:
        """The topics on the road that fit."""
        return await (await self._source()).topics(pattern)

    async def lag(self, pattern: str = "#", group: str | None = None) -> Sequence[Lag]:
        """How far groups are behind, in messages and seconds. Needs no consumer. What waits in
        the store is told under the name of its topic there.

        Raises:
            NotSupportedError: the road cannot name its groups.
        """
        source = await self._source()
        if not isinstance(source, Audited):
            raise NotSupportedError(f"{self.url} cannot list its groups")
        pairs = await source.groups(pattern)
        found = [await source.lag(*pair) for pair in pairs if group in (None, pair[1])]
        store: Any = self._store
        if store is not None:
            moved = await stored_groups(store, self._place, pattern, group)
            found += [await store.lag(*pair) for pair in moved]
        return found

    async def settled(self, pattern: str = "#", group: str | None = None) -> None:
        """Return when these groups have settled all that is not scheduled for later; for scripts
        and tests. Bound it with `asyncio.timeout`: without consumers it never returns."""
        wait = 0.002
        while any(one.messages != 0 for one in await self.lag(pattern, group)):
            await self.clock.sleep(wait)
            wait = min(wait * 2, 0.1)

    async def audit(self, pattern: str = "#", group: str | None = None) -> Audit:
        """What became of every message accepted; see `Audit`. What was moved to the store is
        accounted for there, under the name of its topic there."""
        found = await audit(await self._ready(), pattern, group)
        store: Any = self._store
        if store is None:
            return found
        moved = await stored_groups(store, self._place, pattern, group)
        more = [entry for pair in moved for entry in (await audit(store, *pair)).entries]
        return Audit((*found.entries, *more))

    async def seek(self, topic: str, group: str, to: Start) -> None:
        """Move a group that is at rest; its audit starts anew.

        Raises:
            GroupActiveError: it has live consumers.
        """
        await (await self._source()).seek(topic, group, to)

    async def _keepers(self) -> Sequence[DeadLetters]:
        """Who keeps dead letters: the road, the store, or both."""
        found: list[DeadLetters] = []
        transport = await self._ready()
        if isinstance(transport, DeadLetters):
            found.append(transport)
        store: object = self._store
        if isinstance(store, DeadLetters):
            found.append(StoredLetters(store, self._place))
        return found
