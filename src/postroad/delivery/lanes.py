"""Lanes: which of the messages in hand may run now.

Without order everything may. With order a lane holds the messages of one key (or of the whole
topic, for total order): its first one runs, the others wait in line behind it. Costs per message
are one dict look-up and two deque operations.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from postroad.core.delivery import Delivery, Partition
from postroad.core.subscription import Order

LaneKey: TypeAlias = Any


class Lanes:
    """The messages in hand that have not started, and the lanes that are busy.

    Args:
        order: as declared.
    """

    def __init__(self, order: Order) -> None:
        self._ready: deque[Delivery] = deque()
        self._waiting: dict[LaneKey, deque[Delivery]] = {}
        self._lane_of = _LANE_FUNCTIONS[order]
        self._ordered = order != "none"

    def __len__(self) -> int:
        """How many could start now."""
        return len(self._ready)

    def add(self, deliveries: Iterable[Delivery]) -> None:
        """Take a batch in, in the order of the log."""
        if not self._ordered:
            self._ready.extend(deliveries)
            return
        waiting, lane_of, ready = self._waiting, self._lane_of, self._ready
        for delivery in deliveries:
            lane = lane_of(delivery)
            if lane is None:
                ready.append(delivery)
            elif lane in waiting:
                waiting[lane].append(delivery)
            else:
                waiting[lane] = deque()
                ready.append(delivery)

    def pop(self) -> Delivery | None:
        """The next that may start; its lane is busy until `done`. None if there is none."""
        return self._ready.popleft() if self._ready else None

    def done(self, delivery: Delivery) -> None:
        """Its message is finished with: the next of its lane may start."""
        if not self._ordered:
            return
        lane = self._lane_of(delivery)
        line = self._waiting.get(lane)
        if line is None:
            return
        if line:
            self._ready.append(line.popleft())
        else:
            del self._waiting[lane]

    def end(self, delivery: Delivery) -> list[Delivery]:
        """End the lane of a message that is busy or held; returns what stood behind it."""
        return list(self._waiting.pop(self._lane_of(delivery), ()))

    def lane_of(self, delivery: Delivery) -> LaneKey:
        """What its lane is known by; None if it has none."""
        return self._lane_of(delivery)

    def again(self, delivery: Delivery) -> None:
        """Its wait is over: it may start once more. Its lane stayed busy all the time."""
        self._ready.append(delivery)

    def waiting_behind(self, delivery: Delivery) -> int:
        """How many wait in the lane of a message that is busy or held."""
        return len(self._waiting.get(self._lane_of(delivery), ())) if self._ordered else 0

    def bytes_behind(self, delivery: Delivery) -> int:
        """How many payload bytes wait in the lane of a message that is busy or held."""
        line = self._waiting.get(self._lane_of(delivery), ()) if self._ordered else ()
        return sum(len(waiting.message.data) for waiting in line)

    def take_back(self, partitions: Iterable[Partition] | None = None) -> list[Delivery]:
        """Remove and return all that have not started: of these partitions, or all.

        Busy lanes stay busy until `done`.
        """
        if partitions is None:
            return self.take(lambda delivery: True)
        wanted = set(partitions)
        return self.take(lambda delivery: (delivery.topic, delivery.partition) in wanted)

    def take(self, wanted: Callable[[Delivery], bool]) -> list[Delivery]:
        """As `take_back`, of those that are wanted."""
        taken = [delivery for delivery in self._ready if wanted(delivery)]
        self._ready = deque(delivery for delivery in self._ready if not wanted(delivery))
        started = {self._lane_of(delivery) for delivery in taken} if self._ordered else set()
        for lane, line in list(self._waiting.items()):
            removed = [delivery for delivery in line if wanted(delivery)]
            taken.extend(removed)
            kept = deque(delivery for delivery in line if not wanted(delivery))
            if lane in started and kept:
                self._ready.append(kept.popleft())
            elif lane in started:
                del self._waiting[lane]
                continue
            self._waiting[lane] = kept
        return taken


def _no_lane(delivery: Delivery) -> LaneKey:
    return None


def _key_lane(delivery: Delivery) -> LaneKey:
    message = delivery.message
    if message.key is None:
        return None
    # Order holds within one priority: a message of a higher level may overtake its key.
    return (delivery.topic, message.key, message.priority)


def _topic_lane(delivery: Delivery) -> LaneKey:
    return delivery.topic


_LANE_FUNCTIONS: dict[Order, Callable[[Delivery], LaneKey]] = {
    "none": _no_lane,
    "key": _key_lane,
    "total": _topic_lane,
}
