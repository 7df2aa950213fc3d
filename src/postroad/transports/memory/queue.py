"""One group's queue on one topic: what waits, who holds what, and what became of the rest."""

from __future__ import annotations

import math
from asyncio import Future
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import timedelta
from heapq import heapify, heappop, heappush, heapreplace
from typing import TYPE_CHECKING, NamedTuple

from postroad.core.delivery import Delivery, Failure, Settled, Settlement
from postroad.core.message import Message
from postroad.core.notices import NoticeQueue
from postroad.transports.memory.lines import Lane, Lines
from postroad.transports.memory.waiting import ring

if TYPE_CHECKING:
    from postroad.transports.memory.ownership import Owners

_KEPT_FAILURES = 100
"""Older ones of a message are forgotten, so that a message that never succeeds stays small."""


class Moment(NamedTuple):
    """One reading of both clocks."""

    mono: float
    us: int

    def age(self, since_us: int) -> timedelta:
        """How long ago an instant was; never negative."""
        return timedelta(microseconds=max(0, self.us - since_us))


class Entry:
    """One message on its way through one group."""

    __slots__ = (
        "attempts",
        "begun",
        "deliveries",
        "failures",
        "lane",
        "lease_at",
        "message",
        "partition",
        "seq",
        "since_us",
        "starts",
    )

    def __init__(self, message: Message, partition: int, seq: int, since_us: int) -> None:
        self.message = message
        self.partition = partition
        self.seq = seq
        self.since_us = since_us
        self.attempts = 0
        self.begun = False
        self.deliveries = 0
        self.failures: tuple[Failure, ...] = ()
        self.lane: Lane | None = None
        self.lease_at = 0.0
        self.starts = 0


class Member:
    """A consumer as its queues see it: one to be woken, told, and missed when it falls silent."""

    def __init__(self, lease: float, now: float) -> None:
        self.lease = lease
        self.alive_until = now + lease
        self.receiving = False
        self.notices = NoticeQueue()
        self.waker: Future[None] | None = None

    def wake(self) -> None:
        """End its wait, if it waits."""
        ring(self.waker)

    def silent(self, now: float) -> bool:
        """Whether it gave no sign of life for its whole lease."""
        return not self.receiving and self.alive_until <= now


class Seat:
    """A member's place at one queue.

    Attributes:
        held: fence → entry: leased to it and not settled.
        next_expiry: no lease in `held` ends before.
        owned: the partitions it reads in an ordered queue.
        parks: what it rejects parks its lane.
        paused: the partitions it does not want to read now.
    """

    def __init__(self, member: Member) -> None:
        self.member = member
        self.held: dict[int, Entry] = {}
        self.next_expiry = math.inf
        self.owned: set[int] = set()
        self.parks = False
        self.paused: set[int] = set()


class Grave(NamedTuple):
    """A dead letter: its entry, and when it died."""

    entry: Entry
    died_us: int


_Item = tuple[int, int, Entry]


