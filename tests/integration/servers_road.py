"""What the tests of database servers share: a road on one, processes beside it, and counts."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from postroad.core.clock import SystemClock
from postroad.core.delivery import Receipt, Settlement
from postroad.core.message import Message, new_id
from postroad.core.subscription import Subscription
from postroad.core.topic import Topic
from postroad.transports.sql import SqlTransport

KINDS = ("postgresql", "mariadb")
ROOT = Path(__file__).parents[2]
ONE: Topic[int] = Topic("servers.one", int)
MANY: Topic[int] = Topic("servers.many", int, partitions=6)


def with_options(url: str, **options: str) -> str:
    """The URL with these parameters."""
    return url + "?" + "&".join(f"{name}={value}" for name, value in options.items())


def message(
    n: int, *, key: str | None = None, id_: str | None = None, data: bytes | None = None
) -> Message:
    """A message of one of our topics that carries a number."""
    return Message(
        id=id_ or new_id(),
        type="servers.number",
        source="/tests",
        data=json.dumps(n).encode() if data is None else data,
        time_us=SystemClock().now_us(),
        key=key,
    )


async def publish(
    transport: SqlTransport, *messages: Message, topic: Topic[Any] = ONE
) -> Sequence[Receipt]:
    """Publish them in one call."""
    return await transport.publish([(topic, one) for one in messages])


def group(topic: Topic[Any] = ONE, name: str = "g", **settings: Any) -> Subscription:
    """A group that reads from the first message."""
    return Subscription(source=topic, group=name, **{"start": "earliest", **settings})


@asynccontextmanager
async def opened(url: str, *subscriptions: Subscription) -> AsyncIterator[SqlTransport]:
    """A road on this server, with our topics."""
    transport = SqlTransport(url)
    try:
        await transport.open([ONE, MANY], subscriptions)
        yield transport
    finally:
        await transport.close()


async def collect(consumer: Any, number: int, *, seconds: float = 60) -> list[Any]:
    """Receive and acknowledge until so many have come."""
    found: list[Any] = []
    async with asyncio.timeout(seconds):
        while len(found) < number:
            got = await consumer.receive(1000, 1 << 30, timedelta(seconds=1))
            if got:
                assert set(await consumer.settle([Settlement(one) for one in got])) == {"done"}
            found += got
    return found


async def until(condition: Callable[[], bool], *, seconds: float = 20) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - others make it true
            await asyncio.sleep(0.02)


@contextmanager
def running(code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A Python process that does not outlive the block."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


async def said(process: subprocess.Popen[str], *, seconds: float = 30) -> str:
    """The next line that the process prints."""
    assert process.stdout is not None
    line = await asyncio.wait_for(asyncio.to_thread(process.stdout.readline), seconds)
    return line.strip()
