"""One numbering in a consumer's hands: what runs, what waits for its turn, what is missing."""

from __future__ import annotations

from hashlib import blake2b
from typing import Literal, TypeAlias

from postroad.core.delivery import Delivery, Partition
from postroad.core.sequence import LineId, Standing

Arrival: TypeAlias = Literal["runs", "waits", "repeated", "late"]
"""What becomes of a message that has come: it may run after those before it, waits until these
have come, was handled already, or comes too late to take its place."""


class Line:
    """The messages of one numbering that are unsettled here. Knows no clock: instants come in.

    Args:
        standing: where the group stands; None if it is new to it, and `begin` has to be called.

    Attributes:
        begun: whether it is known which number it begins with.
        saved: the standing as it was written last; None if it never was.
        place: the partition that its messages come from.
        running: number → the delivery that was handed out and is not answered.
        waiting: number → the delivery that is held back, and when it came.
        again: number → one that came once more while the first was handed out: what becomes of
            it depends on that one.
    """

    def __init__(self, line: LineId, place: Partition, standing: Standing | None) -> None:
        self.id = line
        self.place = place
        self.standing = Standing(0, 0) if standing is None else standing
        self.begun = standing is not None
        self.saved = None if standing is None else standing.copy()
        self.running: dict[int, Delivery] = {}
        self.waiting: dict[int, tuple[Delivery, float]] = {}
        self.again: dict[int, Delivery] = {}
        self._patient_until = 0.0
        self._next = self.standing.after(self.standing.next)

    def begin(self, number: int) -> None:
        """It is new to the group and begins with this number."""
        self.standing = Standing(number, number)
        self.begun = True
        self._next = number

    @property
    def idle(self) -> bool:
        """Whether nothing of it is in hand, and nothing is to be written."""
        return not (self.running or self.waiting or self.again) and (
            self.standing.since(self.id, self.saved) is None
        )

    # ------------------------------------------------ coming

    def arrive(self, number: int, delivery: Delivery, now: float) -> Arrival:
        """Take in a message with this number. What may run comes out of `ready`."""
        known = self.running.get(number)
        if known is not None:
            if not _same(known, delivery):
                return "repeated"
            self.again[number] = delivery
            return "waits"
        fate = self.standing.fate(number, tag_of(delivery))
        if fate == "repeated" or fate == "late":
            return fate
        if fate == "redriven" or number < self._next:
            self.running[number] = delivery
            return "runs"
        held = self.waiting.get(number)
        if held is not None and not _same(held[0], delivery):
            return "repeated"
        self.waiting[number] = (delivery, now if held is None else held[1])
        return "waits"

    def held(self, number: int) -> Delivery | None:
        """The delivery with this number that is held back, if there is one."""
        waiting = self.waiting.get(number)
        return self.again.get(number) if waiting is None else waiting[0]

    def ready(self) -> list[Delivery]:
        """What may run now, in order; it counts as handed out."""
        found = []
        while True:
            self._next = self.standing.after(self._next)
            held = self.waiting.pop(self._next, None)
            if held is not None:
                self.running[self._next] = held[0]
                found.append(held[0])
            elif self._next not in self.running:
                return found
            self._next += 1

    # ------------------------------------------------ missing

    def deadline(self, gap: float) -> float | None:
        """When the wait for what is missing is over; None if nothing waits for it."""
        if not self.waiting:
            return None
        return max(min(since for _, since in self.waiting.values()), self._patient_until) + gap

    def give_up(self) -> list[tuple[int, int]]:
        """Stop waiting for what is missing before the first that waits; returns its ranges. What
        waited behind it comes out of `ready`."""
        lowest = min(self.waiting)
        missing = self.standing.unmarked(self._next, lowest - 1)
        for first, last in missing:
            self.standing.miss(first, last)
        self._next = lowest
        return missing

    # ------------------------------------------------ going

    def returned(self, number: int, due: float) -> Delivery | None:
        """The one handed out went back, or was lost; it comes again about `due`. Returns one
        that has come already."""
        self.running.pop(number, None)
        self._next = min(self._next, number)
        # Whoever waits behind it need not hurry before it can be back.
        self._patient_until = max(self._patient_until, due)
        return self.again.pop(number, None)

    def answered(self, number: int) -> Delivery | None:
        """The one handed out is done with. Returns one that has come since."""
        self.running.pop(number, None)
        return self.again.pop(number, None)

    def drop(self, number: int, delivery: Delivery) -> None:
        """A delivery that is held back here is not ours any more."""
        held = self.waiting.get(number)
        if held is not None and held[0] is delivery:
            del self.waiting[number]
        if self.again.get(number) is delivery:
            del self.again[number]


def tag_of(delivery: Delivery) -> str:
    """What tells the message on its road from others with the same number, in few characters."""
    message = delivery.message
    text = f"{delivery.position} {message.id} {message.source}"
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _same(one: Delivery, other: Delivery) -> bool:
    """Whether both are deliveries of one message of the road, of which the later one counts. On a
    road without a log nobody can tell that from two messages with one id: they are taken for one,
    since a copy may be dropped only while the other one is sure to be there."""
    return (one.message.id, one.message.source, one.position) == (
        other.message.id,
        other.message.source,
        other.position,
    )
