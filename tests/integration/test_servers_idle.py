"""What an idle consumer costs its server: the statements are counted there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

import pytest

from postroad.core.transport import Plan
from tests.integration.servers_road import group, opened
from tests.services.harness.instance import Instance
from tests.services.plugin import StartServer

SETTLING = 6.0
"""Seconds after which the longest interval between two looks is reached."""
COUNTED = 20.0
MOST = {"postgresql": 1.0, "mariadb": 3.5}
"""Statements a second of one idle consumer. MariaDB tells nobody anything, so there it is looked
once a second."""


def counter(server: Instance) -> Callable[[], int]:
    """How many statements the server has run, as it counts them itself."""
    if server.service.name == "mariadb":

        def questions() -> int:
            ((_, number),) = _query(server, "SHOW GLOBAL STATUS LIKE 'Questions'")
            return int(number or 0)

        return questions
    _query(server, "ALTER SYSTEM SET log_statement = 'all'")
    _query(server, "SELECT pg_reload_conf()")

    def logged() -> int:
        text = Path(server.log).read_text(errors="replace")
        return sum(" LOG:  statement: " in line or " LOG:  execute " in line
                   for line in text.splitlines())  # fmt: skip

    return logged


def _query(server: Instance, statement: str) -> list[tuple[str | None, ...]]:
    service = server.service
    found: list[tuple[str | None, ...]] = service.query(server.url, statement)  # type: ignore[attr-defined]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("ordered", [False, True], ids=["plain", "ordered"])
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("postgresql", marks=pytest.mark.needs_server("postgresql")),
        pytest.param("mariadb", marks=pytest.mark.needs_server("mariadb")),
    ],
)
async def test_an_idle_consumer_costs_next_to_nothing(
    kind: str,
    ordered: bool,
    start_server: StartServer,
) -> None:
    server = await asyncio.to_thread(start_server, kind)
    counted = counter(server)
    subscription = group(order="key") if ordered else group()
    plan = Plan(lease=timedelta(seconds=30), ordered=ordered)
    async with AsyncExitStack() as stack:
        transport = await stack.enter_async_context(opened(server.url, subscription))
        consumer = await transport.subscribe(subscription, plan)
        waiting = asyncio.ensure_future(_wait(consumer))
        await asyncio.sleep(SETTLING)
        before, started = await asyncio.to_thread(counted), time.monotonic()
        await asyncio.sleep(COUNTED)
        after = await asyncio.to_thread(counted)
        seconds = time.monotonic() - started
        waiting.cancel()
    rate = (after - before) / seconds
    print(f"{kind} {'ordered' if ordered else 'plain'}: {rate:.2f} statements a second")
    assert rate <= MOST[kind]


async def _wait(consumer: object) -> None:
    """As the runner does: it renews its lease each third of it, and receives again and again."""
    renewed = time.monotonic()
    while True:
        assert await consumer.receive(100, 1 << 20, timedelta(seconds=5)) == ()  # type: ignore[attr-defined]
        if time.monotonic() - renewed > 10:
            renewed = time.monotonic()
            await consumer.extend([])  # type: ignore[attr-defined]
