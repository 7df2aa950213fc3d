"""Numbered messages in their order: what comes too early waits, what came before is dropped.

The resequencer stands between a road's consumer and its runner, and is itself a consumer. What it
holds back is received and neither begun nor answered: its lease is renewed, and a process that
dies with it loses nothing, nor does that count as a crash of the message.

Where the group stands is written before the road hears of it: a crash in between repeats messages,
which are dropped then as handled. The other way round it would leave gaps that nobody fills. What
dies is noted as given up first, and as a dead letter once the road has it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, NamedTuple

from postroad.core.clock import Clock
from postroad.core.delivery import Delivery, Failure, Partition, Settled, Settlement
from postroad.core.notices import (
    Lost,
    Notice,
    NoticeQueue,
    Revoking,
    SequenceGap,
)
from postroad.core.sequence import Change, LineId, Standing, ranges, read_number
from postroad.core.subscription import Subscription
from postroad.core.transport import (
    Consumer,
    KeepsSequences,
    SequencedTransaction,
    SqlLog,
    Transaction,
)
from postroad.delivery.lines import Line, tag_of
from postroad.errors import PostroadError
from postroad.storage import sequences
from postroad.storage.database import Database

_REASON = "sequence"
_IDLE_LINES = 10_000
"""Lines that are remembered though nothing of them is in hand, so that they need not be read."""


@dataclass(frozen=True)
class Standings:
    """Where one group's standings are kept.

    Attributes:
        keeper: the road, or its store.
        group: the name that they have there.
        durable: each write has to survive a power cut by itself: it is not in the database in
            which the messages are settled afterwards.
    """

    keeper: KeepsSequences
    group: str
    durable: bool

    async def read(self, lines: Collection[LineId]) -> Mapping[LineId, Standing]:
        """See `KeepsSequences.sequences`."""
        return await self.keeper.sequences(self.group, lines)

    async def write(self, changes: Sequence[Change]) -> None:
        """See `KeepsSequences.advance_sequences`."""
        await self.keeper.advance_sequences(self.group, changes, durable=self.durable)

    async def forget(self, topic: str) -> None:
        """See `KeepsSequences.forget_sequences`."""
        await self.keeper.forget_sequences(self.group, topic)


class DatabaseStandings:
    """`KeepsSequences` in the business database of a road that is none.

    Args:
        database: the open database.
    """

    def __init__(self, database: Callable[[], Database]) -> None:
        self._database = database

    async def sequences(self, group: str, lines: Collection[LineId]) -> Mapping[LineId, Standing]:
        """See `KeepsSequences.sequences`."""
        return await self._database().read(lambda c: sequences.read(c, group, lines))

    async def advance_sequences(
        self, group: str, changes: Sequence[Change], *, durable: bool = True
    ) -> None:
        """See `KeepsSequences.advance_sequences`."""
        await self._database().write(lambda c: sequences.write(c, group, changes), durable=durable)

    async def forget_sequences(self, group: str, topic: str) -> None:
        """See `KeepsSequences.forget_sequences`."""
        await self._database().write(lambda c: sequences.forget(c, group, topic))


class _Out(NamedTuple):
    """A delivery that was handed to the runner, or is about to be."""

    delivery: Delivery
    line: LineId
    number: int
    kind: Literal["runs", "late"]


def resequenced(
    inner: Consumer,
    subscription: Subscription,
    standings: Standings,
    clock: Clock,
) -> Resequencer:
    """The consumer that a subscription with a `sequence` reads from."""
    kind = TransactionalResequencer if isinstance(inner, SqlLog) else Resequencer
    return kind(inner, subscription, standings, clock)


class Resequencer:
    """A `Consumer` that gives out each key's messages in the order of their numbers.

    What the road gives it is one of four things: next in line, too early, handled before, or too
    late. For what is not to be handled it has the answer ready (`verdict`); the runner settles
    with it and runs no handler.
    """

    def __init__(
        self,
        inner: Consumer,
        subscription: Subscription,
        standings: Standings,
        clock: Clock,
    ) -> None:
        assert subscription.sequence is not None
        self._inner = inner
        self._wish = subscription.sequence
        self._gap = self._wish.gap.total_seconds()
        self._first = self._wish.begins(subscription.start)
        self._standings = standings
        self._clock = clock
        self._lines: dict[LineId, Line] = {}
        self._held: dict[int, tuple[Delivery, LineId, int]] = {}
        self._bytes = 0
        self._fresh: list[Delivery] = []
        self._ready: deque[Delivery] = deque()
        self._out: dict[int, _Out] = {}
        self._verdicts: dict[int, Settlement] = {}
        self._dirty: set[LineId] = set()
        self._leaving: set[Partition] = set()
        self._notices = NoticeQueue()

    def verdict(self, delivery: Delivery) -> Settlement | None:
        """How to answer it without a handler; None if it is to be handled."""
        return self._verdicts.get(id(delivery)) if self._verdicts else None

    @property
    def waiting(self) -> int:
        """How many messages are held back."""
        return len(self._held)

    # ------------------------------------------------ receiving

    async def receive(self, limit: int, max_bytes: int, wait: timedelta) -> Sequence[Delivery]:
        """See `Consumer.receive`. Returns as soon as anything is to be handled or answered."""
        end = self._clock.monotonic() + wait.total_seconds()
        tried = False
        while True:
            while self._fresh:
                await self._look()
            self._give_up_what_is_due()
            if self._ready:
                return self._taken(limit, max_bytes)
            now = self._clock.monotonic()
            if tried and now >= end:
                return ()
            rest = timedelta(seconds=max(min(end, self._next_deadline() or end) - now, 0.0))
            batch = await self._inner.receive(limit, max_bytes, rest)
            # While there is more, what is missing may be in it.
            tried = not batch
            # Kept at once: if what follows fails, the next call looks at it.
            self._fresh.extend(batch)

    def _taken(self, limit: int, max_bytes: int) -> list[Delivery]:
        taken = [self._ready.popleft()]
        size = len(taken[0].message.data)
        while self._ready and len(taken) < limit:
            size += len(self._ready[0].message.data)
            if size > max_bytes:
                break
            taken.append(self._ready.popleft())
        return taken

    async def _look(self) -> None:
        """Sort what has come: line by line, each by its numbers."""
        read = {id(one): (one, read_number(one.topic, one.message)) for one in self._fresh}
        await self._load(
            {found[0]: _place(one) for one, found in read.values() if not isinstance(found, str)}
        )
        fresh, self._fresh = _sorted(self._fresh, read), []
        leaving = []
        for delivery in fresh:
            _, found = read.get(id(delivery), (delivery, None))
            if found is None:  # it came while the standings were read
                self._fresh.append(delivery)
            elif _place(delivery) in self._leaving:
                leaving.append(delivery)
            elif isinstance(found, str):
                self._refuse(delivery, found)
                self._ready.append(delivery)
            else:
                self._arrive(delivery, *found)
        await self._hand_back(leaving)

    def _arrive(self, delivery: Delivery, name: LineId, number: int) -> None:
        line = self._lines.get(name)
        if line is None:  # given up since it was read
            self._fresh.append(delivery)
            return
        if not line.begun:
            line.begin(number if self._first is None else self._first)
        before = line.held(number)
        arrival = line.arrive(number, delivery, self._clock.monotonic())
        if before is not None and arrival == "waits":
            self._unhold(before)
        if arrival == "runs":
            self._run(delivery, name, number)
        elif arrival == "waits":
            self._hold(delivery, name, number)
            self._hand_out(line)
            self._keep_within_limits()
        elif arrival == "repeated":
            self._verdicts[id(delivery)] = Settlement(delivery, "ack", _outcome(delivery))
            self._ready.append(delivery)
        else:
            self._out[id(delivery)] = _Out(delivery, name, number, "late")
            self._refuse(
                delivery,
                f"number {number} of its key comes too late: the key went on without it, or had "
                f"begun with {line.standing.first}",
            )
            self._ready.append(delivery)

    async def _load(self, names: Mapping[LineId, Partition]) -> None:
        """Have these lines in hand."""
        unknown = {name for name in names if name not in self._lines}
        if not unknown:
            return
        found = await self._standings.read(unknown)
        for name in unknown:
            if name not in self._lines:
                self._lines[name] = Line(name, names[name], found.get(name))

    # ------------------------------------------------ holding back

    def _hold(self, delivery: Delivery, line: LineId, number: int) -> None:
        self._held[id(delivery)] = (delivery, line, number)
        self._bytes += len(delivery.message.data)

    def _unhold(self, delivery: Delivery) -> None:
        if self._held.pop(id(delivery), None) is not None:
            self._bytes -= len(delivery.message.data)

    def _hand_out(self, line: Line) -> list[Delivery]:
        """Let those run whose turn it is."""
        found = line.ready()
        for delivery in found:
            _, name, number = self._held[id(delivery)]
            self._unhold(delivery)
            self._run(delivery, name, number)
        return found

    def _run(self, delivery: Delivery, line: LineId, number: int) -> None:
        self._out[id(delivery)] = _Out(delivery, line, number, "runs")
        self._ready.append(delivery)

    def _refuse(self, delivery: Delivery, detail: str) -> None:
        failure = Failure(reason=_REASON, detail=detail, at_us=self._clock.now_us())
        self._verdicts[id(delivery)] = Settlement(delivery, "reject", failure=failure)

    # ------------------------------------------------ giving up

    def _waits(self) -> list[tuple[float, LineId]]:
        lines = {name: self._lines[name] for _, name, _ in self._held.values()}
        due = [(line.deadline(self._gap), name) for name, line in lines.items()]
        return [(when, name) for when, name in due if when is not None]

    def _next_deadline(self) -> float | None:
        return min((when for when, _ in self._waits()), default=None) if self._held else None

    def _give_up_what_is_due(self) -> None:
        if not self._held:
            return
        now = self._clock.monotonic()
        for _, name in sorted(self._waits()):
            line = self._lines[name]
            while (due := line.deadline(self._gap)) is not None and due <= now:
                self._give_up(line, "timeout")

    def _keep_within_limits(self) -> None:
        while len(self._held) > self._wish.limit or self._bytes > self._wish.limit_bytes:
            waits = self._waits()
            if not waits:
                return  # copies of what runs: there are no more of them than of that
            self._give_up(self._lines[min(waits)[1]], "limit")

    def _give_up(self, line: Line, cause: str) -> None:
        missing = line.give_up()
        released = self._hand_out(line)
        policy = self._wish.on_gap
        if not missing:  # all of it was decided meanwhile
            return
        self._notices.put(
            SequenceGap(line.id.topic, line.id.key, missing, len(released), cause, policy)
        )
        if policy == "continue":
            return
        waited = f"for {self._gap:g} s" if cause == "timeout" else "until too many waited"
        detail = f"it waited {waited} for number {ranges(missing)} of its key, which never came"
        for delivery in released:
            self._refuse(delivery, detail)

    # ------------------------------------------------ answers

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        """See `Consumer.settle`; where the group stands is written before."""
        mine = [(one, out) for one in settlements if (out := self._out.get(id(one.delivery)))]
        await self._load({out.line: _place(out.delivery) for _, out in mine})
        for one, out in mine:
            if out.kind == "runs":
                self._note(self._lines[out.line].standing, one, out.number)
        await self._save({out.line for _, out in mine} | self._dirty)
        answers = await self._inner.settle(settlements)
        for one, answer in zip(settlements, answers, strict=True):
            if answer != "unknown":
                self._answered(one, answer)
        for _, out in mine:
            line = self._lines.get(out.line)
            if line is not None and line.waiting:
                self._hand_out(line)
        self._forget_idle()
        return answers

    @staticmethod
    def _note(standing: Standing, settlement: Settlement, number: int) -> None:
        if settlement.action == "ack":
            standing.settle(number)
        elif settlement.action == "reject" and standing.at(number) is None:
            standing.miss(number, number)

    async def _save(self, names: Iterable[LineId]) -> None:
        lines = [line for name in names if (line := self._lines.get(name)) is not None]
        changes = [(line, line.standing.since(line.id, line.saved)) for line in lines]
        copies = {line.id: line.standing.copy() for line in lines}
        needed = [change for _, change in changes if change is not None]
        if needed:
            await self._standings.write(needed)
        for line in lines:
            line.saved = copies[line.id]
            self._dirty.discard(line.id)

    def _answered(self, settlement: Settlement, answer: Settled) -> None:
        delivery = settlement.delivery
        self._verdicts.pop(id(delivery), None)
        out = self._out.pop(id(delivery), None)
        line = None if out is None else self._lines.get(out.line)
        if out is None or line is None:
            return
        if settlement.action == "reject" and answer == "done":
            line.standing.bury(out.number, tag_of(delivery))
            self._dirty.add(out.line)
        if out.kind == "late" or line.running.get(out.number) is not delivery:
            return
        if settlement.action == "nack":
            due = self._clock.monotonic() + settlement.delay.total_seconds()
            again = line.returned(out.number, due)
        else:
            again = line.answered(out.number)
        if again is not None:
            self._unhold(again)
            self._fresh.append(again)

    async def begin(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """See `Consumer.begin`."""
        return self._still(deliveries, await self._inner.begin(deliveries))

    async def extend(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """See `Consumer.extend`. What waits here is renewed along."""
        own = self._own()
        owned = await self._inner.extend([*deliveries, *own])
        kept = {id(delivery) for delivery in owned}
        for delivery in own:
            if id(delivery) not in kept:
                self._gone(delivery)
        return self._still(deliveries, [one for one in deliveries if id(one) in kept])

    def _still(
        self, deliveries: Sequence[Delivery], owned: Sequence[Delivery]
    ) -> Sequence[Delivery]:
        if len(owned) < len(deliveries):
            kept = {id(delivery) for delivery in owned}
            for delivery in deliveries:
                if id(delivery) not in kept:
                    self._gone(delivery)
        return owned

    # ------------------------------------------------ what is ours

    def _own(self) -> list[Delivery]:
        """What was received and the runner does not know of."""
        return [*(one for one, _, _ in self._held.values()), *self._ready, *self._fresh]

    def _gone(self, delivery: Delivery) -> None:
        """It is not ours any more, or went back: it may come again."""
        identity = id(delivery)
        self._verdicts.pop(identity, None)
        self._fresh = [one for one in self._fresh if one is not delivery]
        if any(one is delivery for one in self._ready):
            self._ready = deque(one for one in self._ready if one is not delivery)
        held = self._held.get(identity)
        if held is not None:
            self._unhold(delivery)
            if (waited := self._lines.get(held[1])) is not None:
                waited.drop(held[2], delivery)
        out = self._out.pop(identity, None)
        line = None if out is None else self._lines.get(out.line)
        if out is not None and line is not None and line.running.get(out.number) is delivery:
            again = line.returned(out.number, self._clock.monotonic())
            if again is not None:
                self._unhold(again)
                self._fresh.append(again)

    async def _hand_back(self, deliveries: Sequence[Delivery]) -> None:
        if not deliveries:
            return
        # A road that cannot hear it now takes it back when the partition is given up.
        with suppress(PostroadError):
            await self._inner.settle([Settlement(one, "nack") for one in deliveries])
        for delivery in deliveries:
            self._gone(delivery)

    def _in(self, places: Collection[Partition], some: Iterable[Delivery]) -> list[Delivery]:
        return [one for one in some if _place(one) in places]

    def _forget_lines(self, places: Collection[Partition]) -> None:
        """Another consumer may go on with them: what it has done is read again."""
        waiting = self._in(places, (delivery for delivery, _, _ in self._held.values()))
        for delivery in waiting:
            self._unhold(delivery)
        self._fresh = waiting + self._fresh
        for name in [name for name, line in self._lines.items() if line.place in places]:
            del self._lines[name]
            self._dirty.discard(name)

    def _forget_idle(self) -> None:
        if len(self._lines) > 2 * _IDLE_LINES:
            idle = [name for name, line in self._lines.items() if line.idle]
            for name in idle[:-_IDLE_LINES]:
                del self._lines[name]

    # ------------------------------------------------ partitions

    async def pause(self, partitions: Sequence[Partition]) -> None:
        """See `Consumer.pause`."""
        await self._inner.pause(partitions)

    async def resume(self, partitions: Sequence[Partition]) -> None:
        """See `Consumer.resume`."""
        await self._inner.resume(partitions)

    async def release(self, partitions: Sequence[Partition]) -> None:
        """See `Consumer.release`."""
        await self._save(list(self._dirty))
        await self._inner.release(partitions)
        self._leaving -= set(partitions)
        for delivery in self._in(set(partitions), self._own()):
            self._gone(delivery)
        self._forget_lines(set(partitions))

    async def notices(self) -> AsyncIterator[Notice]:
        """See `Consumer.notices`; gaps among them."""
        reading = asyncio.create_task(self._read_notices())
        try:
            async for notice in self._notices:
                yield notice
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _read_notices(self) -> None:
        try:
            async for notice in self._inner.notices():
                if isinstance(notice, Revoking):
                    self._leaving |= set(notice.partitions)
                    await self._hand_back(self._in(self._leaving, self._own()))
                elif isinstance(notice, Lost):
                    await self._lose(set(notice.partitions))
                self._notices.put(notice)
        finally:
            self._notices.close()

    async def _lose(self, places: Collection[Partition]) -> None:
        # A partition may have come back before its loss was told: what came with it stays.
        with suppress(PostroadError):
            await self.extend(())
        self._forget_lines(places)

    async def close(self) -> None:
        """See `Consumer.close`."""
        with suppress(PostroadError):
            await self._save(list(self._dirty))
        await self._inner.close()
        self._notices.close()


class TransactionalResequencer(Resequencer):
    """A resequencer whose road gives deliveries their transactions: where the settlement is in
    the commit, so is where the group stands."""

    @property
    def settles(self) -> bool:
        """See `SqlLog.settles`."""
        return self._log.settles

    @property
    def _log(self) -> SqlLog:
        assert isinstance(self._inner, SqlLog)
        return self._inner

    @asynccontextmanager
    async def transaction(self, delivery: Delivery, source: str) -> AsyncIterator[Transaction]:
        """See `SqlLog.transaction`."""
        out = self._out.get(id(delivery))
        if out is not None:
            await self._load({out.line: _place(delivery)})
        line = None if out is None else self._lines.get(out.line)
        if out is None or line is None or not self.settles:
            async with self._log.transaction(delivery, source) as tx:
                yield tx
            return
        before, standing = line.saved, line.standing.copy()
        standing.settle(out.number)
        written = False
        async with self._log.transaction(delivery, source) as tx:
            yield tx
            if isinstance(tx, SequencedTransaction):
                change = standing.since(line.id, before)
                if change is not None:
                    await tx.advance_sequences(self._standings.group, [change])
                written = True
        line.standing.settle(out.number)
        if written and line.saved is before:
            line.saved = standing
        self._dirty.add(line.id)
        self._answered(Settlement(delivery), "done")
        if not written:
            await self._save([line.id])


def _outcome(delivery: Delivery) -> Literal["handled", "discarded"]:
    """What becomes of a duplicate in the audit: a message whose answer got lost counts as what it
    is, one that was published twice is no second handling."""
    came_before = (delivery.deliveries or 1) > 1 or bool(delivery.starts)
    return "handled" if came_before else "discarded"


def _sorted(
    fresh: list[Delivery], read: Mapping[int, tuple[Delivery, tuple[LineId, int] | str]]
) -> list[Delivery]:
    """Each line where its first one stands, so that fewer wait than came."""
    lines: dict[LineId | int, list[tuple[int, Delivery]]] = {}
    for place, delivery in enumerate(fresh):
        _, found = read.get(id(delivery), (delivery, ""))
        name, number = (place, 0) if isinstance(found, str) else found
        lines.setdefault(name, []).append((number, delivery))
    for line in lines.values():
        line.sort(key=lambda one: one[0])
    return [delivery for line in lines.values() for _, delivery in line]


def _place(delivery: Delivery) -> Partition:
    return delivery.topic, delivery.partition