class Queue:
    """A group on a topic. Every method is synchronous: between two awaits it is consistent.

    A ready message's rank is its priority, then its place in the log, so that what comes back
    comes before what is newer. `owners` is set while the group needs each partition to have one
    owner at a time.
    """

    def __init__(
        self, topic: str, group: str | None, partitions: int, fences: Iterator[int], base: int
    ) -> None:
        self.topic = topic
        self.group = group
        self.base = base
        self.since_us = 0
        self.size = 0
        self.duplicates = 0
        self.outcomes: Counter[str] = Counter()
        self.graves: dict[str, Grave] = {}
        self.seats: list[Seat] = []
        self.owners: Owners | None = None
        self.flying = [0] * partitions
        self.lines = Lines()
        self._fences = fences
        self._ready: list[list[_Item]] = [[] for _ in range(partitions)]
        self._waiting: list[tuple[float, int, Entry]] = []

    # ------------------------------------------------------------- in

    def add(self, entry: Entry) -> None:
        """Take a new message in."""
        self.size += 1
        self._make_ready(entry)

    def wake(self) -> None:
        """Let every waiting member look again."""
        for seat in self.seats:
            seat.member.wake()

    def _make_ready(self, entry: Entry) -> None:
        heappush(self._ready[entry.partition], (-entry.message.priority, entry.seq, entry))
        self.wake()

    # ------------------------------------------------------------- out

    def take(
        self, seat: Seat, batch: list[Delivery], limit: int, room: int, now: Moment
    ) -> tuple[list[Delivery], int]:
        """Lease to a seat until the batch has `limit` messages or there is no room for the next
        one's bytes; the first of a batch always fits. Returns the batch and the room left."""
        heads = [(heap[0], heap) for heap in self._readable(seat) if heap]
        heapify(heads)
        lease_at = now.mono + seat.member.lease
        until_us = now.us + int(seat.member.lease * 1e6)
        while heads and len(batch) < limit:
            item, heap = heads[0]
            if self.lines and self.lines.holds(item[2]):
                _advance(heads, heap)
                continue
            size = len(item[2].message.data)
            if size > room and batch:
                break
            room -= size
            batch.append(self._leased(seat, item[2], lease_at, until_us))
            _advance(heads, heap)
        if lease_at < seat.next_expiry and seat.held:
            seat.next_expiry = lease_at
        return batch, room

    def _readable(self, seat: Seat) -> Iterable[list[_Item]]:
        if self.owners is None and not seat.paused:
            return self._ready
        mine = range(len(self._ready)) if self.owners is None else self.owners.settled(seat)
        return [self._ready[partition] for partition in mine if partition not in seat.paused]

    def _leased(self, seat: Seat, entry: Entry, lease_at: float, until_us: int) -> Delivery:
        fence = next(self._fences)
        seat.held[fence] = entry
        entry.lease_at = lease_at
        entry.deliveries += 1
        if entry.deliveries > 1:
            self.duplicates += 1
        self.flying[entry.partition] += 1
        return Delivery(
            message=entry.message,
            topic=self.topic,
            group=self.group,
            partition=entry.partition,
            deliveries=entry.deliveries,
            starts=entry.starts,
            attempts=entry.attempts,
            failures=entry.failures,
            lease_until_us=until_us,
            fence=fence,
        )

    # ------------------------------------------------------------- held

    def owned(self, seat: Seat, delivery: Delivery, now: Moment) -> Entry | None:
        """The entry behind a delivery, if the seat still has it."""
        entry = seat.held.get(delivery.fence or 0)
        return entry if entry is not None and entry.lease_at > now.mono else None

    def settle(self, seat: Seat, settlement: Settlement, now: Moment) -> Settled:
        """Answer one delivery."""
        entry = self.owned(seat, settlement.delivery, now)
        if entry is None:
            return "stale"
        self._land(seat, settlement.delivery.fence or 0, entry)
        if settlement.action == "nack":
            self._nack(entry, settlement, now)
        elif settlement.action == "reject":
            self._bury(entry, settlement, now, parks=seat.parks)
        else:
            self.size -= 1
            self.outcomes[settlement.outcome] += 1
        return "done"

    def hand_back(self, seat: Seat, partition: int | None = None) -> None:
        """Return what a seat holds, of one partition or all, without an attempt or a start."""
        for fence, entry in list(seat.held.items()):
            if partition is None or entry.partition == partition:
                self._return(seat, fence, entry)

    def lose(self, seat: Seat) -> None:
        """Return what a seat holds as its member went silent; begun work counts as a start."""
        for fence, entry in list(seat.held.items()):
            self._lapse(seat, fence, entry)

    def _lapse(self, seat: Seat, fence: int, entry: Entry) -> None:
        entry.starts += entry.begun
        self._return(seat, fence, entry)

    def _return(self, seat: Seat, fence: int, entry: Entry) -> None:
        self._land(seat, fence, entry)
        self._make_ready(entry)

    def _land(self, seat: Seat, fence: int, entry: Entry) -> None:
        del seat.held[fence]
        entry.begun = False
        self.flying[entry.partition] -= 1

    def _nack(self, entry: Entry, settlement: Settlement, now: Moment) -> None:
        _record(entry, settlement)
        delay = settlement.delay.total_seconds()
        if delay > 0:
            heappush(self._waiting, (now.mono + delay, entry.seq, entry))
            self.lines.block(entry)
            self.wake()
        else:
            self._make_ready(entry)

    # ------------------------------------------------------------- dead

    def _bury(self, entry: Entry, settlement: Settlement, now: Moment, *, parks: bool) -> None:
        self.size -= 1
        self.outcomes["dead"] += 1
        _record(entry, settlement)
        if self.group is not None:
            self.graves[f"{self.topic}/{self.group}/{entry.seq}"] = Grave(entry, now.us)
            if parks:
                self.lines.block(entry)

    def redrive(self, ids: Iterable[str]) -> int:
        """Send its dead letters among `ids` again, at their place in the log; what their lanes
        parked goes on behind them."""
        graves = self._dig(ids)
        for grave in graves:
            grave.entry.attempts = grave.entry.starts = 0
            grave.entry.failures = ()
            self.add(grave.entry)
        return len(graves)

    def discard(self, ids: Iterable[str]) -> int:
        """Drop its dead letters among `ids` for good."""
        graves = self._dig(ids)
        self.outcomes["discarded"] += len(graves)
        return len(graves)

    def _dig(self, ids: Iterable[str]) -> list[Grave]:
        graves = [self.graves.pop(name) for name in ids if name in self.graves]
        self.outcomes["dead"] -= len(graves)
        for grave in graves:
            self._unblock(grave.entry)
        return graves

    def _unblock(self, entry: Entry) -> None:
        behind = self.lines.unblock(entry)
        for one in behind:
            heappush(self._ready[one.partition], (-one.message.priority, one.seq, one))
        if behind:
            self.wake()

    # ------------------------------------------------------------- time

    def sweep(self, now: Moment) -> None:
        """Do what is due: retries come back, leases end, silent owners lose their partitions."""
        while self._waiting and self._waiting[0][0] <= now.mono:
            entry = heappop(self._waiting)[2]
            self._unblock(entry)
            self._make_ready(entry)
        for seat in self.seats:
            if seat.next_expiry <= now.mono:
                self._expire(seat, now)
        if self.owners is not None:
            self.owners.advance(now.mono)

    def _expire(self, seat: Seat, now: Moment) -> None:
        for fence, entry in list(seat.held.items()):
            if entry.lease_at <= now.mono:
                self._lapse(seat, fence, entry)
        seat.next_expiry = min((held.lease_at for held in seat.held.values()), default=math.inf)

    def next_event(self, now: Moment) -> float:
        """When to sweep again at the latest, on the monotonic clock. A lease that is given after
        this call cannot end before the shortest lease from now."""
        times = [seat.next_expiry for seat in self.seats]
        times += [now.mono + seat.member.lease for seat in self.seats]
        if self._waiting:
            times.append(self._waiting[0][0])
        if self.owners is not None:
            times.append(self.owners.next_event())
        return min(times, default=math.inf)

    # ------------------------------------------------------------- reports

    @property
    def backlog(self) -> int:
        """Ready and not leased."""
        return sum(map(len, self._ready))

    @property
    def leased(self) -> int:
        """With a consumer."""
        return sum(self.flying)

    @property
    def waiting(self) -> int:
        """Given back with a delay that is not over, or in line behind such a one."""
        return len(self._waiting) + len(self.lines)

    def entries(self) -> Iterator[Entry]:
        """Every unsettled one, in no order."""
        for heap in self._ready:
            for item in heap:
                yield item[2]
        for waiting in self._waiting:
            yield waiting[2]
        yield from self.lines.entries()
        for seat in self.seats:
            yield from seat.held.values()


def _advance(heads: list[tuple[_Item, list[_Item]]], heap: list[_Item]) -> None:
    """Take the first item off, where `heap` is the first of `heads`."""
    heappop(heap)
    if heap:
        heapreplace(heads, (heap[0], heap))
    else:
        heappop(heads)


def _record(entry: Entry, settlement: Settlement) -> None:
    """Attempts and failures, as they stand in the settlement."""
    delivery, failure = settlement.delivery, settlement.failure
    entry.attempts = delivery.attempts + (failure is not None)
    failures = delivery.failures if failure is None else (*delivery.failures, failure)
    entry.failures = failures[-_KEPT_FAILURES:]
