"""`postroad relay`: an outbox, published."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from postroad.cli.exits import ExitCode
from postroad.cli.options import Json, split_road
from postroad.cli.shell import COMMAND, BadUsage, command_app

if TYPE_CHECKING:
    from postroad.app import Postroad
    from postroad.delivery.outbox import OutboxDepth, OutboxTable, RelayFigures, RelaySettings
    from postroad.delivery.outbox.parking import Parked

app = command_app()


@app.command(**COMMAND)
def relay(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ROAD]", help="Where it is published.", show_default=False),
    ] = None,
    database: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Where the outbox is; the app's database by default."),
    ] = None,
    outbox: Annotated[
        str | None,
        typer.Option(metavar="MODULE:NAME", help="An Outbox or OutboxTable of another table."),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, max=1000, metavar="N", help="Messages a batch.")] = (
        100
    ),
    retention: Annotated[
        str, typer.Option(metavar="DURATION", help="How long published rows stay.")
    ] = "7d",
    park_key: Annotated[
        bool, typer.Option("--park-key", help="Poison makes its aggregate wait.")
    ] = False,
    once: Annotated[bool, typer.Option("--once", help="Publish what waits now, and end.")] = False,
    depth: Annotated[
        bool, typer.Option("--depth", help="Only say how much waits, and since when.")
    ] = False,
    parked: Annotated[bool, typer.Option("--parked", help="Only list what is parked.")] = False,
    unpark: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Only let a parked message go again, or `all`."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Publish what business transactions left in an outbox.

    Any number of relays share the work. Ctrl-C and SIGTERM finish the batch in hand. A message
    that can never be published is parked and named; --unpark lets it go again once its cause is
    cured, together with what waits behind it.
    """
    from postroad.cli.values import duration
    from postroad.delivery.outbox import RelaySettings
    from postroad.operations.loading import load_road
    from postroad.operations.relay import database_of, table_of

    if sum((depth, parked, unpark is not None, once)) > 1:
        raise BadUsage("--once, --depth, --parked and --unpark are four different things")
    road = load_road(split_road(words, most=0)[0])
    table, url = table_of(outbox), database_of(road, database)
    if depth or parked or unpark is not None:
        asyncio.run(_look(url, table, depth, parked, unpark, as_json))
        return
    settings = RelaySettings(
        batch=batch,
        retention=duration(retention),
        on_poison="park-key" if park_key else "continue",
    )
    figures = asyncio.run(_relay(road, url, table, settings, once, as_json))
    _say(as_json, "stopped", _sum(figures), **_figures(figures))


async def _relay(
    road: Postroad,
    url: str,
    table: OutboxTable,
    settings: RelaySettings,
    once: bool,
    as_json: bool,
) -> RelayFigures:
    from postroad.operations.relay import relay as relay_outbox
    from postroad.operations.signals import stop_on_signals

    stop = stop_on_signals(lambda: None, lambda: os._exit(ExitCode.INTERRUPTED))
    _say(as_json, "starting", f"{table.name} → {road.url}", outbox=table.name, road=road.url)
    return await relay_outbox(
        road, url, stop, table=table, settings=settings, hooks=_announcing(as_json), once=once
    )


def _announcing(as_json: bool) -> Any:
    from postroad.delivery.outbox import RelayHooks

    class Announcing(RelayHooks):
        def parked(self, row: Parked) -> None:
            _say(as_json, "parked", _sentence(row), **_parked_shape(row))

        def waiting(self, error: Exception, seconds: float) -> None:
            text = str(error).partition("\n")[0]
            _say(as_json, "waiting", f"trying again in {seconds:.1f} s: {text}", seconds=seconds)

    return Announcing()


async def _look(
    url: str,
    table: OutboxTable,
    depth: bool,
    parked: bool,
    unpark: str | None,
    as_json: bool,
) -> None:
    from postroad.cli.output import print_json
    from postroad.operations import relay as operations

    if depth:
        found = await operations.outbox_depth(url, table)
        if as_json:
            print_json(_depth_shape(found))
        else:
            _print_depth(found)
    elif parked:
        rows = await operations.parked_rows(url, table)
        if as_json:
            print_json([_parked_shape(row) for row in rows])
        else:
            _print_parked(rows)
    else:
        count = await operations.let_go(url, table, None if unpark == "all" else unpark)
        if as_json:
            print_json({"outbox": table.name, "unparked": count})
        else:
            _print(f"{count:,} rows go out again")


def _say(as_json: bool, event: str, text: str, **more: Any) -> None:
    from postroad.cli.output import error_console, plain, print_line

    if as_json:
        print_line({"event": event, **more})
    else:
        error_console().print(plain(text), markup=False)


def _print(text: str) -> None:
    from postroad.cli.output import console, plain

    console().print(plain(text), markup=False)


def _sum(figures: RelayFigures) -> str:
    return (
        f"published {figures.published:,}, of them {figures.duplicates:,} that another relay had "
        f"published before; parked {figures.parked:,}, deleted {figures.deleted:,}"
    )


def _figures(figures: RelayFigures) -> dict[str, int]:
    return {
        "published": figures.published,
        "duplicates": figures.duplicates,
        "parked": figures.parked,
        "deleted": figures.deleted,
    }


def _sentence(row: Parked) -> str:
    return f"parked {row.message_id} of {row.topic}, {row.reason}: {row.detail}"


def _parked_shape(row: Parked) -> dict[str, Any]:
    from postroad.cli.output import instant
    from postroad.core.clock import from_us

    return {
        "id": row.message_id,
        "topic": row.topic,
        "key": row.key or None,
        "poison": row.poison,
        "reason": row.reason,
        "detail": row.detail,
        "parked_at": instant(from_us(row.parked_us)),
    }


def _depth_shape(found: OutboxDepth) -> dict[str, Any]:
    return {
        "outbox": found.outbox,
        "pending": found.pending,
        "age": found.age.total_seconds(),
        "parked": found.parked,
        "poison": found.poison,
    }


def _print_depth(found: OutboxDepth) -> None:
    from postroad.cli.output import age, console, count, table

    row = [found.outbox, count(found.pending), age(found.age), count(found.parked)]
    columns = ("outbox", "messages", "behind", "parked")
    console().print(table(columns, [row], right=columns[1:]))


def _print_parked(rows: list[Parked]) -> None:
    from postroad.cli.output import console, instant, table
    from postroad.core.clock import from_us

    cells = [
        [
            row.message_id,
            row.topic,
            row.key,
            row.reason,
            row.detail,
            instant(from_us(row.parked_us)),
        ]
        for row in rows
    ]
    columns = ("message", "topic", "key", "reason", "detail", "since")
    console().print(table(columns, cells) if cells else "nothing is parked")
