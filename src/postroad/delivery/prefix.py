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
        self._in_hand: dict[Partition, deque[Delivery]] = {}
        self._answers: dict[int, Settlement] = {}

    def received(self, deliveries: Iterable[Delivery]) -> None:
        """Take note of a batch, in the order of each partition's log."""
        for delivery in deliveries:
            place = (delivery.topic, delivery.partition)
            self._in_hand.setdefault(place, deque()).append(delivery)

    def settle(self, settlements: Iterable[Settlement]) -> list[Settlement]:
        """Add answers; returns those that now belong to a contiguous prefix, in log order."""
        touched: set[Partition] = set()
        for settlement in settlements:
            delivery = settlement.delivery
            self._answers[id(delivery)] = settlement
            touched.add((delivery.topic, delivery.partition))
        return [answer for place in sorted(touched) for answer in self._advance(place)]

    def forget(self, partitions: Sequence[Partition]) -> None:
        """These are no longer ours: drop what was held back for them."""
        for place in partitions:
            for delivery in self._in_hand.pop(place, ()):
                self._answers.pop(id(delivery), None)

    def _advance(self, place: Partition) -> list[Settlement]:
        line = self._in_hand.get(place, deque())
        free = []
        while line and id(line[0]) in self._answers:
            free.append(self._answers.pop(id(line.popleft())))
        return free
