"""The server is killed and restarted under load: nothing acknowledged is lost, order holds."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from msgspec import Struct

from postroad import Postroad, Topic
from postroad.errors import PublishError, StorageUnavailableError
from tests.integration.servers_road import until, with_options
from tests.services.harness.instance import Instance
from tests.services.plugin import StartServer

LEASE = timedelta(seconds=3)
KEYS = 8
DEADLINE = 90.0


class Step(Struct):
    who: str
    n: int


steps = Topic("steps", Step, key="who", partitions=4)


class Load:
    """Publishers that go on whatever happens, and two consumers; each key has one publisher."""

    def __init__(self, url: str) -> None:
        self.url = with_options(url, busy="30s")
        self.accepted: dict[str, list[int]] = defaultdict(list)
        self.unknown: dict[str, list[int]] = defaultdict(list)
        self.refused: list[Exception] = []
        self.handled: dict[str, list[int]] = defaultdict(list)
        self._stopping = asyncio.Event()
        self.road = self._road()

    def _road(self) -> Postroad:
        road = Postroad(self.url)

        @road.subscribe(steps, group="g", order="key", start="earliest", lease=LEASE)
        async def handle(step: Step) -> None:
            await asyncio.sleep(0)
            self.handled[step.who].append(step.n)

        return road

    @property
    def number(self) -> int:
        return sum(map(len, self.accepted.values()))

    @property
    def done(self) -> int:
        return sum(map(len, self.handled.values()))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        other = self._road()
        async with self.road.consuming(), other.consuming():
            publishers = [asyncio.create_task(self._publish(f"k{n}")) for n in range(KEYS)]
            try:
                yield
            finally:
                self._stopping.set()
                await asyncio.wait_for(asyncio.gather(*publishers), DEADLINE)
                await until(lambda: not self.missing, seconds=DEADLINE)

    async def _publish(self, who: str) -> None:
        n = 0
        while not self._stopping.is_set():
            try:
                await self.road.publish(steps, Step(who, n))
            except PublishError as error:
                if error.unknown:
                    self.unknown[who].append(n)
                else:
                    self.refused.append(error.failed[0])
            else:
                self.accepted[who].append(n)
            n += 1
            await asyncio.sleep(0.002)

    @property
    def missing(self) -> dict[str, set[int]]:
        """What was accepted and is not handled yet."""
        found = {who: set(ns) - set(self.handled[who]) for who, ns in self.accepted.items()}
        return {who: ns for who, ns in found.items() if ns}

    async def more(self, number: int = 200) -> None:
        """Until so many more are accepted, and so many more handled."""
        accepted, handled = self.number, self.done
        await until(
            lambda: self.number >= accepted + number and self.done >= handled + number,
            seconds=DEADLINE,
        )

    def check(self) -> None:
        for who, found in self.handled.items():
            first = list(dict.fromkeys(found))  # the first time that each was handled
            assert first == sorted(first), f"{who} out of order"
            assert set(self.accepted[who]) <= set(first)
            # What nobody could tell the fate of may be there; what was refused is not.
            assert set(first) <= set(self.accepted[who]) | set(self.unknown[who])


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("ends", ["kill", "stop"])
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("postgresql", marks=pytest.mark.needs_server("postgresql")),
        pytest.param("mariadb", marks=pytest.mark.needs_server("mariadb")),
    ],
)
async def test_a_server_goes_and_comes_under_load(
    kind: str, ends: str, start_server: StartServer
) -> None:
    server: Instance = await asyncio.to_thread(start_server, kind)
    load = Load(server.url)
    async with load.running():
        await load.more()
        for _ in range(2):
            await asyncio.to_thread(server.kill if ends == "kill" else server.stop)
            await asyncio.sleep(0.5)
            await asyncio.to_thread(server.start)
            await load.more()
    load.check()
    assert not load.refused  # all of them had the patience that ?busy= gives them


@pytest.mark.needs_server("postgresql")
async def test_who_has_no_patience_is_told(start_server: StartServer) -> None:
    """Within ?busy=, by our error; and the same road goes on when the server is back."""
    server = await asyncio.to_thread(start_server, "postgresql")
    road = Postroad(with_options(server.url, busy="1s"))
    async with road:
        await road.publish(steps, Step("a", 0))
        await asyncio.to_thread(server.kill)
        with pytest.raises(PublishError) as caught:
            async with asyncio.timeout(10):
                await road.publish(steps, Step("a", 1))
        (error,) = (*caught.value.failed.values(), *caught.value.unknown.values())
        assert isinstance(error, StorageUnavailableError)
        await asyncio.to_thread(server.start)
        await road.publish(steps, Step("a", 2))
