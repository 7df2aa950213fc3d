"""What the tests of the SQLite road share: a topic, a clock that jumps, and short forms."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from msgspec import Struct

from postroad.core.clock import SystemClock
from postroad.core.delivery import Delivery, Failure, Receipt, Settlement
from postroad.core.reports import Account
from postroad.core.subscription import Subscription
from postroad.core.topic import NO_OPTIONS, Options, Topic
from postroad.core.transport import Consumer, Plan
from postroad.transports.sql import SqlTransport


class Number(Struct):
    n: int
    key: str | None = None


PLAIN: Topic[Number] = Topic("numbers.plain", Number)
KEYED: Topic[Number] = Topic("numbers.keyed", Number, key="key", partitions=6)
NOW = timedelta(0)
SOON = timedelta(seconds=5)
LARGE = 1 << 30
WHY = Failure(reason="exception", detail="no luck")


class JumpingClock(SystemClock):
    """The machine's time, moved."""

    def __init__(self) -> None:
        self.ahead_us = 0

    def now_us(self) -> int:
        return super().now_us() + self.ahead_us

    def jump(self, **duration: float) -> None:
        self.ahead_us += timedelta(**duration) // timedelta(microseconds=1)


@asynccontextmanager
async def road(
    folder: Path, *subscriptions: Subscription, clock: SystemClock | None = None, query: str = ""
) -> AsyncIterator[SqlTransport]:
    transport = SqlTransport(f"sqlite:///{folder}/road.db{query}", clock=clock)
    await transport.open([PLAIN, KEYED], subscriptions)
    try:
        yield transport
    finally:
        await transport.close()


def group(topic: Topic[Any] | str = PLAIN, name: str = "g", **settings: Any) -> Subscription:
    return Subscription(source=topic, group=name, **{"start": "earliest", **settings})


async def publish(
    transport: SqlTransport,
    numbers: Iterable[int],
    topic: Topic[Number] = PLAIN,
    options: Options = NO_OPTIONS,
    keys: int = 0,
) -> Sequence[Receipt]:
    now = SystemClock().now_us()
    return await transport.publish(
        [
            (
                topic,
                topic.envelope_with(
                    Number(n, f"k{n % keys}" if keys else None), options, now, "test"
                ),
            )
            for n in numbers
        ]
    )


def n(delivery: Delivery) -> int:
    number: int = PLAIN.decode(delivery.message.data).n
    return number


def ns(deliveries: Iterable[Delivery]) -> list[int]:
    return [n(delivery) for delivery in deliveries]


async def take(consumer: Consumer, limit: int = 1000, wait: timedelta = NOW) -> list[Delivery]:
    found = list(await consumer.receive(limit, LARGE, wait))
    while found and found[-1].starts and len(found) < limit:
        # Suspects of a crash come in halved windows, one a call.
        more = await consumer.receive(limit - len(found), LARGE, NOW)
        if not more:
            break
        found += more
    return found


async def ack(consumer: Consumer, deliveries: Iterable[Delivery]) -> set[str]:
    return set(await consumer.settle([Settlement(delivery) for delivery in deliveries]))


async def join(transport: SqlTransport, subscription: Subscription, **plan: Any) -> Consumer:
    return await transport.subscribe(subscription, Plan(**plan))


async def until(condition: Callable[[], Awaitable[object]], seconds: float = 30) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - others make it true
            await asyncio.sleep(0.02)


def balance(account: Account) -> int:
    """What is accepted and accounted for nowhere: 0."""
    pending = account.backlog + account.leased + account.waiting + account.scheduled
    return account.accepted - pending - sum(account.outcomes.values()) - account.trimmed
