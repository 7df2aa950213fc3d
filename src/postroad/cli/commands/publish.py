"""`postroad publish`: from a shell or a file onto a road."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from postroad.cli.options import Json, command_app, split_road

if TYPE_CHECKING:
    from postroad.app import Postroad
    from postroad.core.delivery import Receipt
    from postroad.core.topic import Topic

app = command_app("publish")

_BATCH = 500


@app.command()
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
    key: Annotated[str | None, typer.Option(help="The ordering scope; else the topic's.")] = None,
    message_id: Annotated[
        str | None, typer.Option("--id", help="The message's identity; else a new UUIDv7.")
    ] = None,
    header: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A header. Repeatable.")
    ] = None,
    priority: Annotated[int, typer.Option(min=0, max=9, help="Higher goes first.")] = 0,
    delay: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Deliver not before so long from now.")
    ] = None,
    expires_in: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Not to be handled later than that.")
    ] = None,
    correlation_id: Annotated[str | None, typer.Option(help="The conversation's id.")] = None,
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
        raise typer.BadParameter("needs a TOPIC and either a PAYLOAD or --lines FILE")
    options: dict[str, Any] = {
        "key": key,
        "headers": headers(header or []),
        "priority": priority,
        "delay": None if delay is None else duration(delay),
        "expires_in": None if expires_in is None else duration(expires_in),
        "correlation_id": correlation_id,
    }
    payloads = _payload(rest[1]) if lines is None else _lines(lines)
    if lines is None:
        _publish_one(road, rest[0], next(payloads), options | {"id": message_id}, create, as_json)
    elif message_id is not None:
        raise typer.BadParameter("--id is for one message; it does not go with --lines")
    else:
        _publish_lines(road, rest[0], payloads, options, create, as_json)


def _payload(text: str) -> Iterator[bytes]:
    yield sys.stdin.buffer.read() if text == "-" else text.encode()


def _lines(name: str) -> Iterator[bytes]:
    if name == "-":
        yield from (line for line in sys.stdin.buffer if line.strip())
        return
    if not Path(name).is_file():
        raise typer.BadParameter(f"there is no file {name!r}")
    with Path(name).open("rb") as file:
        yield from (line for line in file if line.strip())


def _publish_one(
    reference: str, name: str, data: bytes, options: dict[str, Any], create: bool, as_json: bool
) -> None:
    from postroad.cli.output import console, plain, print_json
    from postroad.cli.roads import on_road
    from postroad.core.message import new_id
    from postroad.operations.loading import topic_named

    options["id"] = options["id"] or new_id()

    async def act(road: Postroad) -> Receipt:
        topic = await topic_named(road, name, create=create)
        return await road.publish(topic, topic.decode(data), **options)

    receipt = on_road(reference, act)
    place = None if receipt.position is None else str(receipt.position)
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
    from itertools import islice

    from postroad.cli.output import console, plain, print_json
    from postroad.cli.roads import on_road
    from postroad.operations.loading import topic_named

    async def act(road: Postroad) -> int:
        topic = await topic_named(road, name, create=create)
        number = 0
        while batch := list(islice(lines, _BATCH)):
            payloads = [_decoded(topic, line, number + at) for at, line in enumerate(batch, 1)]
            number += len(await road.publish_many(topic, payloads, **options))
        return number

    number = on_road(reference, act)
    if as_json:
        print_json({"topic": name, "published": number})
    else:
        console().print(plain(f"published {number:,} messages on {name}"), markup=False)


def _decoded(topic: Topic[Any], line: bytes, number: int) -> Any:
    """Raises as `Topic.decode` does, naming the line: what came before its batch is published."""
    from postroad.errors import PayloadError

    try:
        return topic.decode(line)
    except PayloadError as error:
        done = (number - 1) // _BATCH * _BATCH
        raise type(error)(f"line {number}: {error}; the {done} lines up to its batch are published") from None
