"""What must be true of a log with groups, in the simplest form: one entry per group and message.

The model is told what was done and what the road answered; it says what may be, and fails where
it may not. It knows the time, keeps no order but the log's, and has no notion of ranges or rows.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from hypothesis import settings

from postroad.core.delivery import Delivery
from postroad.core.reports import Account

State: TypeAlias = Literal["unread", "held", "waiting", "handled", "dead", "discarded"]
"""unread: never handed out since the group's start. waiting: to go out again."""
FINAL: tuple[State, ...] = ("handled", "dead", "discarded")
LEASE_US = 30_000_000


def lives(usual: int, steps: int) -> settings:
    """How many lives to try, of how many steps: the usual number takes some twenty seconds;
    POSTROAD_TEST_EXAMPLES asks for more."""
    number = int(os.environ.get("POSTROAD_TEST_EXAMPLES") or usual)
    return settings(max_examples=number, stateful_step_count=steps)


@dataclass(eq=False)
class Post:
    """A message as it was published. `place` is its rank in the log, once it has one."""

    n: int
    key: str
    partition: int
    priority: int
    due_us: int
    expires_us: int | None
    id: str = ""
    place: int | None = None
    appended_us: int = 0

    @property
    def lane(self) -> tuple[str, int]:
        """Order holds within one key and one priority."""
        return self.key, self.priority

    def expired(self, now: int) -> bool:
        """Whether it may no longer be handed out."""
        return self.expires_us is not None and self.expires_us <= now


@dataclass(eq=False)
class Session:
    """One membership: it ends by leaving, or by silence, and then somebody has to notice."""

    until_us: int

    def alive(self, now: int) -> bool:
        """Whether its answers count."""
        return self.until_us > now


@dataclass(eq=False)
class Entry:
    """What a group owes to one message.

    Attributes:
        again: its next delivery counts as a duplicate.
        crashes: how many sessions died with it since its handler last answered.
        alone: how many of them when it was out by itself, as one that was suspected before.
        begun: a crash from now on is on its account.
        single: it was handed out by itself.
        trimmable: retention may have taken it before it was read.
        doubtful: since a seek, nobody can say whether it still counts: it had expired.
    """

    post: Post
    state: State = "unread"
    session: Session | None = None
    due_us: int = 0
    attempts: int = 0
    crashes: int = 0
    alone: int = 0
    begun: bool = False
    single: bool = False
    fence: int = 0
    holder: Session | None = None
    again: bool = False
    trimmable: bool = False
    doubtful: bool = False

    def free(self) -> bool:
        """Whether it still has to be handed out, for all that is known."""
        return self.state in ("unread", "waiting")

    def gone(self, now: int) -> bool:
        """Whether it may be handed out no more, though it is open."""
        return self.trimmable or self.doubtful or self.post.expired(now)

    def innocent(self) -> None:
        """Its handler answered: whatever crash it was suspected of was another's."""
        self.crashes = self.alone = 0


@dataclass
class LogModel:
    """What was published, in the order of the log, and what is scheduled."""

    posts: dict[int, Post] = field(default_factory=dict)
    scheduled: list[Post] = field(default_factory=list)
    places: int = 0

    def publish(self, posts: Iterable[Post], now: int) -> None:
        """Take posts in. The due ones of before come first."""
        self.promote(now)
        for post in posts:
            self.posts[post.n] = post
            if post.due_us > now:
                self.scheduled.append(post)
            else:
                self._append(post, now)

    def promote(self, now: int) -> None:
        """Give what has become due its place, earliest first."""
        for post in sorted(self.scheduled, key=lambda post: post.due_us):
            if post.due_us <= now:
                self.scheduled.remove(post)
                self._append(post, now)

    def _append(self, post: Post, now: int) -> None:
        post.place, self.places, post.appended_us = self.places, self.places + 1, now


