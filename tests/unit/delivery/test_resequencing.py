"""The resequencer, against a road that delivers in any order, twice, late, and forgets nothing."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postroad.core.delivery import Delivery, Failure, Partition, Settled, Settlement
from postroad.core.message import Message
from postroad.core.notices import Lost, Notice, NoticeQueue, Revoking, SequenceGap
from postroad.core.sequence import Change, LineId, Standing, numbered
from postroad.core.sequence import Sequence as Numbers
from postroad.core.subscription import Subscription
from postroad.delivery.resequencing import Resequencer, Standings, resequenced
from postroad.errors import StorageBusyError, TransportUnavailableError
from postroad.testing.clock import VirtualClock
from postroad.transports.memory.sequences import Standings as InMemory

SECOND = timedelta(seconds=1)
GAP = timedelta(seconds=30)


@dataclass(eq=False)
class Entry:
    """One message on the road: `state` is open, or what it was answered with."""

    key: str
    number: int | None
    offset: int
    id: str
    epoch: str = ""
    state: str = "open"
    deliveries: int = 0
    failure: Failure | None = None
    size: int = 2

    @property
    def message(self) -> Message:
        headers = {} if self.number is None else numbered(self.number, self.epoch)
        return Message(
            id=self.id,
            type="t",
            source="s",
            data=b"x" * self.size,
            time_us=0,
            key=self.key,
            headers=headers,
        )


@dataclass
class Road:
    """What outlives a process: the messages, what they were answered with, where groups stand.
    Each key has a partition of its own."""

    clock: VirtualClock = field(default_factory=VirtualClock)
    entries: list[Entry] = field(default_factory=list)
    kept: InMemory = field(default_factory=InMemory)
    writes: int = 0
    broken: list[Exception] = field(default_factory=list)

    def put(self, key: str, number: int | None, **settings: Any) -> Entry:
        offset = len(self.entries)
        entry = Entry(key, number, offset, settings.pop("id", f"m{offset}"), **settings)
        self.entries.append(entry)
        return entry

    async def sequences(self, group: str, lines: Any) -> Any:
        if self.broken:
            raise self.broken.pop()
        return self.kept.read(group, lines)

    async def advance_sequences(
        self, group: str, changes: Sequence[Change], *, durable: bool = True
    ) -> None:
        self.writes += 1
        self.kept.write(group, changes)

    async def forget_sequences(self, group: str, topic: str) -> None:
        self.kept.forget(group, topic)

    def consumer(self, **wish: Any) -> tuple[Inner, Resequencer]:
        """As one process has it."""
        chosen: dict[str, Any] = {"gap": GAP, "first": 1, **wish}
        subscription = Subscription(source="t", group="g", order="key", sequence=Numbers(**chosen))
        inner = Inner(self)
        standings = Standings(self, "g", durable=False)
        return inner, resequenced(inner, subscription, standings, self.clock)


class Inner:
    """The road's own consumer, of one process."""

    def __init__(self, road: Road) -> None:
        self.road = road
        self.held: dict[int, Entry] = {}
        self.open = [entry for entry in road.entries if entry.state == "open"]
        self.queue = NoticeQueue()
        self.dies_before_settling = False
        self.released: list[Partition] = []
        self.extended = 0

    def has(self, entry: Entry) -> None:
        """It can be received from now on."""
        self.open.append(entry)

    async def receive(self, limit: int, max_bytes: int, wait: timedelta) -> Sequence[Delivery]:
        if not self.open:
            await self.road.clock.sleep(wait.total_seconds())
        taken, self.open = self.open[:limit], self.open[limit:]
        return [self.lease(entry) for entry in taken]

    def lease(self, entry: Entry) -> Delivery:
        entry.deliveries += 1
        delivery = Delivery(
            message=entry.message,
            topic="t",
            group="g",
            partition=ord(entry.key[0]),
            offset=entry.offset,
            deliveries=entry.deliveries,
        )
        delivery.token = entry
        self.held[id(delivery)] = entry
        return delivery

    async def begin(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        return [one for one in deliveries if id(one) in self.held]

    async def extend(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        self.extended = len(deliveries)
        return [one for one in deliveries if id(one) in self.held]

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        if self.dies_before_settling:
            raise TransportUnavailableError("killed")
        return [self.answer(settlement) for settlement in settlements]

    def answer(self, settlement: Settlement) -> Settled:
        entry = self.held.pop(id(settlement.delivery), None)
        if entry is None:
            return "stale"
        if settlement.action == "nack":
            self.open.append(entry)
        else:
            entry.state = "dead" if settlement.action == "reject" else settlement.outcome
            entry.failure = settlement.failure
        return "done"

    def lose(self, key: str) -> None:
        """Another consumer had the partition for a moment."""
        for identity, entry in list(self.held.items()):
            if entry.key == key:
                del self.held[identity]
                self.open.append(entry)

    async def pause(self, partitions: Sequence[Partition]) -> None: ...

    async def resume(self, partitions: Sequence[Partition]) -> None: ...

    async def release(self, partitions: Sequence[Partition]) -> None:
        self.released += partitions

    def notices(self) -> AsyncIterator[Notice]:
        return aiter(self.queue)

    async def close(self) -> None:
        self.open += self.held.values()
        self.held.clear()


def numbers(deliveries: Sequence[Delivery]) -> list[int | None]:
    return [delivery.token.number for delivery in deliveries]


async def take(consumer: Resequencer, limit: int = 100) -> Sequence[Delivery]:
    """What is there now."""
    return await consumer.receive(limit, 1 << 20, timedelta(0))


async def handle(consumer: Resequencer, limit: int = 100) -> list[int | None]:
    """Run a handler on everything that is there, and answer."""
    handled = []
    while taken := await take(consumer, limit):
        run = [one for one in taken if consumer.verdict(one) is None]
        handled += numbers(run)
        await consumer.settle([consumer.verdict(one) or Settlement(one) for one in taken])
    return handled


# ------------------------------------------------ order, duplicates, gaps


async def test_what_comes_too_early_waits_for_its_turn() -> None:
    road = Road()
    for number in (3, 1, 4, 2):
        road.put("a", number)
    _, consumer = road.consumer()
    assert await handle(consumer, limit=1) == [1, 2, 3, 4]
    assert consumer.waiting == 0


async def test_keys_and_epochs_do_not_wait_for_each_other() -> None:
    road = Road()
    road.put("a", 2)
    road.put("b", 1)
    road.put("a", 1, epoch="later")
    inner, consumer = road.consumer()
    taken = await take(consumer)
    assert [(one.message.key, one.token.epoch) for one in taken] == [("b", ""), ("a", "later")]
    inner.has(road.put("a", 1))
    assert numbers(await take(consumer)) == [1, 2]


async def test_what_was_handled_is_dropped_and_says_so() -> None:
    road = Road()
    road.put("a", 1)
    inner, consumer = road.consumer()
    await handle(consumer)
    copy = road.put("a", 1)
    inner.has(copy)
    assert await handle(consumer) == []
    assert copy.state == "discarded"


async def test_a_message_whose_answer_was_lost_counts_as_handled() -> None:
    road = Road()
    entry = road.put("a", 1)
    inner, consumer = road.consumer()
    taken = await take(consumer)
    inner.dies_before_settling = True
    with pytest.raises(TransportUnavailableError):
        await consumer.settle([Settlement(taken[0])])
    _, consumer = road.consumer()
    assert await handle(consumer) == []
    assert entry.state == "handled"


@pytest.mark.parametrize("waits", [False, True])
async def test_a_copy_of_what_is_in_hand_is_dropped(waits: bool) -> None:
    road = Road()
    first = road.put("a", 2 if waits else 1)
    inner, consumer = road.consumer()
    running = await take(consumer)
    copy = road.put("a", first.number)
    inner.has(copy)
    await handle(consumer)
    assert (first.state, copy.state) == ("open", "discarded")
    if waits:
        inner.has(road.put("a", 1))
        assert await handle(consumer) == [1, 2]
    else:
        await consumer.settle([Settlement(running[0])])
    assert first.state == "handled"


async def test_a_redelivery_of_what_runs_waits_for_its_fate() -> None:
    road = Road()
    entry = road.put("a", 1)
    inner, consumer = road.consumer()
    (first,) = await take(consumer)
    inner.lose("a")
    assert await take(consumer) == ()
    # The first one turns out to be stale, and was not handled: the second one is.
    await consumer.settle([Settlement(first, "nack")])
    assert await handle(consumer) == [1]
    assert entry.state == "handled"


async def test_a_redelivery_of_what_was_handled_after_all_is_dropped() -> None:
    road = Road()
    entry = road.put("a", 1)
    inner, consumer = road.consumer()
    (first,) = await take(consumer)
    inner.lose("a")
    assert await take(consumer) == ()
    assert await consumer.settle([Settlement(first)]) == ["stale"]
    assert await handle(consumer) == []
    assert entry.state == "handled"


async def test_what_waits_behind_a_gap_dies_and_names_what_is_missing() -> None:
    road = Road()
    for number in (1, 3, 4, 7):
        road.put("a", number)
    _, consumer = road.consumer()
    assert await handle(consumer) == [1]
    await road.clock.advance(GAP - SECOND)
    assert await take(consumer) == ()
    await road.clock.advance(SECOND)
    assert await handle(consumer) == []
    failures = {entry.number: entry.failure for entry in road.entries if entry.state == "dead"}
    assert {n: failure.detail for n, failure in failures.items() if failure} == {
        3: "it waited for 30 s for number 2 of its key, which never came",
        4: "it waited for 30 s for number 2 of its key, which never came",
        7: "it waited for 30 s for number 5-6 of its key, which never came",
    }
    road.put("a", 8)
    _, consumer = road.consumer()
    assert await handle(consumer) == [8]


async def test_continue_goes_on_and_reports_the_gap() -> None:
    road = Road()
    for number in (1, 3, 4):
        road.put("a", number)
    _, consumer = road.consumer(on_gap="continue")
    told: list[Notice] = []

    async def listen() -> None:
        told.extend([notice async for notice in consumer.notices()])

    listening = asyncio.create_task(listen())
    await handle(consumer)
    await road.clock.advance(GAP)
    assert await handle(consumer) == [3, 4]
    await consumer.close()
    await listening
    assert told == [SequenceGap("t", "a", [(2, 2)], 2, "timeout", "continue")]
    late = road.put("a", 2)
    _, consumer = road.consumer(on_gap="continue")
    assert await handle(consumer) == []
    assert late.state == "dead"
    assert late.failure is not None
    assert "too late" in late.failure.detail


async def test_the_wait_ends_in_the_middle_of_a_receive() -> None:
    road = Road()
    road.put("a", 2)
    _, consumer = road.consumer(on_gap="continue")
    receiving = asyncio.create_task(consumer.receive(10, 1 << 20, timedelta(hours=1)))
    await road.clock.advance(GAP - SECOND)
    assert not receiving.done()
    await road.clock.advance(SECOND)
    assert numbers(await receiving) == [2]


async def test_a_dead_letter_lets_its_key_go_on_and_is_handled_when_redriven() -> None:
    road = Road()
    first = road.put("a", 1)
    road.put("a", 2)
    inner, consumer = road.consumer()
    taken = await take(consumer)
    await consumer.settle([Settlement(taken[0], "reject"), Settlement(taken[1])])
    inner.has(road.put("a", 3))
    assert await handle(consumer) == [3]
    first.state = "open"
    inner.has(first)
    assert await handle(consumer) == [1]
    assert first.state == "handled"
    inner.has(road.put("a", 1))
    assert await handle(consumer) == []


async def test_a_crash_between_noting_a_death_and_the_road_loses_nothing() -> None:
    road = Road()
    first = road.put("a", 1)
    inner, consumer = road.consumer()
    (delivery,) = await take(consumer)
    inner.dies_before_settling = True
    with pytest.raises(TransportUnavailableError):
        await consumer.settle([Settlement(delivery, "reject")])
    assert first.state == "open"
    _, consumer = road.consumer()
    assert await handle(consumer) == []
    assert first.state == "dead"


async def test_a_redriven_one_that_was_too_late_is_handled() -> None:
    road = Road()
    road.put("a", 2)
    inner, consumer = road.consumer(first=2)
    await handle(consumer)
    early = road.put("a", 1)
    inner.has(early)
    assert await handle(consumer) == []
    assert early.state == "dead"
    early.state = "open"
    inner.has(early)
    assert await handle(consumer) == [1]


@pytest.mark.parametrize(("first", "handled"), [(None, [5, 6]), (1, []), (5, [5, 6])])
async def test_where_a_key_begins(first: int | None, handled: list[int]) -> None:
    road = Road()
    road.put("a", 5)
    road.put("a", 6)
    _, consumer = road.consumer(first=first)
    assert await handle(consumer) == handled


async def test_a_message_without_a_number_is_a_dead_letter() -> None:
    road = Road()
    entry = road.put("a", None)
    _, consumer = road.consumer()
    assert await handle(consumer) == []
    assert entry.failure is not None
    assert "no 'sequence' attribute" in entry.failure.detail


# ------------------------------------------------ bounds, leases, partitions


async def test_more_than_may_wait_end_the_longest_wait() -> None:
    road = Road()
    for number in range(2, 9):
        road.put("a", number)
    road.put("b", 2)
    _, consumer = road.consumer(limit=3, on_gap="continue")
    handled = await take(consumer)
    assert numbers(handled) == [2, 3, 4, 5, 6, 7, 8]
    assert consumer.waiting == 1


async def test_bytes_have_a_bound_too() -> None:
    road = Road()
    road.put("a", 2, size=600)
    road.put("a", 4, size=600)
    _, consumer = road.consumer(limit_bytes=1000)
    taken = await take(consumer)
    verdict = consumer.verdict(taken[0])
    assert numbers(taken) == [2]
    assert verdict is not None
    assert verdict.failure is not None
    assert "until too many waited" in verdict.failure.detail


async def test_leases_of_what_waits_are_renewed_and_what_is_lost_is_dropped() -> None:
    road = Road()
    road.put("a", 2)
    inner, consumer = road.consumer()
    await take(consumer)
    await consumer.extend(())
    assert inner.extended == 1
    inner.held.clear()
    await consumer.extend(())
    assert consumer.waiting == 0
    inner.has(road.entries[0])
    inner.has(road.put("a", 1))
    assert await handle(consumer) == [1, 2]


async def test_what_waits_is_not_begun_and_goes_back_at_the_end() -> None:
    road = Road()
    road.put("a", 2)
    inner, consumer = road.consumer()
    await take(consumer)
    await consumer.close()
    assert [entry.number for entry in inner.open] == [2]


async def test_a_partition_that_is_wanted_elsewhere_gets_what_waits_back() -> None:
    road = Road()
    road.put("a", 2)
    road.put("b", 2)
    inner, consumer = road.consumer()
    listening = asyncio.ensure_future(anext(aiter(consumer.notices())))
    await take(consumer)
    inner.queue.put(Revoking([("t", ord("a"))], deadline=1.0))
    assert isinstance(await listening, Revoking)
    assert [entry.key for entry in inner.open] == ["a"]
    assert consumer.waiting == 1
    # Another owner goes on meanwhile; when the partition is back, that is known.
    await consumer.release([("t", ord("a"))])
    road.kept.write("g", [Change(LineId("t", "a"), 1, 2)])
    assert await handle(consumer) == [2]


async def test_a_lost_partition_is_looked_up_again() -> None:
    road = Road()
    road.put("a", 1)
    road.put("a", 2)
    inner, consumer = road.consumer()
    notices = aiter(consumer.notices())
    listening = asyncio.ensure_future(anext(notices))
    await take(consumer, limit=1)
    inner.lose("a")
    # The other owner handled both, and lost the answers.
    road.kept.write("g", [Change(LineId("t", "a"), 1, 3)])
    inner.queue.put(Lost([("t", ord("a"))]))
    assert isinstance(await listening, Lost)
    assert await handle(consumer) == []
    assert [entry.state for entry in road.entries] == ["handled", "handled"] or [
        entry.state for entry in road.entries
    ] == ["handled", "discarded"]


async def test_a_store_that_cannot_be_read_costs_nothing() -> None:
    road = Road()
    road.put("a", 1)
    _, consumer = road.consumer()
    road.broken.append(StorageBusyError("locked"))
    with pytest.raises(StorageBusyError):
        await take(consumer)
    assert await handle(consumer) == [1]


async def test_a_batch_costs_one_write() -> None:
    road = Road()
    for number in range(1, 101):
        road.put("a", number)
        road.put("b", number)
    _, consumer = road.consumer()
    taken = await take(consumer, limit=1000)
    while more := await take(consumer, limit=1000):
        taken = [*taken, *more]
    assert len(taken) == 200
    await consumer.settle([Settlement(delivery) for delivery in taken])
    assert road.writes == 1


async def test_what_came_back_has_its_time_before_it_is_missing() -> None:
    """A retry that waits on the road is not a gap."""
    road = Road()
    road.put("a", 1)
    road.put("a", 3)
    inner, consumer = road.consumer()
    (first,) = await take(consumer)
    await consumer.settle([Settlement(first, "nack", delay=timedelta(minutes=5))])
    back = inner.open.pop()
    await road.clock.advance(timedelta(minutes=5))
    assert await take(consumer) == ()
    inner.has(back)
    inner.has(road.put("a", 2))
    assert await handle(consumer) == [1, 2, 3]


async def test_what_went_back_comes_again_in_its_order() -> None:
    road = Road()
    for number in (1, 2):
        road.put("a", number)
    inner, consumer = road.consumer()
    taken = await take(consumer)
    await consumer.settle([Settlement(delivery, "nack") for delivery in taken])
    inner.open.reverse()
    assert await handle(consumer, limit=1) == [1, 2]


# ------------------------------------------------ any interleaving, duplication, delay, restart


@dataclass
class World:
    """A road with one process on it that is killed now and then, and all that its handler did."""

    road: Road
    wish: dict[str, Any]
    lives: int = 0
    handled: list[tuple[int, str, int]] = field(default_factory=list)
    settled: set[tuple[str, int]] = field(default_factory=set)
    lanes: dict[str, list[Delivery]] = field(default_factory=dict)

    def start(self) -> None:
        self.lives += 1
        self.lanes = defaultdict(list)
        self.inner, self.consumer = self.road.consumer(**self.wish)

    async def receive(self, limit: int) -> None:
        taken = await self.consumer.receive(limit, 1 << 20, timedelta(0))
        known = [(one, self.consumer.verdict(one)) for one in taken]
        for delivery, verdict in known:
            if verdict is None:
                self.lanes[delivery.message.key or ""].append(delivery)
        await self.consumer.settle([verdict for _, verdict in known if verdict is not None])
        assert self.consumer.waiting <= self.wish["limit"]

    async def answer(self, settlements: list[Settlement]) -> None:
        answers = await self.consumer.settle(settlements)
        for settlement, answer in zip(settlements, answers, strict=True):
            if answer == "done" and settlement.action == "ack":
                entry: Entry = settlement.delivery.token
                self.settled.add((entry.key, entry.number or 0))

    def run_handler(self, key: str) -> Delivery:
        delivery = self.lanes[key].pop(0)
        number = delivery.token.number
        assert (key, number) not in self.settled, "handled once more"
        mine = [n for life, name, n in self.handled if (life, name) == (self.lives, key)]
        assert all(number > before for before in mine), f"{number} after {mine}"
        self.handled.append((self.lives, key, number))
        return delivery

    async def act(self, action: str, amount: int) -> None:
        busy = sorted(key for key, lane in self.lanes.items() if lane)
        key = busy[amount % len(busy)] if busy else ""
        if action == "receive":
            await self.receive(amount + 1)
        elif action == "tick":
            await self.road.clock.advance(amount * timedelta(seconds=5))
        elif action == "crash":
            self.start()
        elif action == "lose":
            self.lives += 1  # whoever had it meanwhile may have handled it
            self.inner.lose(key or "a")
            lost = self.lanes.pop(key or "a", [])
            owned = await self.consumer.extend(lost)
            assert owned == []
        elif key and action == "handle":
            await self.answer([Settlement(self.run_handler(key))])
        elif key and action == "die while answering":
            delivery = self.run_handler(key)
            self.inner.dies_before_settling = True
            with pytest.raises(TransportUnavailableError):
                await self.consumer.settle([Settlement(delivery)])
            self.start()
        elif key and action == "reject":
            failure = Failure(reason="rejected", detail="")
            await self.answer([Settlement(self.lanes[key].pop(0), "reject", failure=failure)])
        elif key and action == "hand back":
            back = self.lanes.pop(key)[:: -1 if amount % 2 else 1]
            await self.answer([Settlement(delivery, "nack") for delivery in back])

    async def finish(self) -> None:
        """Without faults from here on; every wait comes to its end."""
        for _ in range(200):
            await self.receive(3)
            for key in sorted(self.lanes):
                while self.lanes[key]:
                    await self.act_on(key)
            if not any(entry.state == "open" for entry in self.road.entries):
                return
            await self.road.clock.advance(timedelta(seconds=10))
        raise AssertionError("something is never decided")

    async def act_on(self, key: str) -> None:
        await self.answer([Settlement(self.run_handler(key))])


published = st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 6)), max_size=24)
actions = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "publish",
                "publish",
                "receive",
                "receive",
                "handle",
                "handle",
                "tick",
                "crash",
                "die while answering",
                "lose",
                "reject",
                "hand back",
            ]
        ),
        st.integers(0, 4),
    ),
    max_size=60,
)


