"""Keys that are parked, through the whole engine: beyond `Retry.hold`, and behind dead letters."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from datetime import timedelta
from pathlib import Path

import pytest
from msgspec import Struct

from postroad import Delivery, Postroad, Retry, Topic
from postroad.errors import GuaranteeError
from postroad.testing.conformance.waiting import eventually

SOON = timedelta(seconds=0.3)


class Step(Struct):
    key: str
    n: int


STEPS = Topic("steps.taken", Step, key="key", partitions=1)


@pytest.fixture(params=["sqlite", "memory"])
def road(request: pytest.FixtureRequest, tmp_path: Path) -> Postroad:
    urls = {"sqlite": f"sqlite:///{tmp_path}/road.db", "memory": "memory://?capacity=100000"}
    return Postroad(urls[request.param])


async def publish(road: Postroad, key: str, numbers: range) -> None:
    await road.publish_many(STEPS, [Step(key, n) for n in numbers])


async def outcomes(road: Postroad) -> dict[str, int]:
    """What became of everything; the audit has to balance."""
    (entry,) = (await road.audit(STEPS.name, group="g")).entries
    assert entry.verdict == "balanced", entry
    assert entry.account is not None
    return {name: number for name, number in entry.account.outcomes.items() if number}


async def test_a_blocked_key_is_parked_and_the_others_go_on(road: Postroad) -> None:
    """5,000 messages behind one that fails for a while: 2,000 of other keys, in the same
    partition, are handled meanwhile, and afterwards every key was handled in order."""
    handled: defaultdict[str, list[int]] = defaultdict(list)
    attempts: list[int] = []
    healed = asyncio.Event()

    @road.subscribe(
        STEPS,
        group="g",
        order="key",
        prefetch=200,
        retry=Retry(attempts=100, backoff="fixed", first=SOON, hold=10),
    )
    async def handler(step: Step, delivery: Delivery) -> None:
        if step.key == "hot" and step.n == 0 and not healed.is_set():
            attempts.append(delivery.attempts)
            raise ConnectionError("down")
        handled[step.key].append(step.n)

    async with road:
        await publish(road, "hot", range(5000))
        for number in range(20):
            await publish(road, f"cold{number}", range(100))
        async with road.consuming():
            await eventually(
                lambda: sum(map(len, handled.values())) == 2000, "the other keys go on"
            )
            assert not handled["hot"], "what stands behind the failed one may not overtake it"
            seen = len(attempts)
            await eventually(lambda: len(attempts) >= seen + 2, "it is tried again")
            healed.set()
            await eventually(lambda: len(handled["hot"]) == 5000, "the parked key drains", 60)
        assert await outcomes(road) == {"handled": 7000}
    assert attempts == list(range(len(attempts))), "attempts are kept while it is parked"
    for got in handled.values():
        assert got == list(range(len(got))), "each once, in order"


async def test_parked_messages_survive_the_process(tmp_path: Path) -> None:
    """The consumer is abandoned without a word; another one goes on after its lease."""
    url = f"sqlite:///{tmp_path}/road.db"
    handled: list[int] = []
    fails = True

    def make() -> Postroad:
        road = Postroad(url)

        @road.subscribe(
            STEPS,
            group="g",
            order="key",
            lease=timedelta(seconds=1),
            retry=Retry(attempts=100, backoff="fixed", first=SOON, hold=3),
        )
        async def handler(step: Step) -> None:
            if step.n == 0 and fails:
                raise ConnectionError("down")
            handled.append(step.n)

        return road

    first = make()
    async with first:
        await publish(first, "hot", range(50))
        async with first.consuming():

            async def parked() -> bool:
                (entry,) = (await first.audit(STEPS.name, group="g")).entries
                return entry.account is not None and entry.account.waiting == 50

            await eventually(parked, "all fifty are parked")
    second = make()
    async with second:
        fails = False
        async with second.consuming():
            await eventually(lambda: len(handled) == 50, "they drain")
        assert await outcomes(second) == {"handled": 50}
    assert handled == list(range(50))


async def test_a_dead_message_parks_its_key_until_it_is_redriven(road: Postroad) -> None:
    handled: defaultdict[str, list[int]] = defaultdict(list)
    poisonous = {2, 5}

    @road.subscribe(
        STEPS,
        group="g",
        order="key",
        retry=Retry(attempts=2, backoff="immediate", on_dead="park-key"),
    )
    async def handler(step: Step) -> None:
        if step.key == "hot" and step.n in poisonous:
            raise ValueError("poison")
        handled[step.key].append(step.n)

    async def dead() -> bool:
        return len(await road.dead_letters.list()) == 1

    async with road, road.consuming():
        await publish(road, "hot", range(8))
        await publish(road, "cold", range(8))
        await eventually(lambda: len(handled["cold"]) == 8, "the other key goes on")
        await eventually(dead, "a dead letter")
        await publish(road, "hot", range(8, 12))
        await publish(road, "cold", range(8, 9))
        await eventually(lambda: len(handled["cold"]) == 9, "new ones of the other key go on")
        assert handled["hot"] == [0, 1]
        await road.dead_letters.redrive()
        await eventually(dead, "it dies again")
        assert handled["hot"] == [0, 1], "nothing overtakes what died again"
        poisonous.discard(2)
        await road.dead_letters.redrive()
        await eventually(lambda: handled["hot"] == [0, 1, 2, 3, 4], "up to the next one that dies")
        await eventually(dead, "that one is dead")
        await road.dead_letters.discard()
        await eventually(lambda: len(handled["hot"]) == 11, "its key goes on without it")
        assert handled["hot"] == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11]
    async with road:
        assert await outcomes(road) == {"handled": 20, "discarded": 1}


async def test_by_default_a_key_goes_on_and_redrive_keeps_the_order_of_the_dead(
    road: Postroad,
) -> None:
    handled: list[int] = []
    sick = True

    @road.subscribe(STEPS, group="g", order="key", retry=Retry(attempts=1))
    async def handler(step: Step) -> None:
        if sick and step.n % 2:
            raise ValueError("odd")
        handled.append(step.n)

    async with road, road.consuming():
        await publish(road, "hot", range(20))
        await eventually(lambda: len(handled) == 10, "the even ones")
        sick = False
        await road.dead_letters.redrive()
        await eventually(lambda: len(handled) == 20, "the odd ones")
    assert handled == [*range(0, 20, 2), *range(1, 20, 2)]


async def test_a_drain_keeps_what_is_left_of_a_wait(road: Postroad) -> None:
    began: list[float] = []
    handled: list[int] = []

    @road.subscribe(
        STEPS,
        group="g",
        order="key",
        retry=Retry(backoff="fixed", first=timedelta(seconds=2)),
    )
    async def handler(step: Step) -> None:
        if step.n == 0:
            began.append(time.monotonic())
            if len(began) == 1:
                raise ConnectionError("down")
        handled.append(step.n)

    async with road:
        await publish(road, "hot", range(3))
        async with road.consuming():
            await eventually(lambda: began, "the first try")
        async with road.consuming():
            await eventually(lambda: len(handled) == 3, "all three")
    assert handled == [0, 1, 2]
    assert began[1] - began[0] >= 1.9


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"order": "none"}, "order='key'"),
        ({"order": "key", "delivery": "at-most-once"}, "settles after the handler"),
        ({"order": "key", "group": None}, "named group"),
    ],
)
async def test_parking_a_key_is_refused_where_no_key_waits(
    road: Postroad, options: dict[str, object], why: str
) -> None:
    settings = {"group": "g", "retry": Retry(on_dead="park-key"), **options}

    @road.subscribe(STEPS, **settings)  # type: ignore[arg-type]
    async def handler(step: Step) -> None:
        raise AssertionError("never called")

    with pytest.raises(GuaranteeError, match=why):
        await road.open()
