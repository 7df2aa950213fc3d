"""Lanes of an ordered queue in which something waits, and who stands in line behind it."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator
from typing import TYPE_CHECKING

from postroad.core.subscription import Order

if TYPE_CHECKING:
    from postroad.transports.memory.queue import Entry

Lane = tuple[str, int]
"""A key (nothing for total order) and a priority: order holds within one priority."""


class Lines:
    """What may not be handed out because something before it in its lane waits: for its retry, or
    as a dead letter that parks the lane.

    Attributes:
        order: of the group; without one there are no lanes.
    """

    def __init__(self) -> None:
        self.order: Order = "none"
        self._blocks: dict[Lane, list[int]] = {}
        self._behind: dict[Lane, list[Entry]] = {}

    def __len__(self) -> int:
        """How many stand in line."""
        return sum(map(len, self._behind.values()))

    def __bool__(self) -> bool:
        """Whether anything blocks its lane."""
        return bool(self._blocks)

    def block(self, entry: Entry) -> None:
        """What comes after this one in its lane has to wait from now on."""
        lane = self._lane(entry)
        if lane is not None:
            insort(self._blocks.setdefault(lane, []), entry.seq)

    def unblock(self, entry: Entry) -> list[Entry]:
        """It blocks nothing any more; returns those that stood in line and may try again."""
        lane = self._lane(entry)
        blocks = self._blocks.get(lane) if lane is not None else None
        if lane is None or blocks is None or entry.seq not in blocks:
            return []
        blocks.remove(entry.seq)
        if not blocks:
            del self._blocks[lane]
        return self._behind.pop(lane, [])

    def holds(self, entry: Entry) -> bool:
        """Whether it has to wait; then it stands in line."""
        lane = self._lane(entry)
        blocks = self._blocks.get(lane) if lane is not None else None
        if lane is None or blocks is None or entry.seq <= blocks[0]:
            return False
        self._behind.setdefault(lane, []).append(entry)
        return True

    def entries(self) -> Iterator[Entry]:
        """Those in line, in no order."""
        for line in self._behind.values():
            yield from line

    def _lane(self, entry: Entry) -> Lane | None:
        # It keeps its lane, also if the group comes back with another order.
        if entry.lane is None:
            message = entry.message
            if self.order == "key" and message.key is not None:
                entry.lane = message.key, message.priority
            elif self.order == "total":
                entry.lane = "", message.priority
        return entry.lane
