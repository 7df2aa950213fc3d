"""Any life of the SQLite road, crashes included, held against a model of it.

Two instances share a file; groups with and without order read one topic, one of them with its dead
in the way. After every step the road's books have to agree with the model's, and in the end nothing
may be left or lost.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule, run_state_machine_as_test

from postroad.core.clock import from_us
from postroad.core.delivery import Settlement, Start
from postroad.core.topic import Retention, Topic
from postroad.core.transport import Kept
from postroad.errors import GroupActiveError
from tests.integration.models import LEASE_US, Ledger, Post, lives
from tests.integration.sqlite_answers import Answering, answers
from tests.integration.sqlite_life import Instance
from tests.integration.sqlite_road import LARGE, NOW, WHY, Number, n
from tests.integration.sqlite_world import AGE, batches, picks

DESK = ["redrive", "redrive", "redrive last", "cancel", "trim", "discard"]


class SqliteLife(Answering):
    # ------------------------------------------------ publishing and crashing

    @rule(pick=picks, batch=batches)
    def publish(self, pick: int, batch: list[tuple[str, str]]) -> None:
        posts = self.posts(batch)
        self.run(self.publishing(self.instance(pick), posts))
        self.accepted([post for post, _ in posts])

    def cancel(self, pick: int, which: int) -> None:
        posts = self.log.scheduled or list(self.log.posts.values())[-1:]
        if not posts:
            return
        post = posts[which % len(posts)]
        transport = self.instance(pick).transport
        there = post in self.log.scheduled
        assert self.run(transport.cancel(post.id)) is there
        if there:
            self.log.scheduled.remove(post)
            for ledger in self.ledgers.values():
                ledger.entries.pop(post.n, None)

    @rule(pick=picks, commits=st.integers(0, 3), kinds=answers, batch=batches)
    def crash(
        self, pick: int, commits: int, kinds: list[str], batch: list[tuple[str, str]]
    ) -> None:
        """An instance is killed while it publishes and its members receive, answer and renew."""
        instance = self.instances.pop(pick % len(self.instances))
        mine = [member for member in self.members if member.instance is instance]
        self.members = [member for member in self.members if member.instance is not instance]
        posts = self.posts(batch)
        acting = [member for member in mine if self.is_alive(member)]
        taking, giving = acting[:1], [member for member in acting[1:] if member.hand]
        chosen = [self.choose(member, kinds) for member in giving]
        ends = self.run(
            instance.die(
                commits,
                *(member.consumer.receive(2, LARGE, NOW) for member in taking),
                *(
                    member.consumer.settle(list(answers.values()))
                    for member, answers in zip(giving, chosen, strict=True)
                ),
                self.publishing(instance, posts),
            )
        )
        for member in taking:
            if not isinstance(end := ends.pop(0), BaseException):
                self.received(member, end)
        for member, given in zip(giving, chosen, strict=True):
            if not isinstance(ends.pop(0), BaseException):
                self.settled(member, given)
        if not isinstance(ends.pop(0), BaseException):
            self.accepted([post for post, _ in posts])
        self.run(self.open())
        for member in mine:
            self.succeed(member)

    # ------------------------------------------------ everything else

    @rule(seconds=st.sampled_from([1, 4, 4, 15, 31, 31, 45, 700]))
    def advance(self, seconds: int) -> None:
        self.clock.jump(seconds)

    @rule(pick=picks, which=picks, most=st.integers(1, 5), act=st.sampled_from(DESK))
    def at_the_desk(self, pick: int, which: int, most: int, act: str) -> None:
        """Somebody looks after the road."""
        name = self.name(which)
        if act == "trim":
            self.trim(pick)
        elif act == "cancel":
            self.cancel(pick, most)
        elif name in self.ledgers and (dead := list(self.dead(name).items())):
            if act == "discard":
                self.discarded(name, dict(dead[:most]))
            else:
                self.redriven(
                    pick, name, dict(dead[-most:] if act.endswith("last") else dead[:most])
                )

    def discarded(self, name: str, chosen: dict[int, str]) -> None:
        transport = self.instances[0].transport
        assert self.run(transport.discard(list(chosen.values()))) == len(chosen)
        for number in chosen:
            self.ledgers[name].entries[number].state = "discarded"

    @rule(pick=picks, which=picks, back=st.sampled_from([None, 0, 10, 60, 1000]))
    def seek(self, pick: int, which: int, back: int | None) -> None:
        """To the end, or to so many seconds ago."""
        name = self.name(which)
        ledger = self.ledgers.get(name)
        if ledger is None:
            return
        transport = self.instance(pick).transport
        to: Start = "latest" if back is None else from_us(self.now - back * 1_000_000)
        if any(session.alive(self.now) for session in ledger.sessions):
            with pytest.raises(GroupActiveError):
                self.runner.get_loop().run_until_complete(transport.seek(self.topic.name, name, to))
            return
        self.discarded(name, self.dead(name))
        kept = {n(one) for one in self.run(transport.browse(self.topic.name, "earliest", 10_000))}
        self.run(transport.seek(self.topic.name, name, to))
        self.log.promote(self.now)
        since = float("inf") if back is None else self.now - back * 1e6
        ledger.seek(self.log, kept, since, self.now)
        self.tidy_up()

    def trim(self, pick: int) -> None:
        self.log.promote(self.now)
        self.run(self.instance(pick).transport.trim())
        for ledger in self.ledgers.values() if self.topic.retention.age else ():
            ledger.trim(self.now - AGE // timedelta(microseconds=1))

    # ------------------------------------------------ the end

    def teardown(self) -> None:
        try:
            if not self.broken and self.instances:
                self.drain()
        finally:
            self.run(self.close())
            self.runner.close()
            shutil.rmtree(self.folder)

    def drain(self) -> None:
        """Everybody goes; one new member of each group gets what is left, then the dead."""
        while self.members:
            self.leave(0)
        self.clock.jump(60)
        for name, ledger in self.ledgers.items():
            self.joined(self.instances[0], ledger, self.run(self.joining(0, name)))
            self.drain_one(ledger)
            stuck = ledger.stuck(self.now)
            assert not stuck, f"{stuck} never came to {name}"
            while dead := self.dead(name):
                self.redriven(0, name, dict(list(dead.items())[:2]))
                self.drain_one(ledger)
            account = self.run(self.instances[0].transport.account(self.topic.name, name))
            ledger.check_drained(account, self.now)

    def drain_one(self, ledger: Ledger) -> None:
        member, idle = self.members[-1], 0
        while idle < 3:
            self.run(member.consumer.extend([]))
            member.session.until_us = self.now + LEASE_US
            found = self.run(member.consumer.receive(100, LARGE, NOW))
            self.received(member, found)
            chosen = {n(one): Settlement(one) for one in found}
            assert set(self.run(member.consumer.settle(list(chosen.values())))) <= {"done"}
            self.settled(member, chosen)
            idle = 0 if found else idle + 1
            self.clock.jump(0 if found else 25)
        self.books_agree()

    async def close(self) -> None:
        for instance in self.instances:
            await instance.transport.close()


class StoreLife(SqliteLife):
    """The road as the store of another one: one group, which parks, of what is kept for it."""

    topic = Topic(
        "numbers.store", Number, key="key", partitions=2, retention=Retention(consumed=True)
    )
    groups = ("store",)

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[int, Kept] = {}

    def posts(self, batch: Sequence[tuple[str, str]]) -> list[tuple[Post, Any]]:
        """Here a delayed one waits for its retry, and a late one is a dead letter."""
        sorts = ["plain" if sort in ("delayed", "late") else sort for _, sort in batch]
        keys = [key for key, _ in batch]
        found: list[tuple[Post, Any]] = []
        for (post, message), (_, sort) in zip(
            super().posts(list(zip(keys, sorts, strict=True))), batch, strict=True
        ):
            waits = sort == "delayed"
            kept = Kept(
                message=message,
                attempts=int(waits),
                failures=(WHY,),
                due_us=self.now + 5_000_000 if waits else 0,
                dead=sort == "late",
            )
            found.append((post, kept))
        return found

    def publishing(self, instance: Instance, posts: Sequence[tuple[Post, Any]]) -> Any:
        kept = [one for _, one in posts]
        self.kept.update((post.n, one) for post, one in posts)
        return instance.transport.keep(self.topic, "store", kept, ordered=True, parks=True)

    def accepted(self, posts: Sequence[Post]) -> None:
        super().accepted(posts)
        ledger = self.ledgers["store"]
        for post in posts:
            entry, kept = ledger.entries[post.n], self.kept[post.n]
            entry.state = "dead" if kept.dead else "waiting"
            entry.attempts = kept.attempts
            entry.due_us = 0 if ledger.parked(entry) else kept.due_us

    def seek(self, pick: int, which: int, back: int | None) -> None:
        """Nobody moves it."""

    @invariant()
    def keys_agree(self) -> None:
        """The road knows by their keys what is not settled."""
        if self.instances:
            entries = self.ledgers["store"].entries.values()
            due = self.ledgers["store"].open_keys(self.now)
            most = {one.post.key for one in entries if one.state not in ("handled", "discarded")}
            keys, same = self.run(self.keys())
            assert due <= keys <= most
            assert keys == same

    async def keys(self) -> tuple[set[str], set[str]]:
        """What is not settled, asked for as a whole and by key."""
        transport = self.instances[-1].transport
        keys = await transport.unsettled_keys(self.topic.name, "store", None)
        same = await transport.unsettled_keys(self.topic.name, "store", ["a", "b", "c", "d"])
        return set(keys), set(same)


@pytest.mark.timeout(900)  # a failure is made smaller for minutes
@pytest.mark.parametrize(
    ("life", "usual"), [(SqliteLife, 90), (StoreLife, 50)], ids=["road", "store"]
)
def test_any_life_keeps_its_promises(life: type[SqliteLife], usual: int) -> None:
    run_state_machine_as_test(life, settings=lives(usual, 40))
