"""`postroad dead-letters`: what a group gave up, and what becomes of it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from postroad.cli.options import (
    Group,
    Json,
    RoadAndPattern,
    road_and_pattern,
    split_road,
)
from postroad.cli.shell import COMMAND, BadUsage, command_app

if TYPE_CHECKING:
    from rich.text import Text

    from postroad.app import Postroad
    from postroad.core.delivery import Failure
    from postroad.core.reports import DeadLetter

app = command_app(group=True)

RoadAndIds = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[ROAD] [ID]...", help="The road, and which dead letters.", show_default=False
    ),
]
Pattern = Annotated[
    str | None, typer.Option("--topic", "-t", metavar="PATTERN", help="All of these topics.")
]
Everything = Annotated[bool, typer.Option("--all", help="All there are.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@app.callback()
def dead_letters() -> None:
    """List, show, redrive and discard messages that a group gave up."""


@app.command("list", **COMMAND)
def list_(
    words: RoadAndPattern = None,
    group: Group = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, metavar="N", help="At most so many.")
    ] = 100,
    as_json: Json = False,
) -> None:
    """List dead letters, oldest first."""
    from postroad.cli.output import print_json
    from postroad.cli.roads import on_road
    from postroad.cli.shapes import dead_letter_shape
    from postroad.operations.loading import fitting_topics

    reference, pattern = road_and_pattern(words)

    async def look(road: Postroad) -> Sequence[DeadLetter]:
        await fitting_topics(road, pattern)
        return await road.dead_letters.list(pattern, group, limit)

    found = on_road(reference, look)
    if as_json:
        print_json([dead_letter_shape(dead) for dead in found])
    else:
        _print_list(found, limit)


@app.command("show", **COMMAND)
def show(
    words: RoadAndIds = None,
    payload: Annotated[bool, typer.Option("--payload", help="Show the payload too.")] = False,
    as_json: Json = False,
) -> None:
    """Show dead letters with all their attempts.

    Every attempt has its time, exception and traceback. The payload is shown on request only.
    """
    from postroad.cli.output import print_json
    from postroad.cli.roads import on_road
    from postroad.cli.shapes import dead_letter_shape

    reference, ids = split_road(words, most=1000)
    if not ids:
        raise BadUsage("which ones? `postroad dead-letters list` prints their IDs")
    found = on_road(reference, lambda road: _find(road, ids))
    if as_json:
        print_json([dead_letter_shape(dead, payload=payload) for dead in found])
    else:
        for dead in found:
            _print_whole(dead, payload)


@app.command("redrive", **COMMAND)
def redrive(
    words: RoadAndIds = None,
    pattern: Pattern = None,
    group: Group = None,
    everything: Everything = False,
    as_json: Json = False,
) -> None:
    """Send dead letters to their group again.

    They go to the group that gave them up and to no other, in their order, with attempts reset.
    """
    from postroad.cli.roads import on_road

    reference, ids = _chosen(words, pattern, group, everything)

    async def act(road: Postroad) -> int:
        await _check_chosen(road, ids, pattern)
        return await road.dead_letters.redrive(ids or None, pattern=pattern or "#", group=group)

    _say("redriven", on_road(reference, act), as_json)


@app.command("discard", **COMMAND)
def discard(
    words: RoadAndIds = None,
    pattern: Pattern = None,
    group: Group = None,
    everything: Everything = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Drop dead letters for good. They are counted as discarded."""
    from postroad.cli.roads import on_road

    reference, ids = _chosen(words, pattern, group, everything)
    if not yes:
        _confirm(len(ids))

    async def act(road: Postroad) -> int:
        await _check_chosen(road, ids, pattern)
        return await road.dead_letters.discard(ids or None, pattern=pattern or "#", group=group)

    _say("discarded", on_road(reference, act), as_json)


def _chosen(
    words: Sequence[str] | None, pattern: str | None, group: str | None, everything: bool
) -> tuple[str, list[str]]:
    from postroad.core.pattern import check_pattern

    reference, ids = split_road(words, most=1000)
    by_place = pattern is not None or group is not None or everything
    if bool(ids) == by_place:
        raise BadUsage("name IDs, or else choose by --topic, --group or --all")
    if pattern is not None:
        check_pattern(pattern)
    return reference, ids