@settings(max_examples=300)
@given(published, actions, st.sampled_from(["dead-letter", "continue"]), st.integers(1, 5))
def test_in_order_once_and_nothing_lost(
    published: list[tuple[str, int]],
    actions: list[tuple[str, int]],
    on_gap: str,
    limit: int,
) -> None:
    async def run() -> None:
        world = World(Road(), {"on_gap": on_gap, "limit": limit})
        world.start()
        waiting = list(published)
        for action, amount in actions:
            if action == "publish":
                if waiting:
                    world.inner.has(world.road.put(*waiting.pop(0)))
            else:
                await world.act(action, amount)
        for one in waiting:
            world.inner.has(world.road.put(*one))
        await world.finish()
        assert world.consumer.waiting == 0
        ends = defaultdict(list)
        for entry in world.road.entries:
            ends[entry.key, entry.number].append(entry)
        ran = {(key, number) for _, key, number in world.handled}
        for numbering, entries in ends.items():
            states = {entry.state for entry in entries}
            assert states <= {"handled", "discarded", "dead"}
            # A copy is dropped only beside one that was handled, or lies among the dead.
            assert numbering in ran or "dead" in states
            for entry in entries:
                assert entry.state != "dead" or entry.failure is not None

    asyncio.run(run())


def test_standings_are_read_for_new_lines_only() -> None:
    """A line that is in hand is not read again: that is one read for a key, not for a batch."""

    async def run() -> int:
        road = Road()
        reads = 0
        inner_read = road.kept.read

        def count(group: str, lines: Any) -> Any:
            nonlocal reads
            reads += 1
            return inner_read(group, lines)

        road.kept.read = count  # type: ignore[method-assign]
        inner, consumer = road.consumer()
        for number in range(1, 20):
            inner.has(road.put("a", number))
            await handle(consumer)
        return reads

    assert asyncio.run(run()) == 1


def test_a_standing_is_a_copy() -> None:
    road = Road()
    road.kept.write("g", [Change(LineId("t", "a"), 1, 2)])
    found = road.kept.read("g", [LineId("t", "a")])[LineId("t", "a")]
    found.settle(2)
    again: Standing = road.kept.read("g", [LineId("t", "a")])[LineId("t", "a")]
    assert again.next == 2
