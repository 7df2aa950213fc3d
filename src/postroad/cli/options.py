"""Arguments and options that several commands share, and the ROAD in front of the others."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Annotated

import typer

from postroad.cli.shell import BadUsage

VARIABLE = "POSTROAD_ROAD"
"""Names the road where a command line does not."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")]
Group = Annotated[
    str | None, typer.Option("--group", "-g", metavar="NAME", help="Only this group.")
]
Watch = Annotated[bool, typer.Option("--watch", "-w", help="Refresh until interrupted.")]


def split_road(words: Sequence[str] | None, *, most: int) -> tuple[str, list[str]]:
    """The road and the arguments behind it.

    The road is the first word if that has a colon, which no topic's name has; else it is the
    environment's. `most` is how many arguments may follow.
    """
    found = list(words or ())
    if found and ":" in found[0]:
        road = found.pop(0)
    else:
        road = os.environ.get(VARIABLE, "")
    if not road:
        seen = f"; {found[0]!r} is none, it has no colon" if found else ""
        raise BadUsage(
            f"no ROAD is given{seen}: name an app (shop:road) or a URL (sqlite:///shop.db) "
            f"first, or set the environment variable {VARIABLE}"
        )
    if len(found) > most:
        raise BadUsage(f"too many arguments after ROAD: {' '.join(found[most:])}")
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
