"""`postroad lag`: how far groups are behind."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from postroad.cli.options import (
    Group,
    Json,
    RoadAndPattern,
    Watch,
    road_and_pattern,
)
from postroad.cli.shell import COMMAND, command_app

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

    from rich.console import RenderableType

    from postroad.app import Postroad
    from postroad.core.reports import Lag

app = command_app()


@app.command(**COMMAND)
def lag(
    words: RoadAndPattern = None,
    group: Group = None,
    by_partition: Annotated[
        bool, typer.Option("--partitions", help="One line for each partition.")
    ] = False,
    watch: Watch = False,
    every: Annotated[str, typer.Option(help="How often --watch looks.", metavar="DURATION")] = "2s",
    as_json: Json = False,
) -> None:
    """Show how far groups are behind, in messages and in seconds.

    The seconds are the age of the oldest unsettled message. What a road cannot tell is printed
    as unknown, and is null in JSON. --watch --json prints one JSON array a line.
    """
    from postroad.cli.roads import on_road
    from postroad.cli.values import duration

    reference, pattern = road_and_pattern(words)
    pause = duration(every)

    async def look(road: Postroad) -> None:
        await _check_names(road, pattern, group)
        if watch and as_json:
            await _stream(road, pattern, group, pause)
        elif watch:
            await _live(road, pattern, group, pause, by_partition)
        else:
            _print_once(await road.lag(pattern, group), as_json, by_partition)

    on_road(reference, look)


async def _check_names(road: Postroad, pattern: str, group: str | None) -> None:
    """An empty answer to a mistyped name would look like good news."""
    from postroad.errors import NotFoundError
    from postroad.operations.loading import fitting_topics

    groups = {name for info in await fitting_topics(road, pattern) for name in info.groups}
    if group is not None and group not in groups:
        known = ", ".join(sorted(groups)) or "none"
        raise NotFoundError(f"no group {group!r} on {pattern!r}; there is {known}")


def _print_once(lags: Sequence[Lag], as_json: bool, by_partition: bool) -> None:
    from postroad.cli.output import console, print_json
    from postroad.cli.shapes import lag_shape

    if as_json:
        print_json([lag_shape(lag) for lag in lags])
    else:
        console().print(_table(lags, by_partition))


async def _stream(road: Postroad, pattern: str, group: str | None, pause: timedelta) -> None:
    from postroad.cli.output import print_line
    from postroad.cli.shapes import lag_shape

    while True:
        print_line([lag_shape(lag) for lag in await road.lag(pattern, group)])
        await asyncio.sleep(pause.total_seconds())


async def _live(
    road: Postroad, pattern: str, group: str | None, pause: timedelta, by_partition: bool
) -> None:
    from rich.live import Live

    from postroad.cli.output import console

    with Live(console=console(), auto_refresh=False) as live:
        while True:
            live.update(_table(await road.lag(pattern, group), by_partition), refresh=True)
            await asyncio.sleep(pause.total_seconds())


def _table(lags: Sequence[Lag], by_partition: bool) -> RenderableType:
    from postroad.cli.output import age, count, table

    if not lags:
        return "no group has read a topic that fits"
    numbers = ("messages", "behind", "partition")
    if not by_partition:
        rows = [[lag.topic, lag.group, count(lag.messages), age(lag.age)] for lag in lags]
        return table(("topic", "group", "messages", "behind"), rows, right=numbers)
    rows = [
        [lag.topic, lag.group, str(part.partition), count(part.messages), age(part.age)]
        for lag in lags
        for part in lag.partitions
    ]
    return table(("topic", "group", "partition", "messages", "behind"), rows, right=numbers)
