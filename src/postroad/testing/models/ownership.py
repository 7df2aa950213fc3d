"""Who reads which partition of a group, and how a partition changes hands: revoked, released,
assigned; or lost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from random import Random

from postroad.core.delivery import Partition
from postroad.core.notices import Assigned, Lost, Notice, NoticeQueue, Revoking


class Member:
    """A consumer as its group sees it.

    Attributes:
        fences: partition → the fence under which it is owned; grows with every owner.
    """

    def __init__(self, lease: float, now: float, told: NoticeQueue) -> None:
        self.lease = lease
        self.alive_until = now + lease
        self.fences: dict[int, int] = {}
        self.told = told


class Ownership:
    """The partitions of one group on one topic, each with at most one owner.

    A partition that is wanted elsewhere is revoked, whether its owner is receiving or not. It
    changes hands when the owner releases it, and at the owner's lease from the revocation at the
    latest: it is lost then. A member that gives no sign of life for its lease loses all.

    Args:
        vacated: told of every partition that a member no longer owns, and whether it was lost.
    """

    def __init__(
        self,
        topic: str,
        partitions: int,
        random: Random,
        vacated: Callable[[Member, int, bool], None],
    ) -> None:
        self.members: list[Member] = []
        self._topic = topic
        self._random = random
        self._vacated = vacated
        self._owners: list[Member | None] = [None] * partitions
        self._fences = [0] * partitions
        self._moving: dict[int, float] = {}

    # ------------------------------------------------------------- asking

    def owns(self, member: Member, partition: int, fence: int | None) -> bool:
        """Whether it is the owner under that very fence."""
        return fence is not None and member.fences.get(partition) == fence

    def readable(self, member: Member) -> list[int]:
        """What the member owns and is to keep."""
        return [partition for partition in member.fences if partition not in self._moving]

    def next_event(self) -> float:
        """When a member may fall silent or a revocation ends, on the monotonic clock."""
        silences = (member.alive_until for member in self.members)
        return min((*silences, *self._moving.values()), default=math.inf)

    # ------------------------------------------------------------- coming and going

    def alive(self, member: Member, now: float) -> None:
        """A sign of life; what was due before it comes first, so that it may come too late. Who
        was given up joins anew."""
        self.advance(now)
        member.alive_until = now + member.lease
        if member not in self.members:
            self.members.append(member)
            self._balance(now)

    def leave(self, member: Member, now: float) -> None:
        """Share out what the member has."""
        self.advance(now)
        if member in self.members:
            self.members.remove(member)
            self._vacate(member, tuple(member.fences), lost=False)
            self._balance(now)

    def release(self, member: Member, partitions: Iterable[int], now: float) -> None:
        """The owner ends the revocation of these; others of `partitions` are left alone."""
        ended = [number for number in partitions if number in self._moving.keys() & member.fences]
        self._vacate(member, ended, lost=False)
        self._balance(now)

    def revoke(self, partitions: Iterable[int], now: float) -> None:
        """Take these from whoever has them, for no reason, as a server may at any time."""
        for number in partitions:
            owner = self._owners[number]
            if owner is not None and number not in self._moving:
                self._revoke(owner, [number], now)

    def advance(self, now: float) -> None:
        """Let everything happen that is due."""
        silent = [member for member in self.members if member.alive_until <= now]
        for member in silent:
            self.members.remove(member)
            self._lose(member, tuple(member.fences))
        overdue = [number for number, end in self._moving.items() if end <= now]
        for number in overdue:
            owner = self._owners[number]
            assert owner is not None
            self._lose(owner, [number])
        if silent or overdue:
            self._balance(now)

    def _lose(self, member: Member, partitions: Sequence[int]) -> None:
        self._vacate(member, partitions, lost=True)
        self._tell(member, Lost, partitions)

    def _vacate(self, member: Member, partitions: Sequence[int], *, lost: bool) -> None:
        for number in partitions:
            self._owners[number] = None
            self._moving.pop(number, None)
            del member.fences[number]
            self._vacated(member, number, lost)

    # ------------------------------------------------------------- sharing out

    def _balance(self, now: float) -> None:
        """Give what nobody has; then revoke from those who have more than their share."""
        if not self.members:
            return
        quotas = self._quotas()
        free = [number for number, owner in enumerate(self._owners) if owner is None]
        self._random.shuffle(free)
        for member, quota in quotas.items():
            lacking = max(0, quota - len(self.readable(member)))
            given, free = free[:lacking], free[lacking:]
            self._assign(member, given)
        for member, quota in quotas.items():
            kept = self.readable(member)
            if len(kept) > quota:
                self._revoke(member, self._random.sample(kept, len(kept) - quota), now)

    def _quotas(self) -> dict[Member, int]:
        base, extra = divmod(len(self._owners), len(self.members))
        richest = sorted(self.members, key=lambda member: -len(self.readable(member)))
        return {member: base + (rank < extra) for rank, member in enumerate(richest)}

    def _assign(self, member: Member, partitions: Sequence[int]) -> None:
        for number in partitions:
            self._fences[number] += 1
            self._owners[number] = member
            member.fences[number] = self._fences[number]
        self._tell(member, Assigned, partitions)

    def _revoke(self, member: Member, partitions: Sequence[int], now: float) -> None:
        deadline = now + member.lease
        self._moving.update(dict.fromkeys(partitions, deadline))
        self._tell(member, lambda them: Revoking(them, deadline), partitions)

    def _tell(
        self,
        member: Member,
        make: Callable[[Sequence[Partition]], Notice],
        partitions: Sequence[int],
    ) -> None:
        if partitions:
            member.told.put(make([(self._topic, number) for number in partitions]))
