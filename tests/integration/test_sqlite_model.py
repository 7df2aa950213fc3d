"""Any life of the SQLite road, crashes included, held against a model of it.

Two instances share a file; groups with and without order read one topic. After every step the
road's books have to agree with the model's, and in the end nothing may be left or lost.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from postroad.core.clock import from_us
from postroad.core.delivery import Action, Delivery, Settlement, Start
from postroad.core.partitioner import partition_of
from postroad.core.topic import NO_OPTIONS, Options, Retention, Topic
from postroad.errors import GroupActiveError
from tests.integration.models import LEASE_US, Entry, Ledger, LogModel, Post, lives
from tests.integration.sqlite_life import Instance, Member, StoppedClock
from tests.integration.sqlite_road import LARGE, NOW, WHY, Number, n

R = TypeVar("R")
AGE = timedelta(minutes=10)
TOPIC: Topic[Number] = Topic(
    "numbers.model", Number, key="key", partitions=2, retention=Retention(age=AGE)
)
SORTS = {
    "plain": NO_OPTIONS,
    "delayed": Options(delay=timedelta(seconds=5)),
    "late": Options(delay=timedelta(seconds=40)),
    "urgent": Options(priority=5),
    "mortal": Options(expires_in=timedelta(seconds=10)),
}
ANSWERS: dict[str, tuple[Action, dict[str, Any]] | None] = {
    "keep": None,
    "ack": ("ack", {}),
    "discard": ("ack", {"outcome": "discarded"}),
    "back": ("nack", {}),
    "fail": ("nack", {"failure": WHY}),
    "fail later": ("nack", {"failure": WHY, "delay": timedelta(seconds=5)}),
    "later": ("nack", {"delay": timedelta(seconds=40)}),
    "reject": ("reject", {"failure": WHY}),
}
MEMBERS = ["leave", "fall_silent", "tend", "begin", "extend", "release", "pause", "resume"]
DESK = ["redrive", "redrive", "cancel", "trim", "discard"]
messages = st.tuples(st.sampled_from("abc"), st.sampled_from(list(SORTS)))
batches = st.lists(messages, min_size=1, max_size=5)
answers = st.lists(st.sampled_from(list(ANSWERS)), min_size=1, max_size=6)
rounds = st.lists(st.tuples(st.integers(1, 3), answers), min_size=2, max_size=5)
picks = st.integers(0, 7)
groups = st.sampled_from(["ordered", "free", "late"])


class SqliteLife(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="postroad-model-"))
        self.runner = asyncio.Runner()
        self.clock = StoppedClock()
        self.log = LogModel()
        self.ledgers = {name: Ledger(name, name == "ordered") for name in ("ordered", "free")}
        self.members: list[Member] = []
        self.instances: list[Instance] = []
        self.old: list[tuple[Member, Delivery]] = []
        self.broken = False

    # ------------------------------------------------ helpers

    def run(self, step: Coroutine[Any, Any, R]) -> R:
        try:
            return self.runner.run(step)
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

    def ledger(self, name: str) -> Ledger:
        known = self.ledgers.get(name)
        if known is None:
            known = self.ledgers[name] = Ledger(name, ordered=False)
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

    async def open(self) -> None:
        self.instances.append(await Instance.open(self.folder, self.clock, TOPIC))

    # ------------------------------------------------ life of instances and members

    @initialize()
    def start(self) -> None:
        async def begin() -> None:
            await self.open()
            await self.open()
            for ledger in self.ledgers.values():
                self.joined(self.instances[0], ledger, await self.joining(0, ledger.name))

        self.run(begin())

    def joining(self, pick: int, name: str) -> Coroutine[Any, Any, Any]:
        return Member.join(self.instance(pick), TOPIC, self.ledger(name))

    def joined(self, instance: Instance, ledger: Ledger, consumer: Any) -> None:
        member = Member(instance, ledger, consumer, ledger.join(self.now))
        self.members.append(member)
        self.tidy_up()

    @precondition(lambda self: len(self.members) < 6)
    @rule(pick=picks, name=groups)
    def join(self, pick: int, name: str) -> None:
        self.log.promote(self.now)
        consumer = self.run(self.joining(pick, name))
        self.joined(self.instance(pick), self.ledger(name), consumer)

    @precondition(lambda self: self.members)
    @rule(pick=picks, part=st.integers(0, 1), act=st.sampled_from(MEMBERS))
    def turn(self, pick: int, part: int, act: str) -> None:
        """Something happens to a member."""
        if act == "leave":
            gone = self.member(pick)
            self.leave(pick)
            self.succeed(gone)
        elif act in ("fall_silent", "tend", "begin", "extend"):
            getattr(self, act)(pick)
        elif act == "release":
            self.release(pick, part)
        else:
            self.pause(pick, part, act == "pause")

    def leave(self, pick: int) -> None:
        member = self.members.pop(pick % len(self.members))
        self.run(member.consumer.close())
        self.left(member)

    def left(self, member: Member) -> None:
        if not member.blind:
            member.ledger.end(member.session, self.now, crashed=False)
        self.forget(member)

    def fall_silent(self, pick: int) -> None:
        """Nobody uses it any more, and nobody closes it."""
        member = self.members.pop(pick % len(self.members))
        self.old += [(member, delivery) for delivery in member.hand.values()]
        self.succeed(member)

    def tend(self, pick: int) -> None:
        """What its keeper does now and then: sweep and rebalance."""
        self.tended(self.member(pick))

    def tended(self, member: Member) -> None:
        if not member.blind:
            member.ledger.sweep(self.now)
        member.lost.clear()
        self.run(member.consumer._tidy())
        member.hear()
        if member.session not in member.ledger.sessions:
            member.blind = True
        elif member.ledger.ordered:
            self.give_up(member, member.lost)
        self.tidy_up()

    def give_up(self, member: Member, partitions: Sequence[tuple[str, int]]) -> None:
        for entry in member.holds():
            if (TOPIC.name, entry.post.partition) in partitions:
                member.ledger.let_go(entry, self.now, lost=True)

    def release(self, pick: int, part: int) -> None:
        member = self.member(pick)
        wanted = [(TOPIC.name, part)]
        self.run(member.consumer.release(wanted))
        if not member.blind and wanted[0] in member.owned:
            self.give_up(member, wanted)
            member.owned.discard(wanted[0])
        self.tidy_up()

    def pause(self, pick: int, part: int, on: bool) -> None:
        member, place = self.member(pick), (TOPIC.name, part)
        if on:
            member.paused.add(place)
            self.run(member.consumer.pause([place]))
        else:
            member.paused.discard(place)
            self.run(member.consumer.resume([place]))

    # ------------------------------------------------ publishing

    def posts(self, batch: Sequence[tuple[str, str]]) -> list[tuple[Post, Any]]:
        found: list[tuple[Post, Any]] = []
        for key, sort in batch:
            number, options, now = len(self.log.posts) + len(found), SORTS[sort], self.now
            message = TOPIC.envelope_with(Number(number, key), options, now, "test")
            due, part = message.deliver_at_us or now, partition_of(key, TOPIC.partition_count)
            post = Post(number, key, part, message.priority, due, message.expires_at_us, message.id)
            found.append((post, message))
        return found

    def accepted(self, posts: Sequence[Post]) -> None:
        self.log.publish(posts, self.now)
        for ledger in self.ledgers.values():
            for post in posts:
                ledger.entries[post.n] = Entry(post)

    @rule(pick=picks, batch=batches)
    def publish(self, pick: int, batch: list[tuple[str, str]]) -> None:
        posts = self.posts(batch)
        transport = self.instance(pick).transport
        self.run(transport.publish([(TOPIC, message) for _, message in posts]))
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

    # ------------------------------------------------ receiving and answering

    @precondition(lambda self: self.members)
    @rule(pick=picks, limit=st.sampled_from([1, 2, 3, 5, 100]))
    def receive(self, pick: int, limit: int) -> None:
        member = self.member(pick)
        if member.blind or not member.session.alive(self.now):
            member.blind, member.session = False, member.ledger.join(self.now)
        found = self.run(member.consumer.receive(limit, LARGE, NOW))
        assert len(found) <= limit
        self.received(member, found)
        if not found and not member.ledger.ordered and not member.paused:
            overlooked = member.ledger.deliverable(self.now)
            assert not overlooked, f"{overlooked} did not come to {member.ledger.name}"

    def received(self, member: Member, found: Sequence[Delivery]) -> None:
        session = member.session
        if session.until_us - self.now < LEASE_US * 2 // 3:
            session.until_us = self.now + LEASE_US
        self.log.promote(self.now)
        self.tidy_up()
        for delivery in found:
            assert (delivery.topic, delivery.partition) not in member.paused
            member.ledger.hand(n(delivery), delivery, session, self.now)
            member.hand[n(delivery)] = delivery

    def begin(self, pick: int) -> None:
        member = self.member(pick)
        held = list(member.hand.values())
        owned = self.run(member.consumer.begin(held))
        assert list(owned) == (held if self.is_alive(member) else [])

    def extend(self, pick: int) -> None:
        member = self.member(pick)
        held, alive = list(member.hand.values()), self.is_alive(member)
        owned = self.run(member.consumer.extend(held))
        self.extended(member, alive)
        assert list(owned) == (held if alive else [])

    def extended(self, member: Member, alive: bool) -> None:
        if alive:
            member.session.until_us = self.now + LEASE_US
        else:
            member.blind = True
        self.tidy_up()

    def is_alive(self, member: Member) -> bool:
        session = member.session
        return session in member.ledger.sessions and session.alive(self.now)

    def busy(self, pick: int) -> Member:
        busy = [member for member in self.members if member.hand]
        return busy[pick % len(busy)]

    @precondition(lambda self: any(member.hand for member in self.members))
    @rule(pick=picks, kinds=answers)
    def settle(self, pick: int, kinds: list[str]) -> None:
        self.answer(self.busy(pick), kinds)

    def answer(self, member: Member, kinds: list[str]) -> None:
        chosen = self.choose(member, kinds)
        alive = self.is_alive(member)
        results = self.run(member.consumer.settle(list(chosen.values())))
        assert list(results) == ["done" if alive else "stale"] * len(chosen)
        if alive:
            self.settled(member, chosen)

    def choose(self, member: Member, kinds: list[str]) -> dict[int, Settlement]:
        """Answers to the first ones in hand. In order, what stands behind one that is not at its
        end may only be handed back."""
        chosen: dict[int, Settlement] = {}
        blocked: set[tuple[str, int]] = set()
        for entry, kind in zip(member.holds(), kinds, strict=False):
            answer = ANSWERS[kind]
            if member.ledger.ordered and entry.post.lane in blocked and answer is not None:
                answer = ANSWERS["back"]
            if answer is None or answer[0] == "nack":
                blocked.add(entry.post.lane)
            if answer is not None:
                delivery = member.hand[entry.post.n]
                chosen[entry.post.n] = Settlement(delivery, answer[0], **answer[1])
        return chosen

    def settled(self, member: Member, chosen: dict[int, Settlement]) -> None:
        for number, settlement in chosen.items():
            entry = member.ledger.entries[number]
            delay = settlement.delay // timedelta(microseconds=1)
            member.ledger.let_go(entry, self.now, lost=False)
            entry.due_us = self.now + delay
            entry.attempts += settlement.failure is not None
            if settlement.action == "ack":
                entry.state = "discarded" if settlement.outcome == "discarded" else "handled"
            elif settlement.action == "reject":
                entry.state = "dead"
        self.forget(member)

    @precondition(lambda self: self.members)
    @rule(pick=picks, rounds=rounds, insist=st.booleans())
    def work(self, pick: int, rounds: list[tuple[int, list[str]]], insist: bool) -> None:
        """Receive and answer, what members do most of the time; and perhaps answer again."""
        member, known = self.member(pick), len(self.old)
        for limit, kinds in rounds:
            self.receive(pick, limit)
            if member.hand:
                self.answer(member, kinds)
        for old in self.old[known:] if insist else ():
            self.in_vain(*old, rounds[0][1][0])

    @precondition(lambda self: self.old)
    @rule(which=st.integers(0, 9), kinds=answers)
    def settle_in_vain(self, which: int, kinds: list[str]) -> None:
        """Answer once more what was answered, or lost: it changes nothing."""
        self.in_vain(*self.old[-1 - which % len(self.old)], kinds[0])

    def in_vain(self, member: Member, delivery: Delivery, kind: str) -> None:
        action, options = ANSWERS[kind] or ("ack", {})
        if member.instance.alive and not self.held_by(member, delivery):
            answer = Settlement(delivery, action, **options)
            assert self.run(member.consumer.settle([answer])) == ["stale"]

    def held_by(self, member: Member, delivery: Delivery) -> bool:
        """Whether what fell silent still holds it."""
        entry = member.ledger.entries.get(n(delivery))
        session = member.session
        mine = entry is not None and entry.session is session and session.alive(self.now)
        return mine and member.hand.get(n(delivery)) is delivery

    # ------------------------------------------------ crashes

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
                instance.transport.publish([(TOPIC, message) for _, message in posts]),
            )
        )
        for member in taking:
            if not isinstance(end := ends.pop(0), BaseException):
                self.received(member, end)
        for member, answers in zip(giving, chosen, strict=True):
            if not isinstance(ends.pop(0), BaseException):
                self.settled(member, answers)
        if not isinstance(ends.pop(0), BaseException):
            self.accepted([post for post, _ in posts])
        self.run(self.open())
        for member in mine:
            self.succeed(member)

    def succeed(self, gone: Member) -> None:
        """Somebody takes the place of one that is no more."""
        self.log.promote(self.now)
        consumer = self.run(self.joining(-1, gone.ledger.name))
        self.joined(self.instance(-1), gone.ledger, consumer)

    # ------------------------------------------------ everything else

    @rule(seconds=st.sampled_from([1, 4, 4, 15, 31, 31, 45, 700]))
    def advance(self, seconds: int) -> None:
        self.clock.jump(seconds)

    @rule(pick=picks, name=groups, most=st.integers(1, 5), act=st.sampled_from(DESK))
    def at_the_desk(self, pick: int, name: str, most: int, act: str) -> None:
        """Somebody looks after the road."""
        if act == "trim":
            self.trim(pick)
        elif act == "cancel":
            self.cancel(pick, most)
        elif act == "redrive":
            self.redrive(pick, name, most)
        else:
            self.discard(name, most)

    def dead(self, name: str) -> dict[int, str]:
        transport = self.instances[0].transport
        letters = self.run(transport.dead_letters(TOPIC.name, name, 10_000))
        return {TOPIC.decode(letter.message.data).n: letter.id for letter in letters}

    def redrive(self, pick: int, name: str, most: int) -> None:
        chosen = dict(list(self.dead(name).items())[:most]) if name in self.ledgers else {}
        assert self.run(self.instance(pick).transport.redrive(list(chosen.values()))) == len(chosen)
        for number in chosen:
            entry = self.ledgers[name].entries[number]
            entry.state, entry.due_us, entry.attempts, entry.crashes = "waiting", self.now, 0, 0
            entry.again = False

    def discard(self, name: str, most: int) -> None:
        if name in self.ledgers:
            self.discarded(name, dict(list(self.dead(name).items())[:most]))

    def discarded(self, name: str, chosen: dict[int, str]) -> None:
        transport = self.instances[0].transport
        assert self.run(transport.discard(list(chosen.values()))) == len(chosen)
        for number in chosen:
            self.ledgers[name].entries[number].state = "discarded"

    def buried(self, name: str) -> set[int]:
        entries = self.ledgers[name].entries
        return {number for number, entry in entries.items() if entry.state == "dead"}

    @rule(pick=picks, name=groups, back=st.sampled_from([None, 0, 10, 60, 1000]))
    def seek(self, pick: int, name: str, back: int | None) -> None:
        """To the end, or to so many seconds ago."""
        ledger = self.ledgers.get(name)
        if ledger is None:
            return
        transport = self.instance(pick).transport
        to: Start = "latest" if back is None else from_us(self.now - back * 1_000_000)
        if any(session.alive(self.now) for session in ledger.sessions):
            with pytest.raises(GroupActiveError):
                self.runner.run(transport.seek(TOPIC.name, name, to))
            return
        self.discarded(name, self.dead(name))
        kept = {n(one) for one in self.run(transport.browse(TOPIC.name, "earliest", 10_000))}
        self.run(transport.seek(TOPIC.name, name, to))
        self.log.promote(self.now)
        since = float("inf") if back is None else self.now - back * 1e6
        ledger.seek(self.log, kept, since, self.now)
        self.tidy_up()

    def trim(self, pick: int) -> None:
        self.log.promote(self.now)
        self.run(self.instance(pick).transport.trim())
        for ledger in self.ledgers.values():
            ledger.trim(self.now - AGE // timedelta(microseconds=1))

    # ------------------------------------------------ what must be true

    @invariant()
    def books_agree(self) -> None:
        if not self.instances:
            return
        self.log.promote(self.now)
        for name, ledger in self.ledgers.items():
            transport = self.instances[-1].transport
            account = self.run(self.account(name))
            try:
                ledger.check(account, len(self.log.scheduled), self.now)
                assert set(self.dead(name)) == self.buried(name)
                lag = self.run(transport.lag(TOPIC.name, name))
                assert lag.messages == account.backlog + account.leased + account.waiting
            except BaseException:
                self.broken = True
                raise

    def account(self, name: str) -> Coroutine[Any, Any, Any]:
        return self.instances[-1].transport.account(TOPIC.name, name)

    def teardown(self) -> None:
        try:
            if not self.broken and self.instances:
                self.drain()
        finally:
            self.runner.run(self.close())
            self.runner.close()
            shutil.rmtree(self.folder)

    def drain(self) -> None:
        """Everybody goes; one new member of each group gets what is left."""
        while self.members:
            self.leave(0)
        self.clock.jump(60)
        for name, ledger in self.ledgers.items():
            self.joined(self.instances[0], ledger, self.run(self.joining(0, name)))
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
            ledger.check_drained(self.run(self.account(name)), self.now)

    async def close(self) -> None:
        for instance in self.instances:
            await instance.transport.close()


@pytest.mark.timeout(900)  # a failure is made smaller for minutes
def test_any_life_keeps_its_promises() -> None:
    run_state_machine_as_test(SqliteLife, settings=lives(150, 40))
