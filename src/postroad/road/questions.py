"""Asking: topics, lag, audit and dead letters, of the road and of its store; moving a group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from postroad.core.delivery import Start
from postroad.core.pattern import matches
from postroad.core.reports import Lag, TopicInfo
from postroad.core.transport import Audited, DeadLetters, Source
from postroad.delivery.audit import Audit, Entry, audit
from postroad.delivery.dead_letters import DeadLetterDesk
from postroad.delivery.moving import FORWARDER, moved_name
from postroad.delivery.stored import StoredLetters, delayed_groups, stored_groups
from postroad.errors import NotFoundError, NotSupportedError
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
        the store is told under the name of its topic there. So is what is due to be published
        from there, whichever group is asked about: it is on its way to each of them.

        Raises:
            NotSupportedError: the road cannot name its groups.
        """
        source = await self._source()
        if not isinstance(source, Audited):
            raise NotSupportedError(f"{self.url} cannot list its groups")
        store: Any = self._store
        # In this order, which is theirs: what goes from one place to the next meanwhile is
        # written before it is settled, so it is seen twice and never not at all.
        delayed = [await store.lag(*pair) for pair in await self._delayed(pattern)]
        pairs = await source.groups(pattern)
        found = [await source.lag(*pair) for pair in pairs if group in (None, pair[1])]
        moved = await self._moved(pattern, group)
        external = await self._external_lag(pattern, group)
        return [*found, *[await store.lag(*pair) for pair in moved], *delayed, *external]

    async def _external_lag(self, pattern: str, group: str | None) -> Sequence[Lag]:
        return [
            await transport.lag(subscription.source_name, subscription.group or "")
            for transport, subscription in self._external()
            if isinstance(transport, Source)
            and matches(pattern, subscription.source_name)
            and group in (None, subscription.group)
        ]

    async def settled(self, pattern: str = "#", group: str | None = None) -> None:
        """Return when these groups have settled all that is not scheduled for later; for scripts
        and tests. Bound it with `asyncio.timeout`: without consumers it never returns."""
        wait = 0.002
        while any(one.messages != 0 for one in await self.lag(pattern, group)):
            await self.clock.sleep(wait)
            wait = min(wait * 2, 0.1)

    async def audit(self, pattern: str = "#", group: str | None = None) -> Audit:
        """What became of every message accepted; see `Audit`. What was moved to the store is
        accounted for there, under the name of its topic there. What waits there to be published
        is scheduled for every group of its topic; which of it was published and which died is
        accounted for there too, whichever group is asked about."""
        transport = await self._ready()
        # First: see `lag`.
        delayed = await self._stored(await self._delayed(pattern))
        try:
            found = (await audit(transport, pattern, group, delayed=self._counted(delayed))).entries
        except NotFoundError:
            if not delayed or group not in (None, FORWARDER):
                raise
            found = ()
        moved = await self._stored(await self._moved(pattern, group))
        return Audit((*found, *moved, *delayed))

    async def _stored(self, pairs: Sequence[tuple[str, str]]) -> Sequence[Entry]:
        store: Any = self._store
        return [entry for pair in pairs for entry in (await audit(store, *pair)).entries]

    def _counted(self, delayed: Sequence[Entry]) -> Callable[[str], int]:
        """Topic → how many of its messages wait in the store to be published."""
        prefix = "" if self._delaying is None else self._delaying.prefix
        numbers = {entry.topic: entry.pending for entry in delayed}
        return lambda topic: numbers.get(moved_name(prefix, topic), 0)

    async def _moved(self, pattern: str, group: str | None) -> Sequence[tuple[str, str]]:
        """See `stored_groups`."""
        store: Any = self._store
        return () if store is None else await stored_groups(store, self._place, pattern, group)

    async def _delayed(self, pattern: str) -> Sequence[tuple[str, str]]:
        """See `delayed_groups`."""
        store: Any = self._store
        delaying = self._delaying
        return () if delaying is None else await delayed_groups(store, delaying.prefix, pattern)

    async def seek(self, topic: str, group: str, to: Start) -> None:
        """Move a group that is at rest; its audit starts anew, and the inbox forgets what it has
        handled of the topic, so that it handles that again. Sequence numbers begin anew with
        what comes first, or with `Sequence.first`.

        Raises:
            GroupActiveError: it has live consumers.
        """
        await (await self._source()).seek(topic, group, to)
        if self._inbox is not None:
            await self._inbox.forget(topic, group)
        standings = self._standings(group)
        if standings is not None:
            await standings.forget(topic)

    async def _keepers(self) -> Sequence[DeadLetters]:
        """Who keeps dead letters: the road, the store, or both."""
        found: list[DeadLetters] = []
        transport = await self._ready()
        if isinstance(transport, DeadLetters):
            found.append(transport)
        store: object = self._store
        if isinstance(store, DeadLetters):
            delayed = None if self._delaying is None else self._delaying.prefix
            found.append(StoredLetters(store, self._place, delayed))
        external = (one for one, _ in self._external() if isinstance(one, DeadLetters))
        return [*found, *external]
