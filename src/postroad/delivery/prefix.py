"""The contiguous prefix: what may be committed on a road that settles by position."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from postroad.core.delivery import Delivery, Partition, Settlement

Term: TypeAlias = tuple[str, int, int]
"""Topic, partition, and the fence under which it is owned; 0 where the road has no fences."""


class Prefix:
    """Holds settlements back until everything before them in their partition is settled too.

    On a cumulative road, settling message 500 settles 1 … 499 as well; so while 1 still runs,
    nothing may be said of 2 … 500, however long they have been finished.

    Whatever leaves a line without an answer (it goes back, or its partition is given up) ends the
    line: nothing that is received behind it may be committed, for that would settle it. A
    partition that is owned anew, under a higher fence, is read from its position and begins a
    line of its own.
    """

    def __init__(self) -> None:
        self._lines: dict[Term, deque[Delivery]] = {}
        self._known: set[int] = set()
        self._answers: dict[int, Settlement] = {}
        self._ended: dict[Partition, int] = {}

    def __len__(self) -> int:
        """How many answers are held back."""
        return len(self._answers)

    def received(self, deliveries: Iterable[Delivery]) -> None:
        """Take note of a batch, in the order of each partition's log."""
        for delivery in deliveries:
            term = _term(delivery)
            if term[2] > self._ended.get(term[:2], -1):
                self._lines.setdefault(term, deque()).append(delivery)
                self._known.add(id(delivery))

    def settle(
        self, settlements: Iterable[Settlement]
    ) -> tuple[list[Settlement], list[Settlement]]:
        """Add answers. Returns those that now belong to a contiguous prefix, in log order; and
        those of forgotten partitions and ended lines, which must not be committed."""
        touched: set[Term] = set()
        stale = []
        for settlement in settlements:
            delivery = settlement.delivery
            if id(delivery) in self._known:
                self._answers[id(delivery)] = settlement
                touched.add(_term(delivery))
            else:
                stale.append(settlement)
        return [answer for term in sorted(touched) for answer in self._advance(term)], stale

    def end(self, deliveries: Iterable[Delivery]) -> list[Settlement]:
        """These go back without an answer. Their lines end before them; what was held back
        behind them is dropped and returned."""
        dropped = []
        for delivery in deliveries:
            # One of a forgotten partition says nothing of the line that began since.
            if id(delivery) in self._known:
                term = _term(delivery)
                self._ended[term[:2]] = term[2]
                while id(delivery) in self._known:
                    dropped += self._drop(self._lines[term].pop())
        return dropped

    def forget(
        self, partitions: Sequence[Partition], kept: Iterable[Delivery] = ()
    ) -> list[Settlement]:
        """These are no longer ours: drop what was held back for them, and return it. The lines
        of what is `kept` stay, and so does the newest of several: it began when the partition
        came back."""
        dropped = []
        stay = {_term(delivery) for delivery in kept}
        for place in partitions:
            terms = sorted(term for term in self._lines if term[:2] == place)
            for term in terms[:-1] or terms:
                if term not in stay:
                    self._ended[place] = term[2]
                    for delivery in self._lines.pop(term):
                        dropped += self._drop(delivery)
            if not self._ended.get(place, 1):
                # Without fences nothing tells the next line from this one.
                del self._ended[place]
        return dropped

    def _drop(self, delivery: Delivery) -> list[Settlement]:
        self._known.discard(id(delivery))
        answer = self._answers.pop(id(delivery), None)
        return [] if answer is None else [answer]

    def _advance(self, term: Term) -> list[Settlement]:
        line = self._lines[term]
        free = []
        while line and id(line[0]) in self._answers:
            identity = id(line.popleft())
            self._known.discard(identity)
            free.append(self._answers.pop(identity))
        return free


def _term(delivery: Delivery) -> Term:
    return delivery.topic, delivery.partition, delivery.fence or 0
