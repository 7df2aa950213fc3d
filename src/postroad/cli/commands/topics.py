"""`postroad topics`: what is on a road."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from postroad.cli.options import Json, RoadAndPattern, road_and_pattern
from postroad.cli.shell import COMMAND, command_app

if TYPE_CHECKING:
    from collections.abc import Sequence

    from postroad.app import Postroad
    from postroad.core.reports import TopicInfo

app = command_app()


@app.command(**COMMAND)
def topics(words: RoadAndPattern = None, as_json: Json = False) -> None:
    """List the topics on a road.

    With their partitions, messages kept and groups; of an app also what it declares of them.
    """
    from postroad.cli.output import print_json
    from postroad.cli.roads import on_road
    from postroad.operations.loading import fitting_topics

    reference, pattern = road_and_pattern(words)

    async def look(road: Postroad) -> list[dict[str, Any]]:
        return _shapes(road, await fitting_topics(road, pattern))

    found = on_road(reference, look)
    if as_json:
        print_json(found)
    else:
        _print(found)


def _shapes(road: Postroad, infos: Sequence[TopicInfo]) -> list[dict[str, Any]]:
    shapes = []
    for info in infos:
        declared = road.topics.get(info.name)
        shapes.append(
            {
                "topic": info.name,
                "partitions": info.partitions,
                "messages": info.messages,
                "groups": list(info.groups),
                "type": None if declared is None else _name(declared.type),
                "owner": None if declared is None else declared.owner,
            }
        )
    return shapes


def _name(payload_type: Any) -> str:
    return getattr(payload_type, "__qualname__", None) or str(payload_type)


def _print(shapes: list[dict[str, Any]]) -> None:
    from postroad.cli.output import console, count, table

    if not shapes:
        console().print("no topic fits")
        return
    typed = any(shape["type"] for shape in shapes)
    columns = ["topic", *(["type"] if typed else []), "partitions", "messages", "groups"]
    rows = [
        [
            shape["topic"],
            *([shape["type"] or "not declared here"] if typed else []),
            str(shape["partitions"]),
            count(shape["messages"]),
            ", ".join(shape["groups"]) or "none",
        ]
        for shape in shapes
    ]
    console().print(table(columns, rows, right=("partitions", "messages")))
