"""`postroad audit`: nothing is lost silently."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from postroad.cli.exits import ExitCode
from postroad.cli.options import Group, Json, RoadAndPattern, road_and_pattern
from postroad.cli.shell import COMMAND, command_app

if TYPE_CHECKING:
    from collections.abc import Sequence

    from postroad.delivery.audit import Audit, Entry

app = command_app()

_COLOURS = {"balanced": "green", "unbalanced": "red", "unknown": "yellow"}
_ALWAYS = ("accepted", "pending", "handled", "dead")


@app.command(**COMMAND)
def audit(words: RoadAndPattern = None, group: Group = None, as_json: Json = False) -> None:
    """Prove that every accepted message is in exactly one state.

    For each topic and group: accepted = pending + handled + dead + discarded + expired + shed +
    filtered + trimmed. Duplicates are counted beside it. Ends with 3 unless the verdict is
    balanced.
    """
    from postroad.cli.output import print_json
    from postroad.cli.roads import on_road
    from postroad.cli.shapes import audit_shape

    reference, pattern = road_and_pattern(words)
    found = on_road(reference, lambda road: road.audit(pattern, group))
    if as_json:
        print_json(audit_shape(found))
    else:
        print_audit(found)
    if found.verdict != "balanced":
        raise typer.Exit(ExitCode.CHECK)


def print_audit(found: Audit) -> None:
    """The table of the states, and the verdict."""
    from postroad.cli.output import console, plain

    out = console()
    if found.entries:
        _print_entries(found.entries)
    else:
        out.print("no group has read a topic that fits; there is nothing to balance")
    for entry in found.entries:
        if entry.reason:
            text = plain(f"{entry.topic} → {entry.group}: {entry.reason}")
            out.print(text, markup=False)
    out.print(f"verdict: [bold {_COLOURS[found.verdict]}]{found.verdict}[/]")


def _print_entries(entries: Sequence[Entry]) -> None:
    """Columns that are 0 everywhere are named below the table instead of taking its room."""
    from postroad.cli.output import console, count, table

    states = [_states(entry) for entry in entries]
    names = list(states[0])
    empty = [
        name for name in names if name not in _ALWAYS and all(row[name] == 0 for row in states)
    ]
    shown = [name for name in names if name not in empty]
    rows = [
        [entry.topic, entry.group, *(count(row[name]) for name in shown), entry.verdict]
        for entry, row in zip(entries, states, strict=True)
    ]
    console().print(table(("topic", "group", *shown, "verdict"), rows, right=shown))
    if empty:
        console().print(f"0 everywhere: {', '.join(empty)}")


def _states(entry: Entry) -> dict[str, int | None]:
    from postroad.delivery.audit import ENDS

    account = entry.account
    if account is None:
        return dict.fromkeys(("accepted", "pending", *ENDS, "trimmed", "duplicates"))
    return {
        "accepted": account.accepted,
        "pending": entry.pending,
        **{end: account.outcomes.get(end, 0) for end in ENDS},
        "trimmed": account.trimmed,
        "duplicates": account.duplicates,
    }
