"""`postroad publish`: from a shell or a file onto a road."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from postroad.cli.options import Json, split_road
from postroad.cli.shell import COMMAND, BadUsage, command_app

if TYPE_CHECKING:
    from collections.abc import Sequence

    from postroad.core.delivery import Receipt
    from postroad.core.topic import PublishOptions

app = command_app()

_BATCH = 500


@app.command(**COMMAND)
def publish(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ROAD] TOPIC [PAYLOAD]",
            help="The road, the topic's name and the payload as JSON; - reads it from standard "
            "input.",
            show_default=False,
        ),
    ] = None,
    lines: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Publish each line of a file instead; - is stdin."),
    ] = None,
    key: Annotated[
        str | None, typer.Option(metavar="KEY", help="The ordering scope; else the topic's.")
    ] = None,
    message_id: Annotated[
        str | None,
        typer.Option("--id", metavar="ID", help="The message's identity; else a new UUIDv7."),
    ] = None,
    header: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A header. Repeatable.")
    ] = None,
    priority: Annotated[
        int, typer.Option(min=0, max=9, metavar="0…9", help="Higher goes first.")
    ] = 0,
    delay: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Deliver not before so long from now.")
    ] = None,
    expires_in: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Not to be handled later than that.")
    ] = None,
    correlation_id: Annotated[
        str | None, typer.Option(metavar="ID", help="The conversation's id.")
    ] = None,
    create: Annotated[
        bool, typer.Option("--create", help="With a URL: make the topic if it is not there.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Publish a message, or one for each line of a file.

    With an app the payload has to fit the topic's type; with a URL any JSON goes, and consumers
    decide whether they can read it.
    """
    from postroad.cli.values import duration, headers

    road, rest = split_road(words, most=2)
    if not rest or (len(rest) < 2) == (lines is None):
        raise BadUsage("needs a TOPIC and either a PAYLOAD or --lines FILE")
    options: dict[str, Any] = {
        "key": key,
        "headers": headers(header or []),
        "priority": priority,
        "delay": None if delay is None else duration(delay),
        "expires_in": None if expires_in is None else duration(expires_in),
        "correlation_id": correlation_id,
    }
    if lines is None:
        _publish_one(
            road, rest[0], _payload(rest[1]), options | {"id": message_id}, create, as_json
        )
    elif message_id is not None:
        raise BadUsage("--id is for one message; it does not go with --lines")
    else:
        _publish_lines(road, rest[0], _lines(lines), options, create, as_json)


def _payload(text: str) -> bytes:
    return sys.stdin.buffer.read() if text == "-" else text.encode()


def _lines(name: str) -> Iterator[bytes]:
    if name == "-":
        yield from (line for line in sys.stdin.buffer if line.strip())
        return
    if not Path(name).is_file():
        raise BadUsage(f"there is no file {name!r}")
    with Path(name).open("rb") as file:
        yield from (line for line in file if line.strip())


def _publish_one(
    reference: str, name: str, data: bytes, options: dict[str, Any], create: bool, as_json: bool
) -> None:
    from postroad.cli.output import console, plain, print_json
    from postroad.core.message import new_id
    from postroad.operations.publishing import outlet

    options["id"] = options["id"] or new_id()

    async def act() -> Sequence[Receipt]:
        async with outlet(reference, name, create=create) as out:
            return await out.send([data], cast("PublishOptions", options))

    position = asyncio.run(act())[0].position
    place = None if position is None else str(position)
    if as_json:
        print_json({"topic": name, "id": options["id"], "position": place})
    else:
        at = f"at {place}" if place else "scheduled" if options["delay"] else "accepted"
        console().print(plain(f"published on {name}, {at}, id {options['id']}"), markup=False)


def _publish_lines(
    reference: str,
    name: str,
    lines: Iterator[bytes],
    options: dict[str, Any],
    create: bool,
    as_json: bool,
) -> None:
    from postroad.cli.output import console, plain, print_json

    number = asyncio.run(_send_lines(reference, name, lines, options, create))
    if as_json:
        print_json({"topic": name, "published": number})
    else:
        console().print(plain(f"published {number:,} messages on {name}"), markup=False)


async def _send_lines(
    reference: str, name: str, lines: Iterator[bytes], options: dict[str, Any], create: bool
) -> int:
    """In batches; an error says how many lines were published before it."""
    from postroad.errors import PostroadError
    from postroad.operations.publishing import outlet

    done = 0
    async with outlet(reference, name, create=create) as out:
        while batch := list(islice(lines, _BATCH)):
            try:
                await out.send(batch, cast("PublishOptions", options), done + 1)
            except PostroadError as error:
                error.add_note(f"the {done:,} lines before this batch are published")
                raise
            done += len(batch)
    return done
