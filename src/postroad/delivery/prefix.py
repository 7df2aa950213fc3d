"""The contiguous prefix: what may be committed on a road that settles by position."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from postroad.core.delivery import Delivery, Partition, Settlement


class Prefix:
    """Holds settlements back until everything before them in their partition is settled too.

    On a cumulative road, settling message 500 settles 1 … 499 as well; so while 1 still runs,
    nothing may be said of 2 … 500, however long they have been finished.
    """

    def __init__(self) -> None:
        self._lines: dict[Partition, deque[Delivery]] = {}
        self._known: set[int] = set()
        self._answers: dict[int, Settlement] = {}

    def __len__(self) -> int:
        """How many answers are held back."""
        return len(self._answers)

    def received(self, deliveries: Iterable[Delivery]) -> None:
        """Take note of a batch, in the order of each partition's log."""
        for delivery in deliveries:
            place = (delivery.topic, delivery.partition)
            self._lines.setdefault(place, deque()).append(delivery)
            self._known.add(id(delivery))

    def settle(
        self, settlements: Iterable[Settlement]
    ) -> tuple[list[Settlement], list[Settlement]]:
        """Add answers. Returns those that now belong to a contiguous prefix, in log order; and
        those of forgotten partitions, which must not be committed."""
        touched: set[Partition] = set()
        stale = []
        for settlement in settlements:
            delivery = settlement.delivery
            if id(delivery) in self._known:
                self._answers[id(delivery)] = settlement
                touched.add((delivery.topic, delivery.partition))
            else:
                stale.append(settlement)
        return [answer for place in sorted(touched) for answer in self._advance(place)], stale

    def forget(self, partitions: Sequence[Partition]) -> list[Settlement]:
        """These are no longer ours: drop what was held back for them, and return it."""
        dropped = []
        for place in partitions:
            for delivery in self._lines.pop(place, ()):
                self._known.discard(id(delivery))
                answer = self._answers.pop(id(delivery), None)
                if answer is not None:
                    dropped.append(answer)
        return dropped

    def _advance(self, place: Partition) -> list[Settlement]:
        line = self._lines[place]
        free = []
        while line and id(line[0]) in self._answers:
            identity = id(line.popleft())
            self._known.discard(identity)
            free.append(self._answers.pop(identity))
        return free
