"""Random lives of a group, held against what must always be true."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest

from postroad.core.delivery import Delivery, Settlement
from postroad.core.topic import Topic
from postroad.core.transport import Consumer
from postroad.transports.sql import SqliteTransport
from tests.integration.sqlite_road import (
    WHY,
    JumpingClock,
    Number,
    balance,
    group,
    join,
    n,
    publish,
    road,
    take,
)

TOPIC: Topic[Number] = Topic("numbers.model", Number, key="key", partitions=2)
KEYS = 3


@dataclass
class Life:
    """One consumer after another, of which any may die, and what the group owes."""

    transport: SqliteTransport
    clock: JumpingClock
    ordered: bool
    rng: random.Random
    published: int = 0
    settled: set[int] = field(default_factory=set)
    held: dict[int, Delivery] = field(default_factory=dict)
    history: list[str] = field(default_factory=list)

    async def start(self) -> None:
        self.consumer: Consumer = await join(
            self.transport, group(TOPIC, order="key"), ordered=self.ordered
        )

    def earlier(self, number: int) -> set[int]:
        """Unsettled messages of the same key before this one."""
        return {one for one in range(number % KEYS, number, KEYS) if one not in self.settled}

    async def publish(self) -> None:
        more = self.rng.randint(1, 8)
        numbers = range(self.published, self.published + more)
        await publish(self.transport, numbers, TOPIC, keys=KEYS)
        self.published += more

    async def receive(self) -> None:
        for delivery in await take(self.consumer, self.rng.randint(1, 7)):
            number = n(delivery)
            assert number not in self.settled, f"{number} was settled; {self.history}"
            assert number not in self.held, f"{number} is held; {self.history}"
            if self.ordered:
                overtaken = self.earlier(number) - self.held.keys()
                assert not overtaken, f"{number} overtakes {overtaken}; {self.history}"
            self.held[number] = delivery

    async def answer(self) -> None:
        answers: dict[int, Settlement] = {}
        for number in sorted(
            self.rng.sample(sorted(self.held), self.rng.randint(0, len(self.held)))
        ):
            delivery = self.held[number]
            blocked = self.ordered and self.earlier(number)
            kind = self.rng.choice(["ack", "ack", "ack", "fail", "back", "reject"])
            if blocked or kind == "back":
                answers[number] = Settlement(delivery, "nack")
            elif kind == "fail":
                delay = timedelta(seconds=self.rng.choice([0, 5, 20]))
                answers[number] = Settlement(delivery, "nack", delay=delay, failure=WHY)
            elif kind == "reject":
                answers[number] = Settlement(delivery, "reject", failure=WHY)
                self.settled.add(number)
            else:
                answers[number] = Settlement(delivery)
                self.settled.add(number)
        results = await self.consumer.settle(list(answers.values()))
        assert set(results) <= {"done"}, self.history
        for number in answers:
            del self.held[number]

    async def wait(self) -> None:
        self.clock.jump(seconds=self.rng.choice([1, 3, 8]))
        await self.consumer.extend(list(self.held.values()))

    async def die(self) -> None:
        """Silent for longer than a lease."""
        self.clock.jump(seconds=31)
        self.held.clear()
        await self.start()

    async def leave(self) -> None:
        await self.consumer.close()
        self.held.clear()
        await self.start()

    async def step(self) -> None:
        name = self.rng.choices(
            ["publish", "receive", "answer", "wait", "die", "leave"], [4, 10, 8, 4, 1, 1]
        )[0]
        self.history.append(name)
        await getattr(self, name)()

    async def finish(self) -> None:
        for _ in range(1000):
            self.clock.jump(seconds=5)
            await self.receive()
            ready = sorted(self.held)
            answers = [Settlement(self.held[number]) for number in ready]
            await self.consumer.settle(answers)
            self.settled |= set(ready)
            self.held.clear()
            if len(self.settled) == self.published:
                return
        raise AssertionError(f"{set(range(self.published)) - self.settled} never came")


@pytest.mark.parametrize("ordered", [True, False])
async def test_a_random_life_keeps_its_promises(tmp_path: Path, ordered: bool) -> None:
    for run in range(7):
        seed = random.getrandbits(32)
        folder = tmp_path / str(run)
        folder.mkdir()
        clock = JumpingClock()
        async with road(folder, group(TOPIC, order="key"), clock=clock) as transport:
            await transport.open([TOPIC], [])
            life = Life(transport, clock, ordered, random.Random(seed))
            await life.start()
            for _ in range(70):
                await life.step()
                assert balance(await transport.account(TOPIC.name, "g")) == 0, life.history
            await life.finish()
            account = await transport.account(TOPIC.name, "g")
            outcomes = defaultdict(int, account.outcomes)
            assert outcomes["handled"] + outcomes["dead"] == life.published, f"seed {seed}"
            assert len(await transport.dead_letters("#", "g", 10_000)) == outcomes["dead"]
