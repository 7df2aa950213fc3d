"""The replay keeps the event time: its order, its pace, and in the envelope."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from postroad.demo import flights
from postroad.demo.flights import Departure
from postroad.demo.replay import Replay

START = datetime(2013, 2, 1, tzinfo=UTC)


class Road:
    """Takes what is published, and notes when."""

    def __init__(self) -> None:
        self.taken: list[tuple[float, Departure, datetime]] = []

    async def publish(self, topic: object, payload: Departure, *, time: datetime) -> None:
        self.taken.append((_now(), payload, time))


def _now() -> float:
    return time.monotonic()


def departures(*minutes: int) -> list[Departure]:
    first = next(flights.load())
    return [
        msgspec.structs.replace(first, scheduled=START + timedelta(minutes=minute))
        for minute in minutes
    ]


def replay(road: Any, minutes: list[int], speed: float) -> Replay:
    return Replay(road, departures(*minutes), speed)


async def test_paces_by_the_scheduled_time() -> None:
    road = Road()
    running = replay(road, [0, 0, 10, 10, 30], speed=6000)
    await running.run()
    # Ten minutes are 0.1 s at that speed. Never early; how late depends on the machine.
    first = road.taken[0][0]
    since = [when - first for when, _, _ in road.taken]
    assert all(
        actual >= due - 0.001 for actual, due in zip(since, [0, 0, 0.1, 0.1, 0.3], strict=True)
    )
    assert running.published == 5
    assert running.seconds >= 0.299
    assert running.now == START + timedelta(minutes=30)


async def test_event_time_travels_in_the_envelope() -> None:
    road = Road()
    await replay(road, [0, 1, 2], speed=1e9).run()
    assert [event_time for _, _, event_time in road.taken] == [
        departure.scheduled for _, departure, _ in road.taken
    ]


async def test_in_order_however_far_behind() -> None:
    road = Road()
    await replay(road, list(range(5000)), speed=1e12).run()
    minutes = [departure.scheduled for _, departure, _ in road.taken]
    assert minutes == sorted(minutes)
    assert len(minutes) == 5000


async def test_nothing_to_replay() -> None:
    running = replay(Road(), [], speed=1.0)
    await running.run()
    assert (running.published, running.now) == (0, None)
