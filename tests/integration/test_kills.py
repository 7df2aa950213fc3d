"""The short form of `tests/faults/test_kills.py`, and whether its proofs can fail."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from postroad import Audit
from postroad.core.reports import Account
from postroad.delivery.audit import judge
from tests.integration.apps.crashing import GROUPS, Kind, Note, Step
from tests.integration.crash_figures import Evidence, Killed, figures
from tests.integration.crashing import survive

KILLS = 12
STEPS = [Step("k", seq) for seq in range(4)]
WRITER, CONSUMER, SUCCESSOR = 1, 2, 3


async def test_a_dozen_kills_lose_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = await survive(tmp_path, KILLS, random.getrandbits(32))
    with capsys.disabled():
        print(f"\n  {found}")
    assert found.broken() == []
    assert len(found.evidence.killed) >= KILLS
    assert found.acknowledged > 0


def test_good_evidence_breaks_nothing() -> None:
    found = figures(evidence())
    assert found.broken() == []
    assert (found.acknowledged, found.amid_handlers) == (4, {"ordered": 1})
    assert found.recovery == found.takeover == [3.0]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"kept": STEPS[1:]}, "1 lost"),
        ({"notes": lambda notes: [n for n in notes if not is_end(n, "loose", 2)]}, "1 lost"),
        ({"kept": [*STEPS, STEPS[0]]}, "in the log twice"),
        ({"effects": STEPS[1:]}, "an effect is missing, or there twice"),
        ({"effects": [*STEPS, STEPS[3]]}, "an effect is missing, or there twice"),
        ({"receipted": STEPS[1:]}, "published with them differ"),
        ({"notes": lambda notes: notes[::-1]}, "out of order"),
        ({"effects": STEPS[::-1]}, "3 out of order"),
        ({"audit": lambda: audit(duplicates=0)}, "counted"),
        ({"audit": lambda: audit(backlog=1)}, "audit"),
        ({"dead": 1}, "1 dead"),
        ({"sound": False}, "integrity_check"),
    ],
)
def test_bad_evidence_is_told(changes: dict[str, Any], told: str) -> None:
    if "notes" in changes:
        changes = {"notes": changes["notes"](evidence().notes)}
    if "audit" in changes:
        changes = {"audit": changes["audit"]()}
    assert any(told in claim for claim in figures(evidence(**changes)).broken())


def is_end(note: Note, group: str, seq: int) -> bool:
    return note.kind == "end" and note.group == group and note.step == STEPS[seq]


def evidence(**changes: Any) -> Evidence:
    """One consumer was killed amid its last call, which another one repeated; all is well."""
    whole: dict[str, Any] = {
        "seed": 1,
        "seconds": 20.0,
        "drained": 2.0,
        "killed": [Killed("consumer", 0, CONSUMER, 14 * 10**9)],
        "slots": {WRITER: ("writer", 0), CONSUMER: ("consumer", 0), SUCCESSOR: ("consumer", 0)},
        "notes": notes(),
        "kept": STEPS,
        "effects": STEPS,
        "receipted": STEPS,
        "audit": audit(),
        "dead": 0,
        "sound": True,
    }
    return Evidence(**{**whole, **changes})


def notes() -> Sequence[Note]:
    found = [note("accepted", 0, step, WRITER) for step in STEPS]
    for group in GROUPS:
        found += [
            note(kind, 1 + step.seq, step, CONSUMER, group)
            for step in STEPS
            for kind in ("begin", "end")
            if (group, kind, step.seq) != ("ordered", "end", 3)
        ]
    found.append(note("begin", 16, STEPS[3], SUCCESSOR, "ordered"))
    found.append(note("end", 17, STEPS[3], SUCCESSOR, "ordered"))
    return found


def note(kind: Kind, second: int, step: Step, number: int, group: str = "") -> Note:
    return Note(kind, second * 10**9, step, group, number=number)


def audit(duplicates: int = 1, backlog: int = 0) -> Audit:
    return Audit(
        tuple(
            judge(
                Account(
                    topic="steps",
                    group=group,
                    accepted=4,
                    backlog=backlog,
                    leased=0,
                    waiting=0,
                    scheduled=0,
                    outcomes={"handled": 4 - backlog},
                    trimmed=0,
                    duplicates=duplicates,
                    since_us=0,
                ),
                exact=True,
            )
            for group in GROUPS
        )
    )
