"""One consumer of a memory road: a member of a group, or an ephemeral reader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any, Protocol

from postroad.core.clock import Clock
from postroad.core.delivery import Delivery, Partition, Settled, Settlement
from postroad.core.message import Message
from postroad.core.notices import Notice
from postroad.core.subscription import Subscription
from postroad.core.topic import Topic
from postroad.core.transport import Plan
from postroad.errors import ClosedError
from postroad.transports.memory.channel import Channel
from postroad.transports.memory.ownership import Owners
from postroad.transports.memory.queue import Member, Moment, Queue, Seat
from postroad.transports.memory.waiting import wait_for


class Road(Protocol):
    """What a consumer needs of its transport."""

    def now(self) -> Moment: ...

    def left(self, consumer: MemoryConsumer) -> None: ...

    async def make_room(
        self, messages: Sequence[tuple[Topic[Any], Message]], exempt: frozenset[Queue]
    ) -> Callable[[], None]: ...


class _Place:
    """Where a consumer sits: its seat at a queue of a channel."""

    __slots__ = ("channel", "queue", "seat")

    def __init__(self, channel: Channel, queue: Queue, seat: Seat) -> None:
        self.channel = channel
        self.queue = queue
        self.seat = seat


class MemoryConsumer:
    """Implements `Consumer` and `AtomicSettle`.

    Only `receive` and `settle_and_publish` ever wait; all else is done when the call returns.
    Cancelling `receive` loses nothing, for it leases only when it is about to return. Any call is
    a sign of life. A delivery that is held past its lease goes to somebody else and answering it
    is stale, whether somebody took it yet or not.
    """

    def __init__(self, road: Road, clock: Clock, subscription: Subscription, plan: Plan) -> None:
        self.subscription = subscription
        self._road = road
        self._clock = clock
        self._ordered = plan.ordered
        self._parks = plan.parks
        self._member = Member(plan.lease.total_seconds(), clock.monotonic())
        self._places: dict[str, _Place] = {}
        self._turn = 0
        self._closed = False

    def attach(self, channel: Channel) -> None:
        """Sit down at a topic's queue. For the transport."""
        now = self._road.now()
        group = self.subscription.group
        queue = channel.ephemeral(now) if group is None else channel.group(group, now)
        seat = Seat(self._member)
        seat.parks = self._parks
        if self._ordered:
            queue.lines.order = "total" if self.subscription.order == "total" else "key"
        queue.seats.append(seat)
        self._places[channel.name] = _Place(channel, queue, seat)
        if self._ordered and queue.owners is None:
            queue.owners = Owners(queue)
            for other in queue.seats:
                queue.owners.join(other, now.mono)
        elif queue.owners is not None:
            queue.owners.join(seat, now.mono)
        queue.wake()

    # ------------------------------------------------------------- receiving

    async def receive(self, limit: int, max_bytes: int, wait: timedelta) -> Sequence[Delivery]:
        """See `Consumer.receive`. Also lets other tasks run once, however full the queue is.

        Raises:
            ClosedError: after `close`. One that waits while it is closed returns empty.
        """
        self._check_open()
        deadline = self._clock.monotonic() + wait.total_seconds()
        self._member.receiving = True
        try:
            await asyncio.sleep(0)
            while not self._closed:
                now = self._sweep()
                batch = self._take(limit, max_bytes, now)
                if batch or now.mono >= deadline:
                    return batch
                await self._wait(min(deadline, self._next_event(now)) - now.mono)
            return []
        finally:
            self._member.receiving = False
            self._member.alive_until = self._clock.monotonic() + self._member.lease

    def _take(self, limit: int, max_bytes: int, now: Moment) -> list[Delivery]:
        batch: list[Delivery] = []
        room = max_bytes
        for place in self._rotated():
            batch, room = place.queue.take(place.seat, batch, limit, room, now)
        return batch

    def _rotated(self) -> Sequence[_Place]:
        """All places, each time with another one first, so that no topic starves the others."""
        places = tuple(self._places.values())
        if len(places) < 2:
            return places
        self._turn = (self._turn + 1) % len(places)
        return places[self._turn :] + places[: self._turn]

    async def _wait(self, seconds: float) -> None:
        bell = self._member.waker = asyncio.get_running_loop().create_future()
        try:
            await wait_for(bell, self._clock, seconds)
        finally:
            self._member.waker = None

    def _sweep(self) -> Moment:
        now = self._alive()
        for place in self._places.values():
            place.channel.release_due(now)
            place.queue.sweep(now)
        return now

    def _next_event(self, now: Moment) -> float:
        times = [place.queue.next_event(now) for place in self._places.values()]
        for place in self._places.values():
            due = place.channel.next_due(now)
            if due is not None:
                times.append(due)
        return min(times, default=now.mono + self._member.lease)

    def _alive(self) -> Moment:
        """A sign of life: membership is renewed, or taken up again where it was lost."""
        now = self._road.now()
        lapsed = self._member.alive_until <= now.mono
        self._member.alive_until = now.mono + self._member.lease
        if lapsed:
            for place in self._places.values():
                if place.queue.owners is not None:
                    place.queue.owners.join(place.seat, now.mono)
        return now

    # ------------------------------------------------------------- answering

    async def begin(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """See `Consumer.begin`."""
        now = self._alive()
        owned = []
        for delivery in deliveries:
            place = self._places.get(delivery.topic)
            entry = place and place.queue.owned(place.seat, delivery, now)
            if entry:
                entry.begun = True
                owned.append(delivery)
        return owned

    async def extend(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """See `Consumer.extend`."""
        now = self._alive()
        owned = []
        for delivery in deliveries:
            place = self._places.get(delivery.topic)
            entry = place and place.queue.owned(place.seat, delivery, now)
            if entry:
                entry.lease_at = now.mono + self._member.lease
                owned.append(delivery)
        return owned

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        """See `Consumer.settle`."""
        return self._settle(settlements, self._alive())

    def _settle(self, settlements: Sequence[Settlement], now: Moment) -> list[Settled]:
        answers: list[Settled] = []
        touched: dict[str, _Place] = {}
        for settlement in settlements:
            place = self._places.get(settlement.delivery.topic)
            if place is None:
                answers.append("stale")
                continue
            answers.append(place.queue.settle(place.seat, settlement, now))
            touched[place.queue.topic] = place
        for place in touched.values():
            place.channel.open_room()
            if place.queue.owners is not None:
                place.queue.owners.advance(now.mono)
        return answers

    async def settle_and_publish(
        self, settlements: Sequence[Settlement], messages: Sequence[tuple[Topic[Any], Message]]
    ) -> Sequence[Settled]:
        """See `AtomicSettle`. Waits for room like a publisher, so that a slow group holds up what
        feeds it; but a queue that the call settles in is let overflow by its results, as a
        handler that publishes to its own group would otherwise wait for itself.

        Raises:
            PublishError: refused for want of room, by `when_full=refuse`; nothing is committed.
        """
        touched = (self._places.get(settlement.delivery.topic) for settlement in settlements)
        exempt = frozenset(place.queue for place in touched if place is not None)
        publish = await self._road.make_room(messages, exempt)
        now = self._alive()
        owned = [self._owns(settlement.delivery, now) for settlement in settlements]
        if not all(owned):
            return ["unknown" if own else "stale" for own in owned]
        publish()
        return self._settle(settlements, now)

    def _owns(self, delivery: Delivery, now: Moment) -> bool:
        place = self._places.get(delivery.topic)
        return place is not None and place.queue.owned(place.seat, delivery, now) is not None

    # ------------------------------------------------------------- partitions

    async def pause(self, partitions: Sequence[Partition]) -> None:
        """See `Consumer.pause`."""
        for place, number in self._located(partitions):
            place.seat.paused.add(number)

    async def resume(self, partitions: Sequence[Partition]) -> None:
        """See `Consumer.resume`."""
        for place, number in self._located(partitions):
            place.seat.paused.discard(number)
        self._member.wake()

    async def release(self, partitions: Sequence[Partition]) -> None:
        """See `Consumer.release`. Partitions that are not being revoked are left alone."""
        now = self._alive()
        for place, number in self._located(partitions):
            if place.queue.owners is not None:
                place.queue.owners.release(place.seat, [number], now.mono)

    def _located(self, partitions: Sequence[Partition]) -> Iterable[tuple[_Place, int]]:
        for topic, number in partitions:
            place = self._places.get(topic)
            if place is not None:
                yield place, number

    # ------------------------------------------------------------- life

    def notices(self) -> AsyncIterator[Notice]:
        """See `Consumer.notices`."""
        return aiter(self._member.notices)

    async def close(self) -> None:
        """See `Consumer.close`. An ephemeral reader's queue goes with it."""
        if self._closed:
            return
        self._closed = True
        now = self._road.now()
        for place in self._places.values():
            self._stand_up(place, now)
        self._places.clear()
        self._member.notices.close()
        self._member.wake()
        self._road.left(self)

    def _stand_up(self, place: _Place, now: Moment) -> None:
        queue, seat = place.queue, place.seat
        queue.sweep(now)
        queue.hand_back(seat)
        queue.seats.remove(seat)
        if queue.owners is not None:
            queue.owners.leave(seat, now.mono)
            queue.owners = queue.owners if queue.seats else None
        if queue.group is None:
            place.channel.drop(queue)
        queue.wake()

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(f"the consumer of {self.subscription} is closed")
