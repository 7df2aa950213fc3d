"""Keys that are parked: their messages went back to wait on the road, in order."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeAlias

from postroad.core.clock import Clock
from postroad.core.delivery import Delivery, Partition, Settlement
from postroad.delivery.lanes import LaneKey, Lanes
from postroad.delivery.moving import Moving
from postroad.delivery.patience import patiently

_AT_ONCE = timedelta(microseconds=1)
"""A delay, so that the message is moved, and none that anybody would notice."""


@dataclass(slots=True)
class _Parked:
    """A lane that went back behind `head`, which is due at `due` (monotonic); `untold` answers
    of it the road has not heard yet."""

    head: tuple[str, Any]
    place: Partition
    due: float
    untold: int = 0


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
        self._untold: dict[int, _Parked] = {}

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
        if not parked.untold and _identity(delivery) == parked.head:
            del self._parked[lane]
            return False
        rest = max(0.0, parked.due - self._clock.monotonic())
        self._tell(parked, Settlement(delivery, "nack", delay=timedelta(seconds=rest)))
        return True

    async def look(self, batch: Sequence[Delivery]) -> bool:
        """To be called with each batch before `turns_away`; whether that took any time, in which
        something may have been lost. Here everything is known."""
        return False

    def settled(self, settlements: Sequence[Settlement]) -> None:
        """The road has heard these answers."""
        for settlement in settlements if self._untold else ():
            parked = self._untold.pop(id(settlement.delivery), None)
            if parked is not None:
                parked.untold -= 1

    @property
    def told(self) -> bool:
        """Whether the road has heard all that it was to be told. Only then may more be received:
        else what is turned away comes back before that is heard, and goes round and round."""
        return not self._untold

    def receiving(self) -> None:
        """What is received from now on is handed out by a road that knows what it was told."""
        self._parked.clear()

    def forget(self, partitions: Collection[Partition]) -> None:
        """These are no longer ours."""
        self._parked = {
            lane: one for lane, one in self._parked.items() if one.place not in partitions
        }

    def _give_back(self, head: Delivery, answer: Settlement, delay: timedelta) -> None:
        lane = self._lanes.lane_of(head)
        answers = [answer]
        answers += [Settlement(one, "nack", delay=delay) for one in self._lanes.end(head)]
        due = self._clock.monotonic() + delay.total_seconds()
        parked = _Parked(_identity(head), (head.topic, head.partition), due)
        if lane is not None:
            self._parked[lane] = parked
        for one in answers:
            self._tell(parked, one)

    def _tell(self, parked: _Parked, answer: Settlement) -> None:
        self._untold[id(answer.delivery)] = parked
        parked.untold += 1
        self._answer(answer)


_Key: TypeAlias = tuple[str, str]
"""Topic and key."""


class StoreParking(Parking):
    """Parks lanes in the store of a road that keeps no order behind a delay.

    Whoever owns a partition is the only one who moves its messages. So it asks the store once
    which keys an earlier owner has left there; after that it knows them all, and asks again only
    when more comes of a key that was parked: the store may have done with it by then.
    """

    def __init__(
        self, lanes: Lanes, clock: Clock, answer: Callable[[Settlement], None], moving: Moving
    ) -> None:
        super().__init__(lanes, clock, answer)
        self._moving = moving
        self._known: set[Partition] = set()
        self._forgotten = 0
        self._keys: dict[_Key, int] = {}
        self._under_way: dict[int, _Key] = {}

    async def look(self, batch: Sequence[Delivery]) -> bool:
        """Find out what the store still has of the keys of this batch."""
        new = {(one.topic, one.partition) for one in batch} - self._known
        keys = {key for one in batch if (key := _key(one)) in self._keys}
        # What is still on its way there is not there yet.
        idle = {key for key in keys if not self._keys[key]}
        if not new and not idle:
            return False
        forgotten = self._forgotten
        unsettled: set[_Key] = set()
        for topic in {topic for topic, _ in (*new, *idle)}:
            asked = None
            if not any(name == topic for name, _ in new):
                asked = {key for name, key in idle if name == topic}
            unsettled |= await patiently(
                self._clock,
                lambda: self._moving.unsettled_keys(topic, asked),  # noqa: B023
            )
        for key in idle - unsettled:
            del self._keys[key]
        for key in unsettled:
            self._keys.setdefault(key, 0)
        if forgotten == self._forgotten:
            self._known |= new
        return True

    def turns_away(self, delivery: Delivery) -> bool:
        """Whether its key is parked; it joins it then."""
        key = _key(delivery)
        if key is None or key not in self._keys:
            return False
        self._move(delivery, Settlement(delivery, "nack", delay=_AT_ONCE))
        return True

    def settled(self, settlements: Sequence[Settlement]) -> None:
        """The store and the road have heard these answers."""
        for settlement in settlements if self._under_way else ():
            key = self._under_way.pop(id(settlement.delivery), None)
            if key is not None and key in self._keys:
                self._keys[key] -= 1

    def receiving(self) -> None:
        """What is parked stays so until the store has done with it."""

    def forget(self, partitions: Collection[Partition]) -> None:
        """These are no longer ours: their next owner, or we if they come back, asks again."""
        self._known -= set(partitions)
        self._forgotten += 1

    def _give_back(self, head: Delivery, answer: Settlement, delay: timedelta) -> None:
        behind = self._lanes.end(head)
        self._move(head, answer)
        for delivery in behind:
            self._move(delivery, Settlement(delivery, "nack", delay=max(delay, _AT_ONCE)))

    def _move(self, delivery: Delivery, answer: Settlement) -> None:
        key = _key(delivery)
        if key is not None:
            self._keys[key] = self._keys.get(key, 0) + 1
            self._under_way[id(delivery)] = key
        self._answer(answer)


def _identity(delivery: Delivery) -> tuple[str, Any]:
    return delivery.message.id, delivery.offset


def _key(delivery: Delivery) -> _Key | None:
    key = delivery.message.key
    return None if key is None else (delivery.topic, key)
