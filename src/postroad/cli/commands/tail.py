"""`postroad tail`: one line a message."""

from __future__ import annotations

from heapq import merge
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from postroad.cli.options import Json, RoadAndPattern, road_and_pattern
from postroad.cli.shell import COMMAND, command_app

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from postroad.app import Postroad
    from postroad.core.delivery import Delivery, Start

app = command_app()

_KEPT = 1000
"""How many --no-follow prints where no --limit says otherwise."""


@app.command(**COMMAND)
def tail(
    words: RoadAndPattern = None,
    start: Annotated[
        str,
        typer.Option(
            "--from", metavar="START", help="earliest, latest, an ISO instant, partition:offset."
        ),
    ] = "latest",
    follow: Annotated[
        bool,
        typer.Option("--follow/--no-follow", help="Wait for more, or print what is kept and stop."),
    ] = True,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit", "-n", min=1, metavar="N", help="Stop after so many; 1000 with --no-follow."
        ),
    ] = None,
    payload: Annotated[bool, typer.Option("--payload", help="Show payloads too.")] = False,
    as_json: Json = False,
) -> None:
    """Print messages as they arrive, without a group and without effect.

    A line has the time, topic, partition:offset, key, type and size. Payloads are shown only on
    request, since they may hold what nobody else should see. --json prints one object a line.
    """
    from postroad.cli.roads import on_road
    from postroad.cli.values import start as read_start

    reference, pattern = road_and_pattern(words)
    begin = read_start(start)
    show = _json_printer(payload) if as_json else _line_printer(payload)

    async def act(road: Postroad) -> None:
        if follow:
            await _follow(road, pattern, begin, limit, show)
        else:
            for delivery in await _kept(road, pattern, begin, limit or _KEPT):
                show(delivery)

    on_road(reference, act)


async def _follow(
    road: Postroad, pattern: str, start: Start, limit: int | None, show: Callable[[Delivery], None]
) -> None:
    from postroad.operations.loading import fitting_topics

    await fitting_topics(road, pattern)  # a name that is none would be waited for in vain
    shown = 0
    async for delivery in road.stream_messages(pattern, start=start):
        show(delivery)
        shown += 1
        if shown == limit:
            return


async def _kept(road: Postroad, pattern: str, start: Start, limit: int) -> Sequence[Delivery]:
    """The oldest ones of all topics that fit, merged by their time."""
    from postroad.operations.loading import fitting_topics

    infos = await fitting_topics(road, pattern)
    pages = [await road.browse(info.name, start, limit) for info in infos]
    merged = merge(*pages, key=lambda delivery: delivery.message.time_us)
    return list(islice(merged, limit))


def _json_printer(payload: bool) -> Callable[[Delivery], None]:
    from postroad.cli.output import print_line
    from postroad.cli.shapes import delivery_shape

    return lambda delivery: print_line(delivery_shape(delivery, payload=payload))


def _line_printer(payload: bool) -> Callable[[Delivery], None]:
    from rich.text import Text

    from postroad.cli.output import console, plain, size

    out = console()

    def show(delivery: Delivery) -> None:
        message = delivery.message
        line = Text(f"{message.time:%H:%M:%S}.{message.time.microsecond // 1000:03}", style="dim")
        line.append(f"  {delivery.topic}", style="cyan")
        line.append(f"  {delivery.position or '-'}  ")
        line.append(f"key={plain(message.key)}  " if message.key is not None else "no key  ")
        line.append(f"{plain(message.type)}  {size(len(message.data))}")
        if payload:
            line.append(f"  {plain(message.data.decode(errors='backslashreplace'))}")
        out.print(line, soft_wrap=True)

    return show
