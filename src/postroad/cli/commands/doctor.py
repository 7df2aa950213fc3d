"""`postroad doctor`: is this machine, and is this road, fit?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from postroad.cli.exits import ExitCode
from postroad.cli.options import Json
from postroad.cli.shell import COMMAND, command_app

if TYPE_CHECKING:
    from collections.abc import Sequence

    from postroad.operations.doctor import Check

app = command_app()

_MARKS = {
    "ok": ("✓", "green"),
    "absent": ("·", "dim"),
    "warning": ("!", "yellow"),
    "fault": ("✗", "bold red"),
}


@app.command(**COMMAND)
def doctor(
    road: Annotated[
        str | None,
        typer.Argument(metavar="[ROAD]", help="Check this road too.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check this environment and a road, and say what to install.

    Looks at Python, SQLite and its write-ahead log, room on the disk and the extras that are
    installed or missing. A road is opened and asked for its topics and its audit. Ends with 3 if
    something is at fault; a warning or a missing extra is none.
    """
    import asyncio

    from postroad.cli.output import print_json
    from postroad.operations.doctor import examine

    checks = asyncio.run(examine(road))
    faults = [check for check in checks if check.status == "fault"]
    if as_json:
        print_json({"healthy": not faults, "checks": [_shape(check) for check in checks]})
    else:
        _print(checks, len(faults))
    if faults:
        raise typer.Exit(ExitCode.CHECK)


def _shape(check: Check) -> dict[str, str]:
    return {
        "subject": check.subject,
        "status": check.status,
        "found": check.found,
        "remedy": check.remedy,
    }


def _print(checks: Sequence[Check], faults: int) -> None:
    from rich.table import Table
    from rich.text import Text

    from postroad.cli.output import console, plain

    grid = Table.grid(padding=(0, 2))
    for check in checks:
        mark, style = _MARKS[check.status]
        text = Text(plain(check.found))
        if check.remedy:
            text.append(
                f"\n→ {plain(check.remedy, lines=True)}", style="" if style == "dim" else style
            )
        grid.add_row(Text(mark, style=style), Text(check.subject), text)
    console().print(grid)
    verdict = "[green]nothing is at fault[/]" if not faults else f"[bold red]{faults} at fault[/]"
    console().print(verdict)