async def _check_chosen(road: Postroad, ids: Sequence[str], pattern: str | None) -> None:
    """Raises NotFoundError if an ID or a topic's name is none."""
    from postroad.operations.loading import fitting_topics

    if ids:
        await _find(road, ids)
    if pattern is not None:
        await fitting_topics(road, pattern)


def _confirm(number: int) -> None:
    if not sys.stdin.isatty():
        raise BadUsage("discarding cannot be undone: say --yes, since nobody can be asked")
    which = f"{number} dead letter(s)" if number else "all dead letters that fit"
    typer.confirm(f"Discard {which} for good?", abort=True, err=True)


def _say(what: str, number: int, as_json: bool) -> None:
    from postroad.cli.output import console, print_json

    if as_json:
        print_json({what: number})
    else:
        console().print(f"{what} {number:,} dead letter{'' if number == 1 else 's'}")


async def _find(road: Postroad, ids: Sequence[str]) -> list[DeadLetter]:
    """Raises NotFoundError unless all of them are there."""
    from postroad.errors import NotFoundError

    kept = {dead.id: dead for dead in await road.dead_letters.list("#", None, sys.maxsize)}
    missing = [id_ for id_ in ids if id_ not in kept]
    if missing:
        raise NotFoundError(
            f"no dead letter {', '.join(missing)} (redriven or discarded already?); "
            "`postroad dead-letters list` prints those there are"
        )
    return [kept[id_] for id_ in ids]


def _print_list(found: Sequence[DeadLetter], limit: int) -> None:
    from postroad.cli.output import console, table
    from postroad.core.clock import from_us

    if not found:
        console().print("no dead letters")
        return
    rows = [
        [
            dead.id,
            dead.topic,
            dead.group,
            dead.position or "-",
            dead.message.key or "-",
            str(len(dead.failures)),
            f"{from_us(dead.died_us):%Y-%m-%d %H:%M:%S}",
            _reason(dead),
        ]
        for dead in found
    ]
    columns = ("id", "topic", "group", "place", "key", "attempts", "died (UTC)", "reason")
    console().print(table(columns, rows, right=("attempts",)))
    if len(found) == limit:
        console().print(f"these are the first {limit:,}; --limit shows more")


def _reason(dead: DeadLetter) -> str:
    return dead.failures[-1].reason if dead.failures else "unknown"


def _print_whole(dead: DeadLetter, payload: bool) -> None:
    from rich.padding import Padding
    from rich.text import Text

    from postroad.cli.output import console, instant, plain
    from postroad.core.clock import from_us

    out = console()
    message = dead.message
    out.print(Text(f"dead letter {dead.id}", style="bold"))
    facts = {
        "topic": dead.topic,
        "group": dead.group,
        "position": dead.position or "-",
        "message": f"{message.id}, {len(message.data)} bytes of {message.content_type}",
        "published": f"{instant(message.time)} by {message.source}",
        "key": message.key if message.key is not None else "none",
        "died": instant(from_us(dead.died_us)),
        "attempts": str(len(dead.failures)),
    }
    if payload:
        facts["payload"] = message.data.decode(errors="backslashreplace")
    for name, value in facts.items():
        out.print(Text(f"  {name:<10}{plain(value)}"))
    for number, failure in enumerate(dead.failures, 1):
        out.print(Padding(_attempt(number, failure), (1, 0, 0, 2)))
    out.print()


def _attempt(number: int, failure: Failure) -> Text:
    from rich.text import Text

    from postroad.cli.output import instant, plain

    text = Text()
    text.append(f"attempt {number}  {instant(failure.at)}  ", style="bold")
    text.append(plain(f"{failure.reason}: {failure.detail}"), style="red")
    if failure.traceback:
        text.append("\n" + plain(failure.traceback.rstrip(), lines=True), style="dim")
    return text
