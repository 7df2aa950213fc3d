"""`postroad run`: an app's handlers, in this process or in several."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import nullcontext, redirect_stdout
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from postroad.cli.exits import ExitCode
from postroad.cli.options import Json, split_road
from postroad.cli.shell import COMMAND, command_app

if TYPE_CHECKING:
    from postroad.app import Postroad
    from postroad.cli.announcing import Announcer
    from postroad.operations.workers import Supervisor

app = command_app()


@app.command(**COMMAND)
def run(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[APP]", help="An app, as module:attribute.", show_default=False),
    ] = None,
    workers: Annotated[
        int, typer.Option("--workers", "-w", min=1, metavar="N", help="How many processes.")
    ] = 1,
    reload: Annotated[
        bool, typer.Option("--reload", help="Restart workers when code here changes.")
    ] = False,
    drain: Annotated[
        str,
        typer.Option(metavar="DURATION", help="How long handlers may finish after a stop."),
    ] = "30s",
    as_json: Json = False,
    worker: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run an app's handlers, in one or more worker processes.

    Ctrl-C and SIGTERM drain: nothing more is received, and what is in flight is finished or
    handed back. A second Ctrl-C ends at once; what was in hand comes again after its lease.
    With several workers, one that ends by itself is started again, later each time. --json
    prints one object for each event, a line each; what handlers print goes to standard error
    then.
    """
    from postroad.cli.announcing import Announcer
    from postroad.cli.values import duration
    from postroad.operations.loading import load_app

    reference = split_road(words, most=0)[0]
    limit = duration(drain)
    road = load_app(reference)
    if worker is not None:
        asyncio.run(_work(road, limit))
        return
    announcer = Announcer(as_json, reload)
    supervised = workers > 1 or reload
    if supervised:
        _check_shared(road, workers)
    road.check()
    announcer.starting(road, workers)
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        if supervised:
            supervisor = _supervisor(reference, workers, reload, limit, announcer)
            code = asyncio.run(_supervise(supervisor, limit, reload, announcer))
        else:
            code = asyncio.run(_serve(road, limit, announcer))
    if code:
        raise typer.Exit(code)


def _check_shared(road: Postroad, workers: int) -> None:
    from postroad.errors import DeclarationError

    if workers > 1 and not road.capabilities.shared:
        raise DeclarationError(
            f"{road.url} lives inside one process: {workers} workers would not see each other. "
            "Run one worker, or use a road that processes share, such as sqlite:///file.db"
        )


async def _work(road: Postroad, drain: timedelta) -> None:
    """What a supervisor starts: silent, and it ends with its supervisor."""
    from postroad.operations.signals import stop_on_signals, stop_with_parent

    stop = stop_on_signals(lambda: None, lambda: os._exit(ExitCode.INTERRUPTED))
    stop_with_parent(stop)
    await road.run(stop=stop, drain=drain)


async def _serve(road: Postroad, drain: timedelta, announcer: Announcer) -> int:
    from postroad.operations.signals import stop_on_signals

    def at_once() -> None:
        announcer.ending_at_once()
        os._exit(ExitCode.INTERRUPTED)

    stop = stop_on_signals(lambda: announcer.draining(drain), at_once)
    await road.run(stop=stop, drain=drain)
    announcer.stopped()
    return ExitCode.OK


def _supervisor(
    reference: str, workers: int, reload: bool, drain: timedelta, announcer: Announcer
) -> Supervisor:
    from postroad.operations.workers import Supervisor

    limit = f"{drain // timedelta(milliseconds=1)}ms"
    return Supervisor(
        [sys.executable, "-m", "postroad", "run", reference, "--drain", limit, "--worker"],
        workers,
        drain=drain,
        report=announcer.worker,
        output=announcer.handlers_output,
        hopeless=(ExitCode.USAGE,),
        reloading=reload,
    )


async def _supervise(
    supervisor: Supervisor, drain: timedelta, reload: bool, announcer: Announcer
) -> int:
    from postroad.operations.signals import stop_on_signals

    def at_once() -> None:
        announcer.ending_at_once()
        supervisor.kill()

    stop = stop_on_signals(lambda: announcer.draining(drain), at_once)
    code = await _with_reloads(supervisor, stop, reload, announcer)
    announcer.stopped()
    return code


async def _with_reloads(
    supervisor: Supervisor, stop: asyncio.Event, reload: bool, announcer: Announcer
) -> int:
    if not reload:
        return await supervisor.run(stop)
    running = asyncio.create_task(supervisor.run(stop))
    watching = asyncio.create_task(_reload_on_changes(supervisor, announcer))
    try:
        await asyncio.wait({running, watching}, return_when=asyncio.FIRST_COMPLETED)
        if watching.done():
            running.cancel()
            watching.result()
        return await running
    finally:
        watching.cancel()
        await asyncio.gather(running, watching, return_exceptions=True)


async def _reload_on_changes(supervisor: Supervisor, announcer: Announcer) -> None:
    from postroad.operations.reloading import code_changes

    async for names in code_changes(Path.cwd()):
        announcer.reloading(names)
        supervisor.reload()
