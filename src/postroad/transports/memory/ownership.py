"""Who reads which partition of an ordered queue, and how a partition changes hands."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from postroad.core.delivery import Partition
from postroad.core.notices import Assigned, Lost, Notice, Revoking
from postroad.transports.memory.queue import Queue, Seat


class Owners:
    """The partitions of one queue, each with at most one owner.

    A partition that is wanted elsewhere is first revoked. It changes hands as soon as nothing of
    it is in flight, and at the owner's lease from the revocation at the latest; what is in flight
    then is lost to the owner. Partitions stay where they are as far as balance allows.
    """

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._owner: list[Seat | None] = [None] * len(queue.flying)
        self._moving: dict[int, float] = {}
        self._present: list[Seat] = []

    def settled(self, seat: Seat) -> Iterable[int]:
        """The partitions that the seat owns and is to keep."""
        return seat.owned - self._moving.keys() if self._moving else seat.owned

    def next_event(self) -> float:
        """When an owner may fall silent or has to be gone, on the monotonic clock."""
        silences = (seat.member.alive_until for seat in self._present if not seat.member.receiving)
        return min((*silences, *self._moving.values()), default=math.inf)

    # ------------------------------------------------------------- coming and going

    def join(self, seat: Seat, now: float) -> None:
        """Give a seat its share. Idempotent; this is also how a silent one comes back."""
        if seat not in self._present:
            self._present.append(seat)
            self._rebalance(now)

    def leave(self, seat: Seat, now: float) -> None:
        """Share out what the seat has; it holds nothing any more."""
        if seat in self._present:
            self._present.remove(seat)
            self._vacate(seat, tuple(seat.owned))
            self._rebalance(now)

    def release(self, seat: Seat, partitions: Iterable[int], now: float) -> None:
        """The owner ends the revocation of these; others of `partitions` are left alone."""
        for partition in seat.owned.intersection(partitions) & self._moving.keys():
            self._queue.hand_back(seat, partition)
        self.advance(now)

    def advance(self, now: float) -> None:
        """Let everything happen that is due or has become possible."""
        for seat in [seat for seat in self._present if seat.member.silent(now)]:
            self._present.remove(seat)
            self._queue.lose(seat)
            self._tell(seat, Lost, self._vacate(seat, tuple(seat.owned)))
        for seat in self._present:
            overdue = [p for p in seat.owned if self._moving.get(p, math.inf) <= now]
            for partition in overdue:
                self._queue.hand_back(seat, partition)
            self._tell(seat, Lost, self._vacate(seat, overdue))
        self._move(tuple(self._moving))
        if None in self._owner:
            self._rebalance(now)

    def _move(self, partitions: Iterable[int]) -> bool:
        """Take those that are at rest from their owners; returns whether there were any."""
        idle = [partition for partition in partitions if self._queue.flying[partition] == 0]
        for partition in idle:
            seat = self._owner[partition]
            if seat is not None:
                self._vacate(seat, [partition])
        return bool(idle)

    def _vacate(self, seat: Seat, partitions: Sequence[int]) -> Sequence[int]:
        for partition in partitions:
            self._owner[partition] = None
            self._moving.pop(partition, None)
            seat.owned.discard(partition)
        return partitions

    # ------------------------------------------------------------- sharing out

    def _rebalance(self, now: float) -> None:
        """Fill from what nobody owns; then revoke from those who have more than their share."""
        while self._present:
            shares = self._shares()
            for seat in self._present:
                self._fill(seat, shares[seat])
            revoked = [p for seat in self._present for p in self._revoke(seat, shares[seat], now)]
            if not self._move(revoked):
                return

    def _shares(self) -> dict[Seat, int]:
        base, extra = divmod(len(self._owner), len(self._present))
        richest = sorted(self._present, key=lambda seat: -len(set(self.settled(seat))))
        return {seat: base + (rank < extra) for rank, seat in enumerate(richest)}

    def _fill(self, seat: Seat, share: int) -> None:
        free = [p for p, owner in enumerate(self._owner) if owner is None and self._idle(p, seat)]
        given = free[: max(0, share - len(seat.owned))]
        for partition in given:
            self._owner[partition] = seat
        seat.owned.update(given)
        self._tell(seat, Assigned, given)

    def _idle(self, partition: int, seat: Seat) -> bool:
        """Whether nobody but the seat holds anything of it: a group may become ordered late."""
        if self._queue.flying[partition] == 0:
            return True
        others = (other for other in self._queue.seats if other is not seat)
        return not any(e.partition == partition for other in others for e in other.held.values())

    def _revoke(self, seat: Seat, share: int, now: float) -> Sequence[int]:
        wanted = sorted(self.settled(seat))[share:]
        deadline = now + seat.member.lease
        self._moving.update(dict.fromkeys(wanted, deadline))
        self._tell(seat, lambda them: Revoking(them, deadline), wanted)
        return wanted

    def _tell(
        self, seat: Seat, make: Callable[[Sequence[Partition]], Notice], partitions: Sequence[int]
    ) -> None:
        if partitions:
            seat.member.notices.put(make([(self._queue.topic, number) for number in partitions]))
            seat.member.wake()
