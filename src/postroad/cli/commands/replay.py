"""`postroad replay`: read history again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from postroad.cli.options import Json, split_road
from postroad.cli.shell import COMMAND, BadUsage, command_app

if TYPE_CHECKING:
    from postroad.app import Postroad
    from postroad.core.delivery import Start

app = command_app()


@app.command(**COMMAND)
def replay(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ROAD] TOPIC", help="The road, and the topic's name.", show_default=False
        ),
    ] = None,
    group: Annotated[
        str, typer.Option("--group", "-g", metavar="NAME", help="The group to move.")
    ] = "",
    start: Annotated[
        str,
        typer.Option(
            "--from", metavar="START", help="earliest, latest, an ISO instant, partition:offset."
        ),
    ] = "",
    as_json: Json = False,
) -> None:
    """Move a group at rest to another place in a topic's history.

    Its next consumer reads on from there. What the group had in hand or waiting is forgotten, and
    its audit starts anew. Refused while the group has consumers: stop its workers first.
    """
    from postroad.cli.output import print_json
    from postroad.cli.roads import on_road
    from postroad.cli.values import start as read_start

    reference, rest = split_road(words, most=1)
    if not rest or not group or not start:
        raise BadUsage("needs a TOPIC, --group and --from")
    to = read_start(start)
    done = on_road(reference, lambda road: _move(road, rest[0], group, to, start))
    if as_json:
        print_json(done)
    else:
        _print(done)


async def _move(road: Postroad, topic: str, group: str, to: Start, said: str) -> dict[str, Any]:
    from postroad.errors import NotFoundError
    from postroad.operations.loading import no_such_topic

    infos = {info.name: info for info in await road.topic_infos("#")}
    if topic not in infos:
        raise no_such_topic(topic, infos)
    if group not in infos[topic].groups:
        known = ", ".join(infos[topic].groups) or "none"
        raise NotFoundError(f"no group {group!r} on {topic!r}; its groups: {known}")
    before = await _waiting(road, topic, group)
    await road.seek(topic, group, to)
    after = await _waiting(road, topic, group)
    return {"topic": topic, "group": group, "from": said, "before": before, "after": after}


async def _waiting(road: Postroad, topic: str, group: str) -> int | None:
    lags = await road.lag(topic, group)
    return lags[0].messages if lags else None


def _print(done: dict[str, Any]) -> None:
    from postroad.cli.output import console, count, plain

    text = (
        f"group {done['group']} on {done['topic']} reads on from {done['from']}: "
        f"{count(done['after'])} messages are ahead of it (it was {count(done['before'])})"
    )
    console().print(plain(text), markup=False)
