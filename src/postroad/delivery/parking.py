"""Keys that are parked: their messages went back to wait on the road, in order."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta

from postroad.core.clock import Clock
from postroad.core.delivery import Delivery, Partition, Settlement
from postroad.delivery.lanes import LaneKey, Lanes


@dataclass(slots=True)
class _Parked:
    """A lane that went back behind the message `head`, which is due at `due` (monotonic)."""

    head: str
    place: Partition
    due: float
    told: bool = False


class Parking:
    """Gives lanes back to a road that keeps their order (`Capabilities.parking`): the first
    message with its delay or as a dead letter, then all that stood behind it.

    The road holds back what comes later of such a lane from the moment it heard of it. What it
    handed out just before is still on its way then, and turned away here: it would overtake.

    Args:
        answer: settles, soon, and in the order of the calls.
    """

    def __init__(self, lanes: Lanes, clock: Clock, answer: Callable[[Settlement], None]) -> None:
        self._lanes = lanes
        self._clock = clock
        self._answer = answer
        self._parked: dict[LaneKey, _Parked] = {}
        self._heads: dict[int, _Parked] = {}

    def park(self, head: Delivery, delay: timedelta) -> None:
        """Give a waiting message and what stands behind it back, to go on after `delay`."""
        self._give_back(head, Settlement(head, "nack", delay=delay), delay)

    def bury(self, reject: Settlement) -> None:
        """Reject a message, and give what stands behind it back to wait for its redrive."""
        self._give_back(reject.delivery, reject, timedelta(0))

    def turns_away(self, delivery: Delivery) -> bool:
        """Whether what just came was handed out too late; it is given back then."""
        if not self._parked:
            return False
        lane = self._lanes.lane_of(delivery)
        parked = self._parked.get(lane)
        if parked is None:
            return False
        if delivery.message.id == parked.head:
            del self._parked[lane]
            return False
        rest = max(0.0, parked.due - self._clock.monotonic())
        self._answer(Settlement(delivery, "nack", delay=timedelta(seconds=rest)))
        return True

    def settled(self, settlements: Sequence[Settlement]) -> None:
        """The road has heard these answers."""
        for settlement in settlements if self._heads else ():
            parked = self._heads.pop(id(settlement.delivery), None)
            if parked is not None:
                parked.told = True

    def receiving(self) -> None:
        """What is received from now on is handed out by a road that knows what it was told."""
        if self._parked:
            self._parked = {lane: one for lane, one in self._parked.items() if not one.told}

    def forget(self, partitions: Collection[Partition]) -> None:
        """These are no longer ours."""
        self._parked = {
            lane: one for lane, one in self._parked.items() if one.place not in partitions
        }

    def _give_back(self, head: Delivery, answer: Settlement, delay: timedelta) -> None:
        lane = self._lanes.lane_of(head)
        behind = self._lanes.end(head)
        if lane is not None:
            due = self._clock.monotonic() + delay.total_seconds()
            parked = _Parked(head.message.id, (head.topic, head.partition), due)
            self._parked[lane] = self._heads[id(head)] = parked
        self._answer(answer)
        for delivery in behind:
            self._answer(Settlement(delivery, "nack", delay=delay))
