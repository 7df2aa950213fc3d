"""What the notes of killed processes, and the road they left, say about each promise."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeAlias

from postroad import Audit
from tests.integration.apps.crashing import GROUPS, ORDERED, Note, Step

Seconds: TypeAlias = Sequence[float]


@dataclass(frozen=True)
class Killed:
    """A process that was killed, and when on the machine's monotonic clock."""

    role: str
    slot: int
    number: int
    at: int


@dataclass(frozen=True)
class Evidence:
    """Everything that is left when all is over.

    Attributes:
        drained: seconds from the last kill to the end of all that was pending.
        slots: process number → the role and slot in which it, and others after it, served.
        kept: what the log holds of the topic, in its order.
        effects: the rows that effectively-once handlers wrote, in their order.
        receipted: what these handlers published with them.
    """

    seed: int
    seconds: float
    drained: float
    killed: Sequence[Killed]
    slots: dict[int, tuple[str, int]]
    notes: Sequence[Note]
    kept: Sequence[Step]
    effects: Sequence[Step]
    receipted: Sequence[Step]
    audit: Audit
    dead: int
    sound: bool


@dataclass(frozen=True)
class Figures:
    """The proofs in numbers.

    Attributes:
        unacknowledged: kept though their writer was killed before it could know.
        lost: acknowledged (or kept) messages that a group never finished, over all groups.
        repeats: handlers' calls that repeat one of the same attempt, a group; what the road
            counts as duplicates must be at least that many.
        disorder: first calls of a key that came after a later one's.
        amid_handlers, amid_publishes: what was running in the processes that were killed; of
            handlers by group.
        recovery: seconds from a kill to the first message that the killed one's replacement
            (or, if it was killed too, the next one) handled or published.
        takeover: seconds from a kill to the end of what was running in it, elsewhere.
    """

    evidence: Evidence
    acknowledged: int
    unacknowledged: int
    lost: int
    repeats: dict[str, int]
    duplicates: dict[str, int]
    disorder: int
    amid_handlers: dict[str, int]
    amid_publishes: int
    recovery: Seconds
    takeover: Seconds

    def broken(self) -> list[str]:
        """The promises that were not kept, each with its figure."""
        seen, steps = self.evidence, Counter(self.evidence.kept)
        claims = {
            f"{self.lost} lost": self.lost == 0,
            f"{self.disorder} out of order": self.disorder == 0,
            "a published message is in the log twice": set(steps.values()) <= {1},
            "an effect is missing, or there twice": Counter(seen.effects) == steps,
            "effects and what was published with them differ": Counter(seen.receipted) == steps,
            f"repeats {self.repeats}, counted {self.duplicates}": all(
                self.repeats[group] <= self.duplicates[group] for group in GROUPS
            ),
            f"{seen.dead} dead": seen.dead == 0,
            f"audit: {seen.audit}": _is_balanced(seen.audit, len(steps)),
            "integrity_check failed": seen.sound,
        }
        return [claim for claim, holds in claims.items() if not holds]

    def __str__(self) -> str:
        seen = self.evidence
        roles = Counter(one.role for one in seen.killed)
        return (
            f"seed {seen.seed}: {len(seen.killed)} crashes in {seen.seconds:.0f} s "
            f"({roles['consumer']} of consumers amid handlers {self.amid_handlers}, "
            f"{roles['writer']} of writers amid {self.amid_publishes} publishes); "
            f"{len(seen.kept)} messages, {self.acknowledged} acknowledged and "
            f"{self.unacknowledged} not, {self.lost} lost; "
            f"repeated calls {self.repeats}, counted as duplicates {self.duplicates}; "
            f"{self.disorder} out of order, {len(seen.effects)} effects; audit "
            f"{seen.audit.verdict}; recovery {_spread(self.recovery)}; "
            f"what was in flight was done elsewhere after {_spread(self.takeover)}; "
            f"all was done {seen.drained:.2f} s after the last kill"
        )


