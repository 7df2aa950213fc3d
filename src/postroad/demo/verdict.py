"""Does the audit hold, and are the results the right ones?"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from postroad import Audit, DeadLetter
from postroad.demo.books import CarrierDelays, Line
from postroad.demo.expected import Expected
from postroad.demo.fault import Kill
from postroad.demo.topics import GROUPS


@dataclass(frozen=True)
class Found:
    """What is there when everything has ended."""

    audit: Audit
    dead_letters: Sequence[DeadLetter]
    claims: Sequence[tuple[str, int]]
    carriers: Mapping[str, CarrierDelays]
    board: Sequence[Line]
    kills: Sequence[Kill] | None
    """None if nobody was to be killed."""


@dataclass(frozen=True)
class Check:
    """One figure that has to be exact."""

    what: str
    expected: int
    found: int

    @property
    def holds(self) -> bool:
        """Whether it is."""
        return self.expected == self.found


def checks(expected: Expected, found: Found) -> Sequence[Check]:
    """Every figure, as it should be and as it is."""
    return [
        *_conservation(expected, found.audit),
        *_dead_letters(expected, found.dead_letters),
        *_claims(expected.claims, found.claims),
        Check(
            "carriers whose sums are exact",
            len(expected.carriers),
            sum(found.carriers.get(name) == sums for name, sums in expected.carriers.items()),
        ),
        Check(
            "board lines that show the newest departure",
            len(expected.board),
            sum(expected.board.get((x.origin, x.destination)) == x.flight_id for x in found.board),
        ),
        *_kills(found.kills),
    ]


def _conservation(expected: Expected, audit: Audit) -> Iterator[Check]:
    entries = audit.entries
    balanced = sum(entry.verdict == "balanced" for entry in entries)
    yield Check("groups whose audit is balanced", len(GROUPS), balanced)
    yield Check("messages still pending", 0, sum(entry.pending for entry in entries))
    dead = {"compensation": expected.dead.total()}
    for entry in entries:
        accepted = expected.announcements if entry.group == "texts" else expected.departures
        handled = entry.account.outcomes.get("handled", 0) if entry.account else 0
        yield Check(f"handled by {entry.group}", accepted - dead.get(entry.group, 0), handled)


def _dead_letters(expected: Expected, letters: Sequence[DeadLetter]) -> Iterator[Check]:
    reasons = Counter(letter.failures[-1].reason for letter in letters)
    for reason in sorted(expected.dead.keys() | reasons.keys()):
        what = DEAD_BECAUSE.get(reason, f"dead letters: {reason}")
        yield Check(what, expected.dead[reason], reasons[reason])


DEAD_BECAUSE = {
    "rejected": "dead letters: rejected at once by the handler",
    "exception": "dead letters: KeyError after every attempt",
}


def _claims(expected: Mapping[str, int], claims: Sequence[tuple[str, int]]) -> Iterator[Check]:
    times = Counter(flight for flight, _ in claims)
    yield Check("claims filed", len(expected), len(claims))
    yield Check("claims filed twice", 0, sum(count > 1 for count in times.values()))
    yield Check("flights without their claim", 0, len(expected.keys() - times.keys()))
    paid = sum(euros for _, euros in claims)
    yield Check("euros claimed, for one seat each", sum(expected.values()), paid)


def _kills(kills: Sequence[Kill] | None) -> Iterator[Check]:
    if kills is not None:
        held = sum(kill.in_flight > 0 for kill in kills)
        yield Check("workers killed with messages in flight", 1, held)
