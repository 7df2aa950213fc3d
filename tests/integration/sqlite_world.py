"""What a model test of the SQLite road looks at after every step: two instances, and the books."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant

from postroad.core.delivery import Delivery
from postroad.core.partitioner import partition_of
from postroad.core.topic import NO_OPTIONS, Options, Retention, Topic
from tests.integration.models import Entry, Ledger, LogModel, Post
from tests.integration.sqlite_life import Instance, Member, StoppedClock
from tests.integration.sqlite_road import Number

R = TypeVar("R")
AGE = timedelta(minutes=10)
SORTS = {
    "plain": NO_OPTIONS,
    "delayed": Options(delay=timedelta(seconds=5)),
    "late": Options(delay=timedelta(seconds=40)),
    "urgent": Options(priority=5),
    "mortal": Options(expires_in=timedelta(seconds=10)),
}
messages = st.tuples(st.sampled_from("abc"), st.sampled_from([*SORTS, "plain"]))
batches = st.lists(messages, min_size=1, max_size=5)
picks = st.integers(0, 7)


class World(RuleBasedStateMachine):
    """Who is there, what was published, and whether the road's books agree with the model's."""

    topic: Topic[Number] = Topic(
        "numbers.model", Number, key="key", partitions=2, retention=Retention(age=AGE)
    )
    groups: tuple[str, ...] = ("ordered", "free", "parking")
    """Those that are there from the start."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="postroad-model-"))
        self.runner = asyncio.Runner()
        self.clock = StoppedClock()
        self.log = LogModel()
        self.ledgers: dict[str, Ledger] = {}
        self.members: list[Member] = []
        self.instances: list[Instance] = []
        self.old: list[tuple[Member, Delivery]] = []
        self.broken = False

    def run(self, step: Coroutine[Any, Any, R]) -> R:
        try:
            # Not `Runner.run`, which is at home with signals, and half of the time.
            return self.runner.get_loop().run_until_complete(step)
        except BaseException:
            self.broken = True
            raise

    @property
    def now(self) -> int:
        return self.clock.now_us()

    def instance(self, pick: int) -> Instance:
        return self.instances[pick % len(self.instances)]

    def member(self, pick: int) -> Member:
        return self.members[pick % len(self.members)]

    def name(self, which: int) -> str:
        """One of the groups; the late one is there when somebody joins it."""
        names = [*self.groups, "late"] if len(self.groups) > 1 else self.groups
        return names[which % len(names)]

    def ledger(self, name: str) -> Ledger:
        known = self.ledgers.get(name)
        if known is None:
            ordered = name in ("ordered", "parking", "store")
            known = Ledger(name, ordered, parks=name in ("parking", "store"))
            self.ledgers[name] = known
            for post in self.log.scheduled:
                known.entries[post.n] = Entry(post)
        return known

    def forget(self, member: Member) -> None:
        """What its session holds no more can only be answered in vain."""
        self.old += [(member, delivery) for delivery in member.drop()]

    def tidy_up(self) -> None:
        for member in self.members:
            member.hear()
            self.forget(member)

    # ------------------------------------------------ the beginning

    async def open(self) -> None:
        self.instances.append(await Instance.open(self.folder, self.clock, self.topic))

    @initialize()
    def start(self) -> None:
        async def begin() -> None:
            await self.open()
            await self.open()
            for name in self.groups:
                self.joined(self.instances[0], self.ledger(name), await self.joining(0, name))

        self.run(begin())

    def joining(self, pick: int, name: str) -> Coroutine[Any, Any, Any]:
        return Member.join(self.instance(pick), self.topic, self.ledger(name))

    def joined(self, instance: Instance, ledger: Ledger, consumer: Any) -> None:
        member = Member(instance, ledger, consumer, ledger.join(self.now))
        self.members.append(member)
        self.tidy_up()

    # ------------------------------------------------ messages

    def posts(self, batch: Sequence[tuple[str, str]]) -> list[tuple[Post, Any]]:
        found: list[tuple[Post, Any]] = []
        for key, sort in batch:
            number, options, now = len(self.log.posts) + len(found), SORTS[sort], self.now
            message = self.topic.envelope_with(Number(number, key), options, now, "test")
            due, part = message.deliver_at_us or now, partition_of(key, self.topic.partition_count)
            post = Post(number, key, part, message.priority, due, message.expires_at_us, message.id)
            found.append((post, message))
        return found

    def publishing(self, instance: Instance, posts: Sequence[tuple[Post, Any]]) -> Any:
        """The road takes them in."""
        return instance.transport.publish([(self.topic, message) for _, message in posts])

    def accepted(self, posts: Sequence[Post]) -> None:
        self.log.publish(posts, self.now)
        for ledger in self.ledgers.values():
            for post in posts:
                ledger.entries[post.n] = Entry(post)

    def dead(self, name: str) -> dict[int, str]:
        """The dead letters of a group: their numbers and what the road calls them."""
        return self.run(self.graves(name))

    async def graves(self, name: str) -> dict[int, str]:
        letters = await self.instances[0].transport.dead_letters(self.topic.name, name, 10_000)
        return {self.topic.decode(letter.message.data).n: letter.id for letter in letters}

    def redriven(self, pick: int, name: str, chosen: dict[int, str]) -> None:
        assert self.run(self.instance(pick).transport.redrive(list(chosen.values()))) == len(chosen)
        for number in chosen:
            self.ledgers[name].redriven(self.ledgers[name].entries[number], self.now)

    # ------------------------------------------------ what must be true

    @invariant()
    def books_agree(self) -> None:
        if self.instances:
            self.log.promote(self.now)
            self.run(self.compare())

    async def compare(self) -> None:
        await asyncio.gather(*map(self.compare_one, self.ledgers.values()))

    async def compare_one(self, ledger: Ledger) -> None:
        transport, name = self.instances[-1].transport, ledger.name
        account, dead, lag = await asyncio.gather(
            transport.account(self.topic.name, name),
            self.graves(name),
            transport.lag(self.topic.name, name),
        )
        ledger.check(account, len(self.log.scheduled), self.now)
        assert set(dead) == {n for n, one in ledger.entries.items() if one.state == "dead"}
        assert lag.messages == account.backlog + account.leased + account.waiting
