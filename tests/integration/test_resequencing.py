"""Numbered messages on real roads: killed processes, real databases, the road's own counting."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from postroad import Hooks, Postroad, Reject, Sequence, Topic, numbered
from postroad.core.delivery import Delivery
from postroad.core.sequence import Change, LineId, Marked, Standing, read_number
from postroad.core.subscription import Subscription
from postroad.delivery.execution import Scope, _scope
from postroad.errors import EncodeError, NotSupportedError
from postroad.storage import sequences
from postroad.storage.database import Database
from postroad.storage.opening import place_of
from tests.integration.apps.sequenced import TABLE, Step, make_road, steps

KEYS, NUMBERS, KILLS = "abcdef", 60, 5
PATIENCE = 60.0
ROOT = Path(__file__).parents[2]


async def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.01)


def notes(folder: Path) -> list[tuple[str, str, int]]:
    """(process, key, number) of every call of the plain handler, in order."""
    path = folder / "notes"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(pid, key, int(number)) for pid, key, number in map(str.split, lines)]


async def start(folder: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.integration.apps.sequenced", str(folder), cwd=ROOT
    )


# ------------------------------------------------ kill -9


async def test_kills_change_neither_order_nor_effects(tmp_path: Path) -> None:
    published = [(key, number) for key in KEYS for number in range(1, NUMBERS + 1)]
    published += random.sample(published, len(published) // 5)
    random.shuffle(published)
    road = make_road(tmp_path)
    async with road:
        with closing(sqlite3.connect(tmp_path / "road.db")) as database:
            database.execute(TABLE)
        for key, number in published:
            await road.publish(steps, Step(key, number), headers=numbered(number))
        for _ in range(KILLS):
            seen = len(notes(tmp_path))
            process = await start(tmp_path)
            try:
                more = random.randint(1, NUMBERS // 2)
                await until(lambda: len(notes(tmp_path)) >= seen + more, "no progress")  # noqa: B023
            finally:
                process.kill()
                await process.wait()
        process = await start(tmp_path)
        try:
            async with asyncio.timeout(PATIENCE):
                await road.settled("steps")
        finally:
            process.kill()
            await process.wait()
        audit = await road.audit("steps")
        dead = await road.dead_letters.list()
    assert dead == []
    assert audit.verdict == "balanced"
    check_notes(notes(tmp_path))
    with closing(sqlite3.connect(tmp_path / "road.db")) as database:
        effects = database.execute("SELECT name, number FROM effects ORDER BY place").fetchall()
        standing = database.execute(
            "SELECT group_name, message_key, next_number FROM postroad_sequences"
        ).fetchall()
        marks = database.execute("SELECT * FROM postroad_sequence_marks").fetchall()
    for key in KEYS:
        mine = [number for name, number in effects if name == key]
        assert mine == list(range(1, NUMBERS + 1)), f"{key}: each effect once and in order"
    assert sorted(standing) == sorted(
        (group, key, NUMBERS + 1) for group in ("once", "plain") for key in KEYS
    )
    assert marks == []


def check_notes(found: list[tuple[str, str, int]]) -> None:
    """Every number of every key, in order in each process and over all of them; only what was in
    hand at a kill came twice."""
    lives: dict[tuple[str, str], list[int]] = defaultdict(list)
    firsts: dict[str, list[int]] = defaultdict(list)
    for pid, key, number in found:
        lives[pid, key].append(number)
        if number not in firsts[key]:
            firsts[key].append(number)
    for (pid, key), life in lives.items():
        assert life == sorted(set(life)), f"process {pid}, key {key}: {life}"
    for key in KEYS:
        assert firsts[key] == list(range(1, NUMBERS + 1)), key
    assert len({pid for pid, _, _ in found}) > 1


# ------------------------------------------------ the road's own numbers


async def numbers_on(road: Postroad, topic: Topic[Any]) -> list[tuple[str, int]]:
    found = []
    for delivery in await road.browse(topic.name, limit=1000):
        known = read_number(topic.name, delivery.message)
        assert not isinstance(known, str), known
        found.append((known[0].key, known[1]))
    return found


async def test_the_road_counts_for_many_publishers(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'road.db'}"
    topic: Topic[Step] = Topic("steps", Step, key="order", partitions=1)
    async with Postroad(url) as one, Postroad(url) as other:
        await asyncio.gather(
            *(
                road.publish_numbered(topic, [Step("a", 0), Step("b", 0)])
                for road in (one, other)
                for _ in range(25)
            )
        )
        await one.publish_numbered(topic, [Step("a", 0)], epoch="next")
        found = await numbers_on(one, topic)
    for key in "ab":
        mine = [number for name, number in found if name == key]
        assert mine[:50] == list(range(1, 51)), "the numbers follow each other as the log does"
    assert found[-1] == ("a", 1)


async def test_what_was_not_accepted_takes_no_number(tmp_path: Path) -> None:
    topic: Topic[Step] = Topic("steps", Step, key="order", partitions=1)
    async with Postroad(f"sqlite:///{tmp_path / 'road.db'}") as road:
        await road.publish_numbered(topic, [Step("a", 0), Step("full", 0)])
        with closing(sqlite3.connect(tmp_path / "road.db", isolation_level=None)) as database:
            database.execute(
                "UPDATE postroad_sequence_numbers SET last_number = 2147483647 "
                "WHERE message_key = 'full'"
            )
        with pytest.raises(EncodeError, match="another epoch"):
            await road.publish_numbered(topic, [Step("a", 0), Step("full", 0)])
        await road.publish_numbered(topic, [Step("a", 0)])
        assert await numbers_on(road, topic) == [("a", 1), ("full", 1), ("a", 2)]


async def test_a_payload_without_a_key_has_no_number(tmp_path: Path) -> None:
    topic: Topic[Step] = Topic("steps", Step)
    async with Postroad(f"sqlite:///{tmp_path / 'road.db'}") as road:
        with pytest.raises(EncodeError, match="of a key"):
            await road.publish_numbered(topic, [Step("a", 0)])


# ------------------------------------------------ databases


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'standings.db'}"
    database = request.getfixturevalue(f"{request.param}_database")
    return str(database.url)


async def test_standings_are_kept_by_every_database(database_url: str) -> None:
    database = await Database.open(place_of(database_url), lambda _: None)
    try:
        lines = [LineId("t", f"key {n}" * 50, "") for n in range(40)]
        lines.append(LineId("t", lines[0].key, "epoch"))
        changes = [
            Change(line, 1, n + 2, marked=(Marked(1, 1, "dead", "x"), Marked(9, 12, "missing")))
            for n, line in enumerate(lines)
        ]
        await database.write(lambda c: sequences.write(c, "g", changes))
        await database.write(lambda c: sequences.write(c, "g", changes))
        found = await database.read(lambda c: sequences.read(c, "g", lines))
        assert [found[line].next for line in lines] == list(range(2, 43))
        assert found[lines[0]].marks == changes[0].marked
        assert await database.read(lambda c: sequences.read(c, "h", lines)) == {}
        # What an owner that was replaced writes late takes nothing back.
        late = [Change(lines[5], 1, 3, removed=(9,), marked=(Marked(1, 2, "missing"),))]
        await database.write(lambda c: sequences.write(c, "g", late))
        standing: Standing = (await database.read(lambda c: sequences.read(c, "g", lines)))[
            lines[5]
        ]
        assert (standing.next, standing.marks) == (7, (Marked(1, 2, "missing"),))
        for expected in (1, 2):
            taken = await database.write(lambda c: sequences.take_number(c, lines[0]))
            assert taken == expected
        await database.write(lambda c: sequences.forget(c, "g", "t"))
        assert await database.read(lambda c: sequences.read(c, "g", lines)) == {}
    finally:
        await database.close()


# ------------------------------------------------ with the engine around it


class Counted(Hooks):
    def __init__(self) -> None:
        self.duplicates = 0

    def duplicate(self, subscription: Subscription, delivery: Delivery) -> None:
        self.duplicates += 1


async def consumed(road: Postroad, seen: list[int], count: int) -> None:
    async with road.consuming():
        await until(lambda: len(seen) >= count, f"only {seen}")
        await road.settled()


async def test_a_second_run_goes_on_and_a_replay_begins_anew(tmp_path: Path) -> None:
    seen: list[int] = []
    hooks = Counted()
    topic: Topic[Step] = Topic("steps", Step, key="order")
    road = Postroad(f"sqlite:///{tmp_path / 'road.db'}", hooks=hooks)

    @road.subscribe(topic, group="g", order="key", start="earliest", sequence=Sequence())
    async def handle(step: Step) -> None:
        seen.append(step.number)

    async with road:
        for number in (2, 1):
            await road.publish(topic, Step("a", number), headers=numbered(number))
        await consumed(road, seen, 2)
        for number in (1, 2, 4, 3):
            await road.publish(topic, Step("a", number), headers=numbered(number))
        await consumed(road, seen, 4)
        assert (seen, hooks.duplicates) == ([1, 2, 3, 4], 2)
        await road.seek("steps", "g", "earliest")
        await consumed(road, seen, 8)
        assert seen == [1, 2, 3, 4] * 2


async def test_a_dead_letter_in_the_middle_is_redriven_and_handled(tmp_path: Path) -> None:
    seen: list[int] = []
    sick = True
    topic: Topic[Step] = Topic("steps", Step, key="order")
    road = Postroad(f"sqlite:///{tmp_path / 'road.db'}")

    @road.subscribe(topic, group="g", order="key", start="earliest", sequence=Sequence())
    async def handle(step: Step) -> None:
        if step.number == 2 and sick:
            raise Reject("not today")
        seen.append(step.number)

    async with road:
        for number in (3, 2, 1):
            await road.publish(topic, Step("a", number), headers=numbered(number))
        await consumed(road, seen, 2)
        assert seen == [1, 3]
        sick = False
        assert await road.dead_letters.redrive() == 1
        await consumed(road, seen, 3)
        assert seen == [1, 3, 2]


@pytest.mark.parametrize("keeper", ["database", "store"])
async def test_what_a_road_cannot_keep_is_kept_beside_it(tmp_path: Path, keeper: str) -> None:
    """A memory road that says it keeps no standings."""
    seen: list[int] = []
    topic: Topic[Step] = Topic("steps", Step, key="order")
    url = f"sqlite:///{tmp_path / 'beside.db'}"
    road = Postroad(
        "memory://",
        database=url if keeper == "database" else None,
        store=url if keeper == "store" else None,
    )
    transport: Any = road._transport
    transport.capabilities = replace(transport.capabilities, sequences=False)

    @road.subscribe(topic, group="g", order="key", sequence=Sequence(first=1))
    async def handle(step: Step) -> None:
        seen.append(step.number)

    async with road:
        for number in (2, 1):
            await road.publish(topic, Step("a", number), headers=numbered(number))
        await consumed(road, seen, 2)
    with closing(sqlite3.connect(tmp_path / "beside.db")) as database:
        rows = database.execute("SELECT next_number FROM postroad_sequences").fetchall()
    assert (seen, rows) == ([1, 2], [(3,)])


async def test_inside_a_transaction_nobody_counts(tmp_path: Path) -> None:
    topic: Topic[Step] = Topic("steps", Step, key="order")
    token = _scope.set(Scope())
    try:
        async with Postroad(f"sqlite:///{tmp_path / 'road.db'}") as road:
            with pytest.raises(NotSupportedError, match="numbered"):
                await road.publish_numbered(topic, [Step("a", 1)])
    finally:
        _scope.reset(token)
