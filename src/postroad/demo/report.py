"""What the demo says at its end: the contracts, the audit, the results and the verdict."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from postroad import Audit, Contract, DeadLetter
from postroad.delivery.audit import Entry
from postroad.demo.display import tell, tell_recovery
from postroad.demo.fault import Kill
from postroad.demo.observer import Snapshot
from postroad.demo.promises import promises
from postroad.demo.verdict import Check


@dataclass(frozen=True)
class Result:
    """All that is known at the end.

    Attributes:
        seconds: from the first departure to the last settlement.
        replay_seconds: from the first departure to the last one.
        snapshot: the last one.
        unfinished: why the run was given up; None if all groups were drained.
    """

    seconds: float
    replay_seconds: float
    departures: int
    workers: int
    snapshot: Snapshot
    contracts: Sequence[Contract]
    audit: Audit
    dead_letters: Sequence[DeadLetter]
    checks: Sequence[Check]
    kills: Sequence[Kill]
    unfinished: str | None = None

    @property
    def holds(self) -> bool:
        """Whether the audit holds, nothing is pending and every result is the right one."""
        return (
            self.unfinished is None
            and self.audit.verdict == "balanced"
            and all(check.holds for check in self.checks)
        )


def print_report(result: Result, console: Console) -> None:
    """Print it for people."""
    console.print(promises(result.contracts, _table("explain: who is promised what")))
    console.print(_dead_letters(result.dead_letters))
    console.print(_audit(result.audit))
    console.print(_checks(result.checks))
    for kill in result.kills:
        console.print(Text(f"{tell(kill)}; {tell_recovery(kill)}."))
    console.print(_verdict(result))


def as_json(result: Result) -> str:
    """The same for programs. Durations are in seconds."""
    return json.dumps(
        {
            "verdict": "holds" if result.holds else "broken",
            "unfinished": result.unfinished,
            "seconds": round(result.seconds, 3),
            "replay_seconds": round(result.replay_seconds, 3),
            "departures": result.departures,
            "workers": result.workers,
            "settled_per_second": round(result.snapshot.settled / result.seconds),
            "duplicates": result.snapshot.duplicates,
            "retries": result.snapshot.retries,
            "kills": [_kill_json(kill) for kill in result.kills],
            "audit": [_entry_json(entry) for entry in result.audit.entries],
            "checks": [_check_json(check) for check in result.checks],
        },
        indent=2,
    )


def _kill_json(kill: Kill) -> dict[str, Any]:
    took = kill.recovered_after
    return {
        "pid": kill.pid,
        "in_flight": kill.in_flight,
        "held": dict(kill.held),
        "recovered_after": None if took is None else round(took.total_seconds(), 3),
    }


def _entry_json(entry: Entry) -> dict[str, Any]:
    account = entry.account
    return {
        "topic": entry.topic,
        "group": entry.group,
        "verdict": entry.verdict,
        "accepted": None if account is None else account.accepted,
        "outcomes": None if account is None else dict(account.outcomes),
        "pending": entry.pending,
        "duplicates": None if account is None else account.duplicates,
    }


def _check_json(check: Check) -> dict[str, Any]:
    return {
        "what": check.what,
        "expected": check.expected,
        "found": check.found,
        "holds": check.holds,
    }


def _dead_letters(letters: Sequence[DeadLetter]) -> Table:
    table = _table("dead letters: kept whole, with every attempt, for a person or a redrive")
    table.add_column("number", justify="right")
    table.add_column("group")
    table.add_column("attempts", justify="right")
    table.add_column("reason")
    table.add_column("detail")
    alike = Counter(map(_kind, letters))
    for (group, attempts, reason, detail), count in sorted(alike.items(), key=lambda x: -x[1]):
        table.add_row(f"{count:,}", group, str(attempts), reason, detail)
    return table


def _kind(letter: DeadLetter) -> tuple[str, int, str, str]:
    """What makes dead letters alike."""
    last = letter.failures[-1]
    name = (last.exception or "").removeprefix("builtins.")
    detail = f"{name}: {last.detail}" if name else last.detail
    return letter.group, len(letter.failures), last.reason, detail


def _audit(audit: Audit) -> Table:
    table = _table("audit: every accepted message is in exactly one state")
    table.add_column("topic", no_wrap=True)
    table.add_column("group", no_wrap=True)
    for column in ("accepted", "handled", "dead", "pending", "duplicates"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("verdict")
    for entry in audit.entries:
        table.add_row(entry.topic, entry.group, *_counts(entry), _mark(entry))
    return table


def _counts(entry: Entry) -> Sequence[str]:
    account = entry.account
    if account is None:
        return ["unknown"] * 5
    outcomes = account.outcomes
    figures = (
        account.accepted,
        outcomes.get("handled", 0),
        outcomes.get("dead", 0),
        entry.pending,
        account.duplicates,
    )
    return [f"{figure:,}" for figure in figures]


def _mark(entry: Entry) -> Text:
    if entry.verdict == "balanced":
        return Text(entry.verdict, style="green")
    return Text(f"{entry.verdict}: {entry.reason}", style="bold red")


def _checks(checks: Sequence[Check]) -> Table:
    table = _table("results: computed from the flights alone, and found in the tables")
    table.add_column("figure")
    table.add_column("expected", justify="right")
    table.add_column("found", justify="right")
    table.add_column("")
    for check in checks:
        mark = Text("✓", style="green") if check.holds else Text("✗", style="bold red")
        table.add_row(check.what, f"{check.expected:,}", f"{check.found:,}", mark)
    return table


def _verdict(result: Result) -> Text:
    if not result.holds:
        broken = sum(not check.holds for check in result.checks)
        why = result.unfinished or f"audit {result.audit.verdict}, {broken} figures differ"
        return Text(f"BROKEN: {why}.", style="bold red")
    settled = result.snapshot.settled
    return Text(
        f"HOLDS: {result.departures:,} departures, {settled:,} messages settled in "
        f"{result.seconds:.1f} s ({settled / result.seconds:,.0f}/s) by {result.workers} workers; "
        f"nothing lost, nothing done twice, {result.snapshot.duplicates:,} duplicates counted.",
        style="bold green",
    )


def _table(title: str) -> Table:
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
