"""What members do with messages: take, answer, fail again and again, answer too late, die."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from postroad.core.delivery import Action, Delivery, Settlement
from tests.integration.models import LEASE_US, Entry
from tests.integration.sqlite_life import Member
from tests.integration.sqlite_members import Membership
from tests.integration.sqlite_road import LARGE, NOW, WHY, n
from tests.integration.sqlite_world import picks

SOON, LATER = timedelta(seconds=5), timedelta(seconds=40)
ANSWERS: dict[str, tuple[Action, dict[str, Any]] | None] = {
    "keep": None,
    "ack": ("ack", {}),
    "discard": ("ack", {"outcome": "discarded"}),
    "back": ("nack", {}),
    "fail": ("nack", {"failure": WHY}),
    "fail later": ("nack", {"failure": WHY, "delay": SOON}),
    "later": ("nack", {"delay": LATER}),
    "reject": ("reject", {"failure": WHY}),
}
answers = st.lists(st.sampled_from(list(ANSWERS)), min_size=1, max_size=6)
rounds = st.lists(st.tuples(st.integers(1, 3), answers), min_size=2, max_size=5)
troubles = st.lists(
    st.sampled_from(["fail", "fail", "fail later", "back", "later"]), min_size=2, max_size=5
)


class Answering(Membership):
    @precondition(lambda self: self.members)
    @rule(pick=picks, limit=st.sampled_from([1, 2, 3, 5, 100]))
    def receive(self, pick: int, limit: int) -> None:
        member = self.member(pick)
        if member.blind or not member.session.alive(self.now):
            member.blind, member.session = False, member.ledger.join(self.now)
        overlooked: list[int] = []
        for _ in range(10):
            found = self.run(member.consumer.receive(limit, LARGE, NOW))
            assert len(found) <= limit
            self.received(member, found)
            overlooked = [] if found else self.overlooked(member)
            if not overlooked:
                return
            # What had expired took the place of what had not; there is less of it each time.
        raise AssertionError(f"{overlooked} did not come to {member.ledger.name}")

    def overlooked(self, member: Member) -> list[int]:
        """What an empty receive should have brought."""
        if member.ledger.ordered:
            return member.ledger.deliverable(self.now, member.readable())
        return [] if member.paused else member.ledger.deliverable(self.now)

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

    def busy(self, pick: int) -> Member:
        busy = [member for member in self.members if member.hand]
        return busy[pick % len(busy)]

    @precondition(lambda self: any(member.hand for member in self.members))
    @rule(pick=picks, kinds=answers)
    def settle(self, pick: int, kinds: list[str]) -> None:
        self.answer(self.busy(pick), kinds)

    def answer(self, member: Member, kinds: Sequence[str]) -> None:
        self.give(member, self.choose(member, kinds))

    def give(self, member: Member, chosen: dict[int, Settlement]) -> None:
        alive = self.is_alive(member)
        results = self.run(member.consumer.settle(list(chosen.values())))
        assert list(results) == ["done" if alive else "stale"] * len(chosen)
        if alive:
            self.settled(member, chosen)

    def choose(self, member: Member, kinds: Sequence[str]) -> dict[int, Settlement]:
        """Answers to the first ones in hand. In order, what stands behind one that is not at its
        end may only be handed back; where the dead park their lane, also behind one that dies."""
        chosen: dict[int, Settlement] = {}
        blocked: set[tuple[str, int]] = set()
        for entry, kind in zip(member.holds(), kinds, strict=False):
            answer = ANSWERS[kind]
            if member.ledger.ordered and entry.post.lane in blocked and answer is not None:
                answer = ANSWERS["back"]
            if (
                answer is None
                or answer[0] == "nack"
                or (member.ledger.parks and answer[0] == "reject")
            ):
                blocked.add(entry.post.lane)
            if answer is not None:
                delivery = member.hand[entry.post.n]
                chosen[entry.post.n] = Settlement(delivery, answer[0], **answer[1])
        return chosen

    def settled(self, member: Member, chosen: dict[int, Settlement]) -> None:
        ledger = member.ledger
        for number, settlement in chosen.items():
            entry = ledger.entries[number]
            delay = settlement.delay // timedelta(microseconds=1)
            ledger.let_go(entry, self.now, lost=False)
            if settlement.action == "ack":
                entry.state = "discarded" if settlement.outcome == "discarded" else "handled"
            elif settlement.action == "reject":
                ledger.died(entry, self.now)
            else:
                self.returned(member, entry, settlement, delay)
        self.forget(member)

    def returned(self, member: Member, entry: Entry, settlement: Settlement, delay: int) -> None:
        # Behind a dead letter it waits for nothing but that.
        entry.due_us = self.now + (0 if member.ledger.parked(entry) else delay)
        moved = settlement.failure or delay or settlement.delivery.attempts
        if moved or not hasattr(settlement.delivery.token, "size"):
            entry.innocent()
        entry.attempts += settlement.failure is not None

    # ------------------------------------------------ again and again

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

    @precondition(lambda self: self.members)
    @rule(pick=picks, limit=st.integers(1, 3), kinds=troubles, last=answers)
    def stumble(self, pick: int, limit: int, kinds: list[str], last: list[str]) -> None:
        """The same messages go wrong several times in a row; then their end, perhaps."""
        member = self.member(pick)
        for kind in kinds:
            self.receive(pick, limit)
            self.answer(member, [kind] * limit)
            if kind in ("fail later", "later"):
                self.clock.jump(5 if kind == "fail later" else 40)
        self.receive(pick, limit)
        self.too_late(last[-1])
        self.answer(member, last)

    @precondition(lambda self: self.members)
    @rule(
        pick=picks,
        hows=st.lists(
            st.sampled_from(["fail", "fail later", "later", "reject", "reject"]),
            min_size=1,
            max_size=3,
        ),
        limit=st.integers(1, 3),
    )
    def park(self, pick: int, hows: list[str], limit: int) -> None:
        """A lane goes back as a whole, perhaps several times: its first message fails, waits or
        dies, the others wait behind it."""
        for index, how in enumerate(hows):
            self.receive(pick, 100)
            member = self.member(pick)
            if member.hand:
                self.give(member, self.lane(member, how))
            if index + 1 < len(hows):
                self.clock.jump({"fail later": 5, "later": 40}.get(how, 0))
                self.redriven(pick, member.ledger.name, self.dead(member.ledger.name))
        self.receive(pick, limit)

    def lane(self, member: Member, how: str) -> dict[int, Settlement]:
        """This answer to the first message in hand; back with what is in hand of its lane. In
        other lanes the first fails, and what stands behind it goes back too."""
        held = member.holds()
        lane, seen = held[0].post.lane, set[tuple[str, int]]()
        chosen: dict[int, Settlement] = {}
        for entry in held:
            action, options = ANSWERS[how if entry.post.lane == lane else "fail"] or ("ack", {})
            if entry.post.lane in seen:
                action, options = "nack", {"delay": options.get("delay", NOW)}
            seen.add(entry.post.lane)
            chosen[entry.post.n] = Settlement(member.hand[entry.post.n], action, **options)
        return chosen

    # ------------------------------------------------ too late

    @precondition(lambda self: self.old)
    @rule(which=st.integers(0, 9), kinds=answers)
    def settle_in_vain(self, which: int, kinds: list[str]) -> None:
        """Answer once more what was answered, or lost: it changes nothing."""
        self.in_vain(*self.old[-1 - which % len(self.old)], kinds[0])
        self.too_late(kinds[-1])

    def too_late(self, kind: str) -> None:
        """Answer earlier hand-outs of what their member has in hand once more."""
        for member, delivery in self.old[-20:]:
            if member.hand.get(n(delivery), delivery) is not delivery:
                self.in_vain(member, delivery, kind)

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

    # ------------------------------------------------ deaths

    @precondition(lambda self: self.members)
    @rule(
        pick=picks,
        limits=st.lists(st.sampled_from([1, 2, 5, 5]), min_size=1, max_size=3),
        kinds=answers,
        then=answers,
    )
    def desert(self, pick: int, limits: list[int], kinds: list[str], then: list[str]) -> None:
        """A member answers a part of what it has and is never heard of again; perhaps the next
        one neither. Then somebody goes on."""
        for limit in limits:
            self.receive(pick, limit)
            self.begin(pick)
            self.answer(self.member(pick), kinds)
            self.clock.jump(31)
            self.replace(pick)
        self.receive(pick, 5)
        self.answer(self.member(pick), then)

    def replace(self, pick: int) -> None:
        """Another member in the place of one that is silent."""
        index = pick % len(self.members)
        self.fall_silent(index)
        self.members.insert(index, self.members.pop())
