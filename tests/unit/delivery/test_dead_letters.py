"""The desk for dead letters goes through all of them once, page by page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import pytest

from postroad.core.message import Message
from postroad.core.reports import DeadLetter
from postroad.core.transport import DeadLetters
from postroad.delivery.dead_letters import DeadLetterDesk
from postroad.errors import NotSupportedError


class Graveyard:
    """A road with dead letters; a redriven one of `undead` dies again under its old id."""

    def __init__(self, count: int, undead: int = 0) -> None:
        self.ids = [f"{n:05}" for n in range(count)]
        self.undead = set(self.ids[:undead])
        self.calls: list[str] = []

    async def dead_letters(self, topic: str, group: str | None, limit: int) -> Sequence[DeadLetter]:
        assert (topic, group) == ("orders.*", "g")
        message = Message(id="1", type="t", source="s", data=b"", time_us=0)
        return [
            DeadLetter(
                id=id_,
                message=message,
                topic="orders.x",
                group="g",
                position=None,
                failures=(),
                died_us=0,
            )
            for id_ in self.ids[:limit]
        ]

    async def redrive(self, ids: Sequence[str]) -> int:
        self.calls += ids
        self.ids = [id_ for id_ in self.ids if id_ not in ids or id_ in self.undead]
        return len(ids)

    async def discard(self, ids: Sequence[str]) -> int:
        return await self.redrive(ids)


def desk(*roads: object) -> DeadLetterDesk:
    async def keepers() -> Sequence[DeadLetters]:
        return [cast(DeadLetters, road) for road in roads]

    return DeadLetterDesk(keepers)


@pytest.mark.parametrize("action", ["redrive", "discard"])
@pytest.mark.parametrize("undead", [0, 3, 700])
async def test_all_that_fit_are_taken_once_in_order(action: str, undead: int) -> None:
    road = Graveyard(1800, undead)
    count = await getattr(desk(road), action)(pattern="orders.*", group="g")
    assert count == 1800
    assert road.calls == [f"{n:05}" for n in range(1800)]


async def test_named_ones_are_passed_on() -> None:
    road = Graveyard(5)
    assert await desk(road).redrive(["00003", "00001"]) == 2
    assert road.calls == ["00003", "00001"]
    assert [letter.id for letter in await desk(road).list("orders.*", "g", 2)] == ["00000", "00002"]
    assert await desk(road).discard([]) == 0


async def test_two_places_are_told_apart() -> None:
    road, store = Graveyard(3), Graveyard(3)
    both = desk(road, store)
    letters = await both.list("orders.*", "g", 5)
    assert [letter.id for letter in letters] == ["00000", "00001", "00002", "1:00000", "1:00001"]
    assert await both.redrive(["1:00001", "00002"]) == 2
    assert (road.calls, store.calls) == (["00002"], ["00001"])
    assert await both.discard(pattern="orders.*", group="g") == 4


async def test_a_road_without_dead_letters_says_so() -> None:
    with pytest.raises(NotSupportedError):
        await desk().list()
