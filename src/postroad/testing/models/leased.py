"""A road of leases, as a queue in a database or a stream with leased shards is one: what its
owner does not renew goes to another, whether the owner knows or not."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import count
from typing import Any

from postroad.core.capabilities import Capabilities
from postroad.core.delivery import Delivery, Failure, Settled, Settlement, Start
from postroad.core.pattern import matches
from postroad.core.reports import Account
from postroad.core.subscription import Subscription
from postroad.core.transport import Plan
from postroad.testing.models.base import ModelTransport
from postroad.testing.models.consumer import Offer
from postroad.testing.models.log import Log, LogConsumer, LogModel, Record
from postroad.testing.models.ownership import Member, Ownership


class Claim:
    """A message that was handed out and is not settled."""

    def __init__(self, record: Record, offset: int) -> None:
        self.record = record
        self.offset = offset
        self.holder: Member | None = None
        self.fence = 0
        self.until = math.inf
        self.begun = False
        self.deliveries = 0
        self.starts = 0
        self.attempts = 0
        self.failures: tuple[Failure, ...] = ()

    def free(self, *, lost: bool) -> None:
        """Let others have it; lost are those that nobody answered in time."""
        self.starts += lost and self.begun
        self.holder, self.until, self.begun = None, math.inf, False


class ClaimGroup:
    """A group: for each partition where it has read to, and what it claimed before that.

    Attributes:
        ordered: each partition has one owner at a time; else a member reads from all of them.
    """

    def __init__(self, log: Log[ClaimGroup], name: str | None, start: Start) -> None:
        self.name = name
        self.ordered = False
        self.outcomes: Counter[str] = Counter()
        self.duplicates = 0
        self.ownership = Ownership(log.name, log.partitions, log.broker.random, self._vacated)
        self._log = log
        self._fences = count(1)
        self.seek(start)

    # ------------------------------------------------------------- where it stands

    @property
    def active(self) -> bool:
        """See `Group`."""
        return bool(self.ownership.members)

    def seek(self, to: Start) -> None:
        """See `Group`."""
        numbers = range(self._log.partitions)
        self.reading = [self._log.offset_of(n, to) for n in numbers]
        self.claims: list[dict[int, Claim]] = [{} for _ in numbers]
        self.since_us = self._log.broker.clock.now_us()
        self.outcomes.clear()
        self.duplicates = 0
        self._base = sum(self.reading)

    def unsettled(self, partition: int) -> Iterable[Record]:
        """See `Group`."""
        claimed = [claim.record for claim in self.claims[partition].values()]
        return claimed + self._log.lines[partition][self.reading[partition] :]

    def account(self) -> Account:
        """What it counted."""
        claims = [claim for part in self.claims for claim in part.values()]
        leased = sum(claim.holder is not None for claim in claims)
        ends = [len(line) for line in self._log.lines]
        unread = sum(ends) - sum(self.reading)
        return Account(
            topic=self._log.name,
            group=self.name or "",
            accepted=sum(ends) - self._base,
            backlog=unread + sum(c.holder is None and not c.failures for c in claims),
            leased=leased,
            waiting=sum(c.holder is None and bool(c.failures) for c in claims),
            scheduled=0,
            outcomes=dict(self.outcomes),
            trimmed=0,
            duplicates=self.duplicates,
            since_us=self.since_us,
        )

    # ------------------------------------------------------------- claiming

    def claimable(self, number: int) -> Iterator[Claim]:
        """What of a partition nobody holds, in the order of the log."""
        for claim in tuple(self.claims[number].values()):
            if claim.holder is None:
                yield claim
        line = self._log.lines[number]
        while self.reading[number] < len(line):
            yield Claim(line[self.reading[number]], self.reading[number])

    def claim(self, number: int, claim: Claim, member: Member, now: float) -> None:
        """Lease it to a member, under a fence of its own."""
        if claim.offset == self.reading[number]:
            self.reading[number] += 1
            self.claims[number][claim.offset] = claim
        claim.holder, claim.until = member, now + member.lease
        claim.fence = next(self._fences)
        claim.deliveries += 1
        self.duplicates += claim.deliveries > 1

    def held(self, member: Member, delivery: Delivery) -> Claim | None:
        """The claim behind a delivery, if the member still has it."""
        claims = self.claims[delivery.partition]
        claim = claims.get(delivery.offset) if isinstance(delivery.offset, int) else None
        if claim is None or claim.holder is not member or claim.fence != delivery.fence:
            return None
        return claim

    def advance(self, now: float) -> None:
        """Free what was not renewed in time."""
        for claims in self.claims:
            for claim in claims.values():
                if claim.until <= now:
                    claim.free(lost=True)
        self.ownership.advance(now)

    def next_event(self) -> float:
        """When a lease may end."""
        ends = (claim.until for claims in self.claims for claim in claims.values())
        return min((*ends, self.ownership.next_event()), default=math.inf)

    def _vacated(self, member: Member, partition: int, lost: bool) -> None:
        # In an unordered group partitions mean nothing; leases end by themselves.
        if self.ordered:
            self.hand_back(member, [partition], lost=lost)

    def hand_back(self, member: Member, partitions: Iterable[int], *, lost: bool) -> None:
        """Free what a member holds of these partitions."""
        for number in partitions:
            for claim in self.claims[number].values():
                if claim.holder is member:
                    claim.free(lost=lost)


class ClaimLog(Log[ClaimGroup]):
    """A topic whose groups claim messages."""

    def make_group(self, name: str | None, start: Start) -> ClaimGroup:
        """See `Log`."""
        return ClaimGroup(self, name, start)

    def join(
        self, road: ModelTransport[Any], subscription: Subscription, plan: Plan
    ) -> LeasedConsumer:
        """See `Channel`."""
        group = self.group_of(subscription)
        group.ordered = group.ordered or plan.ordered
        return LeasedConsumer(road, self, group, subscription, plan)


class LeasedModel(LogModel[ClaimGroup]):
    """In memory, for tests: messages, and in an ordered group partitions too, belong to who
    leased them, under a fence, for as long as it renews. One that is stopped past its lease
    (`stall`) is a zombie when it goes on (`resume`): what it held is another's, it was not told
    while it slept, and whatever it answers is stale.
    """

    capabilities = Capabilities(
        settling="each",
        order="key-group",
        backlog="kept",
        durable=True,
        shared=True,
        groups=True,
        history=True,
        seek=True,
        browse=True,
        lag=True,
        audit="exact",
        attempts=True,
        lease=True,
        risk="the server is an object in this process",
    )

    def make_channel(self, name: str, partitions: int) -> Log[ClaimGroup]:
        """See `ModelTransport`."""
        return ClaimLog(self.broker, name, partitions)

    async def account(self, topic: str, group: str) -> Account:
        """See `Audited.account`. Exact."""
        await self.reach()
        return self._group(topic, group).account()

    async def groups(self, pattern: str) -> Sequence[tuple[str, str]]:
        """See `Audited.groups`."""
        await self.reach()
        logs = [log for log in self.broker.channels.values() if matches(pattern, log.name)]
        return [(log.name, group) for log in logs for group in log.groups]


class LeasedConsumer(LogConsumer[ClaimGroup]):
    """Holds what it leased, until it answers or falls silent."""

    def _alive(self) -> None:
        self._group.advance(self._clock.monotonic())
        super()._alive()

    def _next_event(self) -> float:
        return min(super()._next_event(), self._group.next_event())

    def _ready(self) -> list[int]:
        if self._group.ordered:
            return super()._ready()
        everything = range(self._log.partitions)
        ready = [n for n in everything if (self._log.name, n) not in self.paused]
        self._random.shuffle(ready)
        return ready

    def _offers(self) -> Iterator[Offer]:
        for number in self._ready():
            for claim in self._group.claimable(number):
                yield claim.record.message, partial(self._hand_out, number, claim)

    def _hand_out(self, number: int, claim: Claim) -> Delivery:
        self._group.claim(number, claim, self._member, self._clock.monotonic())
        return Delivery(
            message=claim.record.message,
            topic=self._log.name,
            group=self._group.name,
            partition=number,
            offset=claim.offset,
            deliveries=claim.deliveries,
            starts=claim.starts,
            attempts=claim.attempts,
            failures=claim.failures,
            lease_until_us=self._lease_until_us(),
            fence=claim.fence,
        )

    def _owns(self, delivery: Delivery) -> bool:
        return self._group.held(self._member, delivery) is not None

    def _started(self, delivery: Delivery) -> None:
        claim = self._group.held(self._member, delivery)
        assert claim is not None
        claim.begun = True

    def _extended(self, delivery: Delivery) -> None:
        claim = self._group.held(self._member, delivery)
        assert claim is not None
        claim.until = self._clock.monotonic() + self.lease

    def _answer(self, settlement: Settlement) -> Settled:
        delivery, failure = settlement.delivery, settlement.failure
        claim = self._group.held(self._member, delivery)
        if claim is None:
            return "stale"
        if settlement.action == "nack":
            claim.attempts = delivery.attempts + (failure is not None)
            claim.failures = (*delivery.failures, *([failure] if failure else ()))
            claim.free(lost=False)
        else:
            end = "dead" if settlement.action == "reject" else settlement.outcome
            self._group.outcomes[end] += 1
            del self._group.claims[delivery.partition][claim.offset]
        return "done"

    def _leave(self) -> None:
        self._group.advance(self._clock.monotonic())
        self._group.hand_back(self._member, range(self._log.partitions), lost=False)
        super()._leave()
