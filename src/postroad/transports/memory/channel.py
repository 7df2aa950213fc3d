"""One topic: its scheduled messages, its queues, and the room in them."""

from __future__ import annotations

import asyncio
from asyncio import Future
from collections.abc import Iterator
from heapq import heappop, heappush
from itertools import count

from postroad.core.clock import Clock
from postroad.core.delivery import Receipt
from postroad.core.message import Message
from postroad.core.partitioner import partition_of
from postroad.core.reports import Account, Lag, PartitionLag
from postroad.transports.memory.queue import Entry, Moment, Queue
from postroad.transports.memory.waiting import ring, wait_for

_ACCEPTED = Receipt()


class _Scheduled:
    """A message that waits for its time; `message` is None once it is withdrawn."""

    __slots__ = ("message",)

    def __init__(self, message: Message) -> None:
        self.message: Message | None = message


class Channel:
    """A topic of a memory road.

    A scheduled message belongs to the topic until it is due, and then takes its place in every
    queue there is: also in one that is younger than the message. `accepted` is the publishing
    side's counter; a queue remembers where it stood when it began.
    """

    def __init__(self, name: str, partitions: int, capacity: int, fences: Iterator[int]) -> None:
        self.name = name
        self.partitions = partitions
        self.accepted = 0
        self.groups: dict[str, Queue] = {}
        self.queues: list[Queue] = []
        self.publishers = 0
        self.turn = asyncio.Lock()
        self._capacity = capacity
        self._fences = fences
        self._places = count()
        self._scheduled: list[tuple[int, int, _Scheduled]] = []
        self._withdrawn = 0
        self._room: Future[None] | None = None

    # ------------------------------------------------------------- queues

    def group(self, name: str, now: Moment) -> Queue:
        """The group's queue, which begins now if it is new."""
        queue = self.groups.get(name)
        if queue is None:
            queue = self.groups[name] = self._new_queue(name, now)
        return queue

    def ephemeral(self, now: Moment) -> Queue:
        """A queue of its own for one consumer."""
        return self._new_queue(None, now)

    def drop(self, queue: Queue) -> None:
        """Forget an ephemeral queue and what is in it."""
        self.queues.remove(queue)
        self.open_room()

    def _new_queue(self, group: str | None, now: Moment) -> Queue:
        base = self.accepted - self.scheduled
        queue = Queue(self.name, group, self.partitions, self._fences, base)
        queue.since_us = now.us
        self.queues.append(queue)
        return queue

    # ------------------------------------------------------------- in

    def accept(self, message: Message, now: Moment) -> Receipt:
        """Take a message, whether there is room or not."""
        if self._scheduled:
            self.release_due(now)
        self.accepted += 1
        due = message.deliver_at_us
        if due is None or due <= now.us:
            self._place(message, now.us)
            return _ACCEPTED
        heappush(self._scheduled, (due, next(self._places), _Scheduled(message)))
        for queue in self.queues:
            queue.wake()
        return Receipt(recall=message.id)

    def _place(self, message: Message, since_us: int) -> None:
        seq = next(self._places)
        key = message.key
        partition = seq % self.partitions if key is None else partition_of(key, self.partitions)
        for queue in self.queues:
            queue.add(Entry(message, partition, seq, since_us))

    def cancel(self, message_id: str, now: Moment) -> bool:
        """Withdraw every scheduled message of that id that is not due yet."""
        self.sweep(now)
        found = [
            item
            for _, _, item in self._scheduled
            if item.message is not None and item.message.id == message_id
        ]
        for item in found:
            item.message = None
            self._withdrawn += 1
            for queue in self.queues:
                queue.outcomes["discarded"] += 1
        if found:
            self.open_room()
        return bool(found)

    # ------------------------------------------------------------- room

    def full(self, message: Message, now: Moment, exempt: frozenset[Queue] = frozenset()) -> bool:
        """Whether a message has to wait; a queue in `exempt` is let overflow."""
        if self._scheduled:
            self.release_due(now)
        if message.deliver_at_us is not None and message.deliver_at_us > now.us:
            return self.scheduled >= self._capacity
        capacity = self._capacity
        return any(queue.size >= capacity and queue not in exempt for queue in self.queues)

    async def wait_for_room(self, clock: Clock, now: Moment) -> None:
        """Return when there may be room again. For whoever has `turn`."""
        self._room = asyncio.get_running_loop().create_future()
        due = self.next_due(now)
        if due is None:
            await self._room
        else:
            await wait_for(self._room, clock, due - now.mono)

    def open_room(self) -> None:
        """Let the publisher that waits look again."""
        ring(self._room)

    # ------------------------------------------------------------- time

    def sweep(self, now: Moment) -> None:
        """Do what is due on the topic and all its queues."""
        self.release_due(now)
        for queue in self.queues:
            queue.sweep(now)

    def release_due(self, now: Moment) -> None:
        """Give the scheduled messages whose time has come their place."""
        while self._scheduled and self._scheduled[0][0] <= now.us:
            due, _, item = heappop(self._scheduled)
            if item.message is None:
                self._withdrawn -= 1
            else:
                self._place(item.message, due)
            self.open_room()

    def next_due(self, now: Moment) -> float | None:
        """When the next scheduled one is due, on the monotonic clock."""
        if not self._scheduled:
            return None
        return now.mono + (self._scheduled[0][0] - now.us) / 1e6

    # ------------------------------------------------------------- reports

    @property
    def scheduled(self) -> int:
        """How many messages wait for their time."""
        return len(self._scheduled) - self._withdrawn

    @property
    def unsettled(self) -> int:
        """How many messages somebody still has to settle, or that wait for their time."""
        places = {entry.seq for queue in self.queues for entry in queue.entries()}
        return len(places) + self.scheduled

    def account(self, queue: Queue) -> Account:
        """What was counted for a group."""
        return Account(
            topic=self.name,
            group=queue.group or "",
            accepted=self.accepted - queue.base,
            backlog=queue.backlog,
            leased=queue.leased,
            waiting=queue.waiting,
            scheduled=self.scheduled,
            outcomes={name: number for name, number in queue.outcomes.items() if number},
            trimmed=0,
            duplicates=queue.duplicates,
            since_us=queue.since_us,
        )

    def lag(self, queue: Queue, now: Moment) -> Lag:
        """How far a group is behind. A message's age counts from its acceptance, or from when it
        was due."""
        counts = [0] * self.partitions
        oldest = [now.us] * self.partitions
        for entry in queue.entries():
            counts[entry.partition] += 1
            oldest[entry.partition] = min(oldest[entry.partition], entry.since_us)
        parts = [
            PartitionLag(number, counts[number], now.age(oldest[number]))
            for number in range(self.partitions)
        ]
        return Lag(self.name, queue.group or "", parts)
