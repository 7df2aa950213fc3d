"""What `postroad run` says: a line for each event, never a payload."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from postroad.cli.output import age, error_console, json_line, plain

if TYPE_CHECKING:
    from postroad.app import Bound, Postroad
    from postroad.operations.workers import WorkerEvent


class Announcer:
    """Prints to standard error for people, since standard output is the handlers'; as JSON to
    what is standard output now, one object a line."""

    def __init__(self, as_json: bool, reloads: bool = False) -> None:
        self._as_json = as_json
        self._reloads = reloads
        self._out = sys.stdout
        self._console = None if as_json else error_console()
        self._asked_at = time.monotonic()

    @property
    def handlers_output(self) -> int | None:
        """The file descriptor for what handlers print, where that is not standard output."""
        return sys.stderr.fileno() if self._as_json else None

    def starting(self, road: Postroad, workers: int) -> None:
        """What is about to run."""
        shapes = [_shape(bound) for bound in road.subscriptions]
        self._say("starting", "", road=road.url, workers=workers, subscriptions=shapes)
        if self._console is None:
            return
        from rich.text import Text

        title = Text("postroad", style="bold")
        number = len(shapes)
        title.append(
            f"  {plain(road.url)} · {number} subscription{'' if number == 1 else 's'} · "
            f"{workers} worker{'' if workers == 1 else 's'} · Ctrl-C drains",
            style="not bold",
        )
        self._console.print(title)
        self._console.print(_grid(shapes))

    def draining(self, limit: timedelta) -> None:
        """Asked to stop."""
        self._asked_at = time.monotonic()
        self._say("draining", f"draining, up to {age(limit)} …", limit=limit.total_seconds())

    def stopped(self) -> None:
        """All done."""
        took = timedelta(seconds=time.monotonic() - self._asked_at)
        self._say("stopped", f"… done after {age(took)}", after=took.total_seconds())

    def ending_at_once(self) -> None:
        """Asked twice."""
        self._say("ending", "ending at once; what was in hand comes again after its lease")

    def reloading(self, names: Sequence[str]) -> None:
        """Code changed."""
        self._say("reloading", f"{', '.join(names[:3])} changed: reloading", files=list(names))

    def worker(self, event: WorkerEvent) -> None:
        """Something happened to a worker."""
        wait = event.restart_in
        self._say(
            f"worker-{event.kind}",
            _sentence(event, self._reloads),
            worker=event.worker,
            pid=event.pid,
            code=event.code,
            restart_in=None if wait is None else wait.total_seconds(),
        )

    def _say(self, event: str, text: str, **more: Any) -> None:
        if self._as_json:
            self._out.write(json_line({"event": event, **more}) + "\n")
            self._out.flush()
        elif text and self._console is not None:
            self._console.print(plain(text), markup=False)


def _sentence(event: WorkerEvent, reloads: bool) -> str:
    who = f"worker {event.worker} (pid {event.pid})"
    code = event.code or 0
    if event.kind == "started":
        return f"{who} started"
    if event.kind == "stopped":
        return f"{who} stopped" + (f" with exit code {code}" if code > 0 else "")
    if event.kind == "killed":
        return f"{who} was killed; what it held comes again after its lease"
    how = f"was ended by signal {-code}" if code < 0 else f"ended by itself with exit code {code}"
    if event.restart_in is None and reloads:
        return f"{who} {how}; another one when the code changes"
    if event.restart_in is None:
        return f"{who} {how}, as every other one would: giving up"
    return f"{who} {how}; another one in {age(event.restart_in)}"


def _shape(bound: Bound) -> dict[str, Any]:
    subscription = bound.subscription
    return {
        "source": subscription.source_name,
        "group": subscription.group,
        "handler": bound.handler.name,
        "delivery": subscription.delivery,
        "order": subscription.order,
        "concurrency": subscription.concurrency,
    }


def _grid(shapes: Sequence[dict[str, Any]]) -> Any:
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    for shape in shapes:
        grid.add_row(
            Text(f"  {shape['source']} → {shape['group'] or 'every consumer'}"),
            Text(plain(shape["handler"]), style="cyan"),
            Text(shape["delivery"], style="dim"),
            Text(f"order {shape['order']}", style="dim"),
            Text(f"{shape['concurrency']} at once", style="dim"),
        )
    return grid
