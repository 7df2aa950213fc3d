"""A card charge is no database write: a worker is killed between the charge and its answer, and a
provider that honours the delivery's idempotency key charges once."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.apps.charging import GROUP, ORDERS, Order, make_road
from tests.integration.business import File

ROOT = Path(__file__).parents[2]
PAID = "SELECT number, receipt FROM paid ORDER BY number"


class Provider:
    """A payment provider on the loopback address. The same Idempotency-Key gets the same answer
    and is charged once; without `honours`, it charges whenever it is asked."""

    def __init__(self, honours: bool = True) -> None:
        self.honours = honours
        self.charges: list[dict[str, Any]] = []
        self.asked: Counter[str] = Counter()
        self._answers: dict[str, int] = {}

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Its URL, while it serves."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            fields = dict(line.split(": ", 1) for line in head[1:] if line)
            names = {name.lower(): value for name, value in fields.items()}
            body = await reader.readexactly(int(names["content-length"]))
            answer = json.dumps({"charge": self._charge(names["idempotency-key"], body)}).encode()
            writer.write(
                b"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\n"
                b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer)
            )
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client was killed
        finally:
            writer.close()

    def _charge(self, key: str, body: bytes) -> int:
        self.asked[key] += 1
        if not self.honours or key not in self._answers:
            self.charges.append(json.loads(body))
            self._answers[key] = len(self.charges)
        return self._answers[key]


async def work(folder: Path, provider: str, deaths: int) -> None:
    """Have orders paid by workers that die so many times between the charge and the answer."""
    business = File(folder / "shop.db")
    business.query("CREATE TABLE paid (number INTEGER, receipt INTEGER)")
    left = folder / "deaths"
    left.mkdir()
    for number in range(deaths):
        (left / str(number)).touch()
    urls = (f"sqlite:///{folder}/road.db", business.url, provider)
    async with make_road(*urls, left) as road, asyncio.timeout(60):
        await road.publish_many(ORDERS, [Order(number, 990) for number in range(3)])
        for _ in range(deaths):
            assert await (await launch(*urls, str(left))).wait() == -signal.SIGKILL
        worker = await launch(*urls, str(left))
        try:
            await road.settled("orders", GROUP)
            worker.send_signal(signal.SIGTERM)
            assert await worker.wait() == 0
        finally:
            if worker.returncode is None:
                worker.kill()
                await worker.wait()
        assert (await road.audit("orders", GROUP)).verdict == "balanced"


async def launch(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.integration.apps.charging", *arguments, cwd=ROOT
    )


@pytest.mark.parametrize("deaths", [1, 2])
async def test_the_card_is_charged_once(tmp_path: Path, deaths: int) -> None:
    provider = Provider()
    async with provider.serving() as url:
        await work(tmp_path, url, deaths)
    assert Counter(charge["order"] for charge in provider.charges) == {0: 1, 1: 1, 2: 1}
    assert sorted(provider.asked.values()) in ([1, 1, 1 + deaths], [1, 2, 2])
    receipts = [int(receipt or 0) for _, receipt in File(tmp_path / "shop.db").query(PAID)]
    assert sorted(receipts) == [1, 2, 3]


async def test_without_the_key_it_would_be_charged_twice(tmp_path: Path) -> None:
    """The inbox alone cannot undo what left the database."""
    provider = Provider(honours=False)
    async with provider.serving() as url:
        await work(tmp_path, url, deaths=1)
    assert len(provider.charges) == 4
    assert len(File(tmp_path / "shop.db").query(PAID)) == 3