@dataclass
class Ledger:
    """The entries of one group and the sessions that it has. `parks`: in order, and what comes
    later in a lane waits behind what died."""

    name: str
    ordered: bool
    parks: bool = False
    entries: dict[int, Entry] = field(default_factory=dict)
    sessions: list[Session] = field(default_factory=list)
    repeats: int = 0

    # ------------------------------------------------ membership

    def join(self, now: int) -> Session:
        """A new member; who is silent for too long is noticed on this occasion."""
        self.sweep(now)
        session = Session(now + LEASE_US)
        self.sessions.append(session)
        return session

    def sweep(self, now: int) -> None:
        """End the sessions whose lease is over; what they held goes out again."""
        for session in [one for one in self.sessions if not one.alive(now)]:
            self.end(session, now, crashed=True)

    def end(self, session: Session, now: int, *, crashed: bool) -> None:
        """End a session. Idempotent."""
        if session in self.sessions:
            self.sessions.remove(session)
            for entry in self.held(session):
                if crashed and entry.begun:
                    entry.alone += entry.single and entry.crashes > 0
                    entry.crashes += 1
                self.let_go(entry, now, lost=crashed)

    def let_go(self, entry: Entry, now: int, *, lost: bool) -> None:
        """It is nobody's any more; `lost`: it may have been worked on."""
        entry.state, entry.session, entry.due_us = "waiting", None, now
        entry.again |= lost

    def held(self, session: Session) -> list[Entry]:
        """What a session holds, in the order of the log."""
        found = [entry for entry in self.entries.values() if entry.session is session]
        return sorted(found, key=lambda entry: entry.post.place or 0)

    # ------------------------------------------------ deliveries

    def hand(self, n: int, delivery: Delivery, session: Session, now: int) -> None:
        """A delivery was handed to a session: check that it may be, and note it."""
        assert n in self.entries, f"{n} is not owed to {self.name}"
        entry = self.entries[n]
        assert entry.state not in FINAL, f"{n} was {entry.state}, and came again"
        assert entry.state != "held", f"{n} is held by two"
        assert entry.post.place is not None, f"{n} is scheduled, and came"
        assert entry.due_us <= now, f"{n} came {(entry.due_us - now) / 1e6} s before its time"
        assert not entry.post.expired(now), f"{n} had expired"
        assert delivery.attempts == entry.attempts, f"{n}: {delivery.attempts=} {entry.attempts=}"
        past = (delivery.starts, delivery.alone)
        assert past == (entry.crashes, entry.alone), f"{n}: {past} crashes, {entry}"
        assert delivery.partition == entry.post.partition
        fence = delivery.fence or 0
        renewed = entry.holder is not None and entry.holder is not session
        assert fence > entry.fence if renewed else fence >= entry.fence, f"{n}: fence {fence}"
        if self.ordered:
            overtaken = sorted(one.post.n for one in self.before(entry, session, now))
            assert not overtaken, f"{n} overtakes {overtaken}"
        self.repeats += entry.again or entry.attempts > 0
        entry.state, entry.session, entry.holder, entry.fence = "held", session, session, fence
        entry.again = entry.trimmable = entry.doubtful = False
        entry.begun, entry.single = not entry.crashes, is_alone(delivery)

    def earlier(self, entry: Entry) -> Iterator[Entry]:
        """What stands before it in its lane and is not done with: open, or dead and in its way."""
        place = entry.post.place or 0
        for other in self.entries.values():
            if (
                other.post.place is not None
                and other.post.place < place
                and other.post.lane == entry.post.lane
                and (other.state not in FINAL or (self.parks and other.state == "dead"))
            ):
                yield other

    def before(self, entry: Entry, session: Session, now: int) -> Iterator[Entry]:
        """What should have come first: not done with, earlier in the lane, and not with the
        session."""
        for other in self.earlier(entry):
            gone = other.free() and (other.trimmable or other.post.expired(now))
            if other.session is not session and not gone:
                yield other

    def parked(self, entry: Entry) -> bool:
        """Whether it waits behind a dead letter."""
        return any(other.state == "dead" for other in self.earlier(entry))

    def died(self, entry: Entry, now: int) -> None:
        """It is a dead letter now. What waits behind it waits for nothing else any more."""
        entry.state = "dead"
        for other in self.entries.values() if self.parks else ():
            if other.state == "waiting" and entry in self.earlier(other):
                other.due_us = now

    def redriven(self, entry: Entry, now: int) -> None:
        """A dead letter goes out again as if nothing had been."""
        entry.state, entry.due_us, entry.attempts, entry.again = "waiting", now, 0, False
        entry.innocent()

    def open_keys(self, now: int) -> set[str]:
        """The keys of what is not settled, or dead and in the way."""
        return {
            entry.post.key
            for entry in self.entries.values()
            if entry.post.place is not None
            and (entry.state == "dead" if entry.state in FINAL else not entry.gone(now))
        }

    def deliverable(self, now: int, readable: Collection[int] | None = None) -> list[int]:
        """What a receive that comes back empty has overlooked; in order, with the partitions
        that may be read."""
        return [
            n
            for n, entry in self.entries.items()
            if entry.free()
            and entry.post.place is not None
            and entry.due_us <= now
            and not entry.gone(now)
            and (readable is None or entry.post.partition in readable)
            and not (self.ordered and any(self.earlier(entry)))
        ]

    # ------------------------------------------------ the road's own doings

    def trim(self, oldest_us: int) -> None:
        """Retention has gone over the log: older ones that nobody has read may be gone."""
        for entry in self.entries.values():
            post = entry.post
            if entry.state == "unread" and post.place is not None and post.appended_us < oldest_us:
                entry.trimmable = True

    def seek(self, log: LogModel, kept: set[int], since_us: float, now: int) -> None:
        """Start anew with what the log keeps from an instant on. What waits for a retry and has
        left the log stays; the dead ones have to be out of the way."""
        before, self.entries, self.repeats = self.entries, {}, 0
        for n, entry in before.items():
            if entry.state in ("held", "waiting") and n not in kept:
                entry.doubtful = entry.state == "waiting" and entry.post.expired(now)
                self.entries[n] = entry
        for n, post in log.posts.items():
            if post in log.scheduled or (n in kept and post.appended_us >= since_us):
                last = before.get(n)
                self.entries[n] = Entry(post, fence=0 if last is None else last.fence)

    # ------------------------------------------------ the account

    def check(self, account: Account, scheduled: int, now: int) -> None:
        """The road's books agree with these."""
        states = Counter(entry.state for entry in self.entries.values() if not entry.doubtful)
        doubtful = sum(entry.doubtful for entry in self.entries.values())
        outcomes = dict(account.outcomes)
        expired = outcomes.pop("expired", 0)
        assert {k: v for k, v in outcomes.items() if v} == {
            k: states[k] for k in FINAL if states[k]
        }
        assert account.leased == states["held"]
        assert account.scheduled == scheduled
        assert 0 <= account.accepted - states.total() <= doubtful, f"{account.accepted} accepted"
        free = [entry for entry in self.entries.values() if entry.free()]
        assert expired <= sum(entry.post.expired(now) for entry in free)
        assert account.trimmed <= sum(entry.trimmable for entry in free)
        pending = account.backlog + account.leased + account.waiting + account.scheduled
        ended = sum(outcomes.values()) + expired + account.trimmed
        assert account.accepted == pending + ended, f"{account} is out of balance"
        assert account.duplicates == self.repeats, f"{account.duplicates} duplicates"

    def stuck(self, now: int) -> list[int]:
        """What is open though everybody took all there was: neither parked, nor gone."""
        return [
            n
            for n, entry in self.entries.items()
            if entry.state not in FINAL
            and not entry.trimmable
            and not entry.post.expired(now)
            and not self.parked(entry)
        ]

    def check_drained(self, account: Account, now: int) -> None:
        """Nothing is left, and nothing is lost but what had to be."""
        stuck = self.stuck(now)
        assert not stuck, f"{stuck} never came to {self.name}"
        assert not account.backlog + account.leased + account.waiting + account.scheduled


def is_alone(delivery: Delivery) -> bool:
    """Whether it was handed out in a row of its own."""
    return int(getattr(delivery.token, "size", 1)) == 1
