"""What a store keeps, under the names that it had on its road."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from postroad.core.message import Message
from postroad.core.pattern import matches
from postroad.core.reports import DeadLetter
from postroad.delivery.moving import (
    FORWARDER,
    PREFIX,
    Note,
    delayed_prefix,
    moved_name,
    prefix_of,
    wrapped,
)
from postroad.delivery.stored import StoredLetters, delayed_groups, stored_groups

HERE, THERE = "redis://here", "redis://there"
LONG = "orders." + "x" * 190


class Store:
    """Keeps dead letters of whoever asks, oldest first."""

    def __init__(self) -> None:
        self.letters: list[DeadLetter] = []
        self.names: set[tuple[str, str]] = set()
        self.asked = 0

    def add(self, prefix: str, topic: str, group: str, *, noted: bool = True) -> None:
        message = Message(id="1", type="t", source="s", data=b"", time_us=0)
        self.names.add((moved_name(prefix, topic), group))
        self.letters.append(
            DeadLetter(
                id=str(len(self.letters)),
                message=wrapped(message, Note(topic, group)) if noted else message,
                topic=moved_name(prefix, topic),
                group=group,
                position="0:1",
                failures=(),
                died_us=0,
            )
        )

    async def dead_letters(self, topic: str, group: str | None, limit: int) -> Sequence[DeadLetter]:
        self.asked += 1
        fitting = [one for one in self.letters if matches(topic, one.topic)]
        return [one for one in fitting if group in (None, one.group)][:limit]

    async def groups(self, pattern: str) -> Sequence[tuple[str, str]]:
        return sorted(pair for pair in self.names if matches(pattern, pair[0]))


@pytest.fixture
def store() -> Any:
    return Store()


async def shown(letters: StoredLetters, *asked: Any) -> list[tuple[str, str]]:
    return [(one.topic, one.group) for one in await letters.dead_letters(*asked)]


async def test_letters_have_their_topic_again_also_those_that_were_delayed(store: Any) -> None:
    store.add(prefix_of("g", HERE), "orders.new", "g")
    store.add(delayed_prefix(HERE), "orders.new", FORWARDER)
    store.add(delayed_prefix(HERE), "prices", FORWARDER)
    letters = StoredLetters(store, HERE, delayed_prefix(HERE))
    both = [("orders.new", "g"), ("orders.new", FORWARDER)]
    assert await shown(letters, "#", None, 9) == [*both, ("prices", FORWARDER)]
    assert await shown(letters, "orders.*", None, 9) == both
    assert await shown(letters, "orders.new", None, 9) == both
    assert await shown(letters, "orders.new", "g", 9) == both[:1]
    assert await shown(letters, "#", FORWARDER, 1) == both[1:]
    assert not (await letters.dead_letters("#", None, 9))[1].message.headers
    assert await shown(StoredLetters(store, HERE), "#", None, 9) == both[:1]


async def test_those_of_other_roads_hide_none_of_ours(store: Any) -> None:
    for _ in range(20):
        store.add(prefix_of("g", THERE), "orders.new", "g")
        store.add(delayed_prefix(THERE), "orders.new", FORWARDER)
    for topic in ("a", "b", "c"):
        store.add(prefix_of("g", HERE), topic, "g")
    letters = StoredLetters(store, HERE, delayed_prefix(HERE))
    assert await shown(letters, "#", None, 2) == [("a", "g"), ("b", "g")]
    assert await shown(letters, "#", None, 3) == [("a", "g"), ("b", "g"), ("c", "g")]
    store.asked = 0
    assert await shown(letters, "#", None, 0) == []
    assert store.asked == 0


@pytest.mark.parametrize("pattern", ["#", "orders.*", LONG])
async def test_a_long_topic_is_found_by_its_name(store: Any, pattern: str) -> None:
    store.add(prefix_of("g", HERE), LONG, "g")
    assert await shown(StoredLetters(store, HERE), pattern, None, 9) == [(LONG, "g")]
    assert await shown(StoredLetters(store, HERE), "other.#", None, 9) == []


async def test_one_that_somebody_else_published_there_is_shown_as_it_is(store: Any) -> None:
    store.add(prefix_of("g", HERE), "orders", "g", noted=False)
    name = prefix_of("g", HERE) + "orders"
    assert await shown(StoredLetters(store, HERE), "orders", "g", 9) == [(name, "g")]


async def test_groups_are_told_apart_by_road_and_by_what_was_delayed(store: Any) -> None:
    moved, late = prefix_of("g", HERE), delayed_prefix(HERE)
    for topic in ("orders.new", LONG):
        for road in (HERE, THERE):
            store.add(prefix_of("g", road), topic, "g")
            store.add(delayed_prefix(road), topic, FORWARDER)
    store.names.add((late + "orders.new", "somebody"))
    long = moved_name(moved, LONG)
    assert await stored_groups(store, HERE, "orders.*", None) == [(moved + "orders.new", "g")]
    assert await stored_groups(store, HERE, LONG, "g") == [(long, "g")]
    assert await stored_groups(store, HERE, "#", "other") == []
    assert await delayed_groups(store, late, "orders.*") == [(late + "orders.new", FORWARDER)]
    assert await delayed_groups(store, late, LONG) == [(moved_name(late, LONG), FORWARDER)]
    assert len(await delayed_groups(store, late, "#")) == 2
    assert delayed_prefix("") == PREFIX + "delayed."