def figures(seen: Evidence) -> Figures:
    """Count."""
    by_kind: dict[str, list[Note]] = defaultdict(list)
    for note in seen.notes:
        by_kind[note.kind].append(note)
    accepted = {note.step for note in by_kind["accepted"]}
    wanted = accepted | set(seen.kept)
    done = {(note.group, note.step) for note in by_kind["end"]}
    lost = accepted - set(seen.kept)
    unfinished = [(group, step) for group in GROUPS for step in wanted if (group, step) not in done]
    running = _running(by_kind)
    dead = {one.number for one in seen.killed}
    tried = Counter(note.number for note in by_kind["try"] if note.number in dead)
    tried.subtract(note.number for note in by_kind["accepted"] if note.number in dead)
    return Figures(
        evidence=seen,
        acknowledged=len(accepted),
        unacknowledged=len(set(seen.kept) - accepted),
        lost=len(lost) + len(unfinished),
        repeats=_repeats(by_kind["begin"]),
        duplicates={
            entry.group: entry.account.duplicates for entry in seen.audit.entries if entry.account
        },
        disorder=_disorder(by_kind["begin"], seen.effects),
        amid_handlers=dict(Counter(note.group for note in running if note.number in dead)),
        amid_publishes=tried.total(),
        recovery=_recovery(seen),
        takeover=_takeover(seen, running, by_kind["end"]),
    )


def _running(by_kind: dict[str, list[Note]]) -> list[Note]:
    """The calls that neither ended nor failed."""
    over = Counter(
        (note.number, note.group, note.step) for kind in ("end", "fail") for note in by_kind[kind]
    )
    left: list[Note] = []
    for note in reversed(by_kind["begin"]):
        call = note.number, note.group, note.step
        if over[call]:
            over[call] -= 1
        else:
            left.append(note)
    return left


def _repeats(begun: Iterable[Note]) -> dict[str, int]:
    calls = Counter((note.group, note.step, note.attempts) for note in begun)
    repeats = dict.fromkeys(GROUPS, 0)
    for (group, _, _), number in calls.items():
        repeats[group] += number - 1
    return repeats


def _disorder(begun: Iterable[Note], effects: Iterable[Step]) -> int:
    """First calls, and effects, that are behind a later one of their key."""
    firsts = {(note.group, note.step): None for note in begun if note.group in ORDERED}
    chains = [(group, step) for group, step in firsts if step is not None]
    chains += [("effects", step) for step in effects]
    last: dict[tuple[str, str], int] = {}
    disorder = 0
    for group, step in chains:
        disorder += step.seq < last.get((group, step.key), -1)
        last[group, step.key] = max(step.seq, last.get((group, step.key), -1))
    return disorder


def _recovery(seen: Evidence) -> Seconds:
    useful: dict[tuple[str, int], list[int]] = defaultdict(list)
    for note in seen.notes:
        if note.kind in ("end", "accepted"):
            useful[seen.slots[note.number]].append(note.at)
    found = []
    for one in seen.killed:
        later = [at for at in useful[one.role, one.slot] if at > one.at]
        if later:
            found.append((min(later) - one.at) / 1e9)
    return found


def _takeover(seen: Evidence, running: Iterable[Note], ended: Iterable[Note]) -> Seconds:
    ends: dict[tuple[str, Step | None], list[int]] = defaultdict(list)
    for note in ended:
        ends[note.group, note.step].append(note.at)
    killed_at = {one.number: one.at for one in seen.killed}
    found = []
    for note in running:
        died = killed_at.get(note.number)
        later = [at for at in ends[note.group, note.step] if died is not None and at > died]
        if later and died is not None:
            found.append((min(later) - died) / 1e9)
    return found


def _is_balanced(audit: Audit, messages: int) -> bool:
    """Everything that was kept is handled by each group, and nothing is pending."""
    return (
        audit.verdict == "balanced"
        and {entry.group for entry in audit.entries} == set(GROUPS)
        and all(
            entry.pending == 0 and entry.account.outcomes == {"handled": messages}
            for entry in audit.entries
            if entry.account is not None
        )
    )


def _spread(seconds: Seconds) -> str:
    if not seconds:
        return "not measured"
    return f"median {median(seconds):.2f} s, at most {max(seconds):.2f} s"
