"""Arguments and options that several commands share, and the ROAD in front of the others."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Annotated

import typer

from postroad.cli.exits import EPILOG

VARIABLE = "POSTROAD_ROAD"
"""Names the road where a command line does not."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")]
Group = Annotated[str | None, typer.Option("--group", "-g", help="Only this group.")]
Watch = Annotated[bool, typer.Option("--watch", "-w", help="Refresh until interrupted.")]


def command_app(name: str, *, group: bool = False) -> typer.Typer:
    """The Typer of one command, or of a group of them, with what all have in common."""
    return typer.Typer(
        name=name,
        rich_markup_mode=None,
        add_completion=False,
        no_args_is_help=group,
        epilog=EPILOG,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def split_road(words: Sequence[str] | None, *, most: int, what: str = "") -> tuple[str, list[str]]:
    """The road and the arguments behind it.

    The road is the first word if that has a colon, which no topic's name has; else it is the
    environment's. `most` is how many arguments may follow, `what` names them for the error.
    """
    found = list(words or ())
    if found and ":" in found[0]:
        road = found.pop(0)
    else:
        road = os.environ.get(VARIABLE, "")
    if not road:
        raise typer.BadParameter(
            "no ROAD is given: name an app (shop:road) or a URL (sqlite:///shop.db) first, or set "
            f"the environment variable {VARIABLE}"
        )
    if len(found) > most:
        raise typer.BadParameter(f"too many arguments after ROAD: {' '.join(found[most:])!r}{what}")
    return road, found


def road_and_pattern(words: Sequence[str] | None) -> tuple[str, str]:
    """Of `[ROAD] [PATTERN]`; the pattern is every topic by default."""
    from postroad.core.pattern import check_pattern

    road, rest = split_road(words, most=1)
    pattern = rest[0] if rest else "#"
    check_pattern(pattern)
    return road, pattern


RoadAndPattern = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[ROAD] [PATTERN]",
        help="The road, and which topics: a name or a pattern (orders.*, orders.#).",
        show_default=False,
    ),
]
