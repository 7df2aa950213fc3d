"""What happens to the members of groups: they come, go, fall silent and lose partitions."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.integration.models import LEASE_US
from tests.integration.sqlite_life import Member
from tests.integration.sqlite_world import World, picks

MEMBERS = ["leave", "fall_silent", "tend", "begin", "extend", "release", "pause", "resume"]


class Membership(World):
    @precondition(lambda self: len(self.members) < 6)
    @rule(pick=picks, which=picks)
    def join(self, pick: int, which: int) -> None:
        name = self.name(which)
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

    def succeed(self, gone: Member) -> None:
        """Somebody takes the place of one that is no more."""
        self.log.promote(self.now)
        consumer = self.run(self.joining(-1, gone.ledger.name))
        self.joined(self.instance(-1), gone.ledger, consumer)

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
            if (self.topic.name, entry.post.partition) in partitions:
                member.ledger.let_go(entry, self.now, lost=True)

    def release(self, pick: int, part: int) -> None:
        member = self.member(pick)
        wanted = [(self.topic.name, part)]
        self.run(member.consumer.release(wanted))
        if not member.blind and wanted[0] in member.owned:
            self.give_up(member, wanted)
            member.owned.discard(wanted[0])
        self.tidy_up()

    def pause(self, pick: int, part: int, on: bool) -> None:
        member, place = self.member(pick), (self.topic.name, part)
        if on:
            member.paused.add(place)
            self.run(member.consumer.pause([place]))
        else:
            member.paused.discard(place)
            self.run(member.consumer.resume([place]))

    def begin(self, pick: int) -> None:
        member = self.member(pick)
        held = list(member.hand.values())
        owned = self.run(member.consumer.begin(held))
        alive = self.is_alive(member)
        assert list(owned) == (held if alive else [])
        for entry in member.holds() if alive else ():
            entry.begun = True

    def extend(self, pick: int) -> None:
        member = self.member(pick)
        held, alive = list(member.hand.values()), self.is_alive(member)
        owned = self.run(member.consumer.extend(held))
        if alive:
            member.session.until_us = self.now + LEASE_US
        else:
            member.blind = True
        self.tidy_up()
        assert list(owned) == (held if alive else [])

    def is_alive(self, member: Member) -> bool:
        session = member.session
        return session in member.ledger.sessions and session.alive(self.now)
