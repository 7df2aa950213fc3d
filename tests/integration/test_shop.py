"""`examples/shop` as a reader runs it: killed in the middle, and nothing is lost or done twice."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.business import Business, File, Served, number
from tests.services import postgresql
from tests.services.harness.instance import Instance
from tests.services.harness.ports import free_port
from tests.services.harness.sql import Database
from tests.services.plugin import StartServer

ROOT = Path(__file__).parents[2]
ORDERS = 50
COPIES = 2
LOST = "ada@unreachable.example"
"""A customer for whom the example's mail provider is always down."""

UNDECIDED = ("placed", "paid", "sold-out")

PYTHON = (sys.executable, "-W", "error", "-m")
CONSUMERS = ("payment", "warehouse", "notifications")


@dataclass(frozen=True)
class Wanted:
    """An order, as its customer sends it."""

    key: str
    customer: str
    sku: str
    quantity: int


class Shop:
    """The processes of the shop."""

    def __init__(self, folder: Path, business: Business) -> None:
        self.folder = folder
        self.business = business
        self.port = free_port()
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "DATABASE_URL": business.url,
        }

    @property
    def log(self) -> Path:
        return self.folder / "shop.log"

    @property
    def _commands(self) -> dict[str, Sequence[str]]:
        port = ("--port", str(self.port))
        consumers = {one: ("postroad", "run", f"examples.shop.{one}:road") for one in CONSUMERS}
        return {
            "everything": ("examples.shop", *port),
            "api": ("uvicorn", "examples.shop.api:app", *port),
            **consumers,
        }

    def start(self, name: str) -> None:
        with self.log.open("ab") as log:
            self._running[name] = subprocess.Popen(
                [*PYTHON, *self._commands[name]],
                cwd=self.folder,
                env=self._environment,
                stdout=log,
                stderr=log,
            )

    def kill(self, name: str) -> None:
        process = self._running[name]
        assert process.poll() is None, f"{name} had ended: {self.log.read_text()}"
        process.kill()
        process.wait()

    def stop(self) -> None:
        """Stop what runs as a process manager does, and let nothing be left over."""
        for process in self._running.values():
            process.send_signal(signal.SIGTERM)
        stuck = [name for name, process in self._running.items() if not _has_ended(process)]
        codes = {name: process.returncode for name, process in self._running.items()}
        assert not stuck, f"{stuck} did not stop: {self.log.read_text()}"
        # uvicorn ends by the signal that it was sent, once it has shut down.
        assert all(code in (0, -signal.SIGTERM) for code in codes.values()), self.log.read_text()

    def run(self, *command: str) -> str:
        done = subprocess.run(
            [*PYTHON, *command],
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def postroad(self, *words: str) -> Any:
        """What a command says of the shop's road, as JSON."""
        return json.loads(self.run("postroad", *words, "examples.shop.consumers:road", "--json"))

    def mails(self) -> list[dict[str, Any]]:
        file = self.folder / "mails.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()]


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether it ends by itself; it has ended in any case."""
    try:
        process.wait(timeout=40)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False
    return True


@contextmanager
def running(shop: Shop, *names: str) -> Iterator[None]:
    try:
        for name in names:
            shop.start(name)
        yield
    finally:
        shop.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def business(request: pytest.FixtureRequest, tmp_path: Path) -> Business:
    if request.param == "sqlite":
        return File(tmp_path / "shop.db")
    return Served(request.getfixturevalue("postgresql_database"))


@pytest.fixture
def shop(business: Business, tmp_path: Path) -> Shop:
    return Shop(tmp_path, business)


# ------------------------------------------------------------ customers


def wishes() -> list[Wanted]:
    """Fifty orders, among them more teapots than there are, and one whose mail never goes out."""
    customers = [LOST, *random.choices(["ada@shop.example", "bob@shop.example"], k=ORDERS - 1)]
    skus = [*["teapot"] * 10, *random.choices(["tea", "coffee"], k=ORDERS - 10)]
    random.shuffle(skus)
    return [
        Wanted(f'"wish-{n}"', customer, sku, random.randint(1, 3))
        for n, (customer, sku) in enumerate(zip(customers, skus, strict=True))
    ]


class Customers:
    """They send each order twice at once, and again until it is confirmed."""

    def __init__(self, shop: Shop) -> None:
        self.answers: dict[str, set[int]] = {}
        self.given = 0
        self.failed = 0
        self._url = f"http://127.0.0.1:{shop.port}"

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[httpx.AsyncClient]:
        limits = httpx.Limits(max_connections=40)
        async with httpx.AsyncClient(base_url=self._url, timeout=20, limits=limits) as client:
            yield client

    async def order(self, wanted: list[Wanted]) -> None:
        async with self._client() as client, asyncio.TaskGroup() as group:
            for one in wanted:
                for _ in range(COPIES):
                    group.create_task(self._order(client, one))

    async def _order(self, client: httpx.AsyncClient, wanted: Wanted) -> None:
        headers = {"X-Customer": wanted.customer, "Idempotency-Key": wanted.key}
        body = {"sku": wanted.sku, "quantity": wanted.quantity}
        while True:
            try:
                response = await client.post("/orders", json=body, headers=headers)
            except httpx.TransportError:
                await asyncio.sleep(0.1)  # it is not there, or was killed
                continue
            if response.status_code == 201:
                self.answers.setdefault(wanted.key, set()).add(response.json()["id"])
                self.given += 1
                return
            assert response.status_code == 409 or response.status_code >= 500, response.text
            self.failed += response.status_code >= 500
            await asyncio.sleep(0.1)

    async def told(self, wanted: list[Wanted]) -> Counter[str]:
        """What they are told of their orders, when there is no more to come."""
        ends: Counter[str] = Counter()
        async with self._client() as client:
            for one in wanted:
                [id_] = self.answers[one.key]
                while (status := await self._status(client, one, id_)) in UNDECIDED:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
                ends[status] += 1
        return ends

    async def _status(self, client: httpx.AsyncClient, wanted: Wanted, id_: int) -> str:
        headers = {"X-Customer": wanted.customer}
        order = (await client.get(f"/orders/{id_}", headers=headers)).raise_for_status().json()
        assert (order["sku"], order["quantity"]) == (wanted.sku, wanted.quantity)
        return str(order["status"])


async def until(condition: Callable[[], bool]) -> None:
    """The test's own deadline is around it."""
    while not await asyncio.to_thread(condition):  # noqa: ASYNC110 - others make it true
        await asyncio.sleep(0.02)


# ------------------------------------------------------------ what has to hold


def check_the_books(shop: Shop, wanted: list[Wanted], ids: dict[str, int]) -> None:
    query = shop.business.query
    assert number(shop.business, "SELECT count(*) FROM orders") == ORDERS
    placed = {str(id_) for id_ in ids.values()}
    assert {row[0] for row in query("SELECT order_id FROM payments")} == placed
    assert number(shop.business, "SELECT count(*) FROM payments") == ORDERS
    assert {row[0] for row in query("SELECT order_id FROM reservations")} == placed
    assert number(shop.business, "SELECT count(*) FROM reservations") == ORDERS
    assert query(
        "SELECT count(*) FROM payments p JOIN orders o ON o.id = p.order_id"
        " JOIN reservations r ON r.order_id = o.id WHERE p.cents = o.cents"
        " AND (p.status = 'refunded') = (r.status = 'sold-out')"
    ) == [(str(ORDERS),)]


def check_the_stock(shop: Shop, wanted: list[Wanted]) -> None:
    asked = Counter[str]()
    for one in wanted:
        asked[one.sku] += one.quantity
    taken = "SELECT sku, sum(quantity) FROM reservations WHERE status = 'reserved' GROUP BY sku"
    reserved = {sku: int(pieces or 0) for sku, pieces in shop.business.query(taken)}
    shelves = shop.business.query("SELECT sku, reserved FROM stock WHERE reserved > 0")
    assert {sku: int(pieces or 0) for sku, pieces in shelves} == reserved
    assert (reserved["tea"], reserved["coffee"]) == (asked["tea"], asked["coffee"])
    # The rest of ten orders for five pieces is smaller than the smallest of the refused ones.
    refused = "SELECT min(quantity) FROM reservations WHERE status = 'sold-out' AND sku = 'teapot'"
    assert 5 - number(shop.business, refused) < reserved["teapot"] <= 5


def check_the_mails(shop: Shop, ids: dict[str, int], lost: int, kills: int) -> None:
    mails = shop.mails()
    by_order = {mail["order_id"]: mail["key"] for mail in mails}
    assert set(by_order) == set(ids.values()) - {lost}
    # A mail may go out twice where a process died, and has the same key then.
    assert len({mail["key"] for mail in mails}) == len(by_order)
    assert len(mails) - len(by_order) <= 16 * 2 * kills
    [dead] = shop.postroad("dead-letters", "list")
    assert dead["group"] == "notifications"
    assert dead["attempts"] == 5
    assert "503 from the mail provider" in json.dumps(dead)


async def check(shop: Shop, wanted: list[Wanted], customers: Customers, kills: int) -> None:
    """Wait until all is done, and look into everything."""
    assert all(len(ids) == 1 for ids in customers.answers.values())
    ids = {key: id_ for key, [id_] in customers.answers.items()}
    assert len(set(ids.values())) == ORDERS
    ends = await customers.told(wanted)
    assert set(ends) == {"reserved", "refunded"}
    lost = ids[wanted[0].key]
    await until(lambda: len({mail["order_id"] for mail in shop.mails()}) == ORDERS - 1)
    await until(lambda: bool(shop.postroad("dead-letters", "list")))
    check_the_books(shop, wanted, ids)
    check_the_stock(shop, wanted)
    check_the_mails(shop, ids, lost, kills)
    assert shop.postroad("audit")["verdict"] == "balanced"


# ------------------------------------------------------------ the tests


async def test_one_process_is_killed_and_nothing_is_lost_or_done_twice(shop: Shop) -> None:
    wanted, customers = wishes(), Customers(shop)
    kill_after = random.randint(10, ORDERS)
    with running(shop, "everything"):
        async with asyncio.timeout(90):
            ordering = asyncio.create_task(customers.order(wanted))
            await until(lambda: customers.given >= kill_after or ordering.done())
            shop.kill("everything")
            assert len(customers.answers) < ORDERS, "it was not in the middle"
            shop.start("everything")
            await ordering
            await check(shop, wanted, customers, kills=1)
    assert not customers.failed


async def test_processes_of_their_own_are_killed_one_after_the_other(shop: Shop) -> None:
    wanted, customers = wishes(), Customers(shop)
    shop.run("examples.shop.setup")
    with running(shop, "api", *CONSUMERS):
        async with asyncio.timeout(100):
            ordering = asyncio.create_task(customers.order(wanted))
            for table, name in zip(("orders", "payments", "reservations"), CONSUMERS, strict=True):
                some = f"SELECT count(*) FROM {table}"
                await until(lambda some=some: number(shop.business, some) >= 5)  # type: ignore[misc]
                shop.kill(name)
                shop.start(name)
            await ordering
            await check(shop, wanted, customers, kills=len(CONSUMERS))
    assert not customers.failed


@pytest.mark.needs_server("postgresql")
async def test_the_database_is_killed_under_it(start_server: StartServer, tmp_path: Path) -> None:
    server: Instance = await asyncio.to_thread(start_server, "postgresql")
    shop = Shop(tmp_path, Served(Database.make(postgresql.SERVICE, server.url)))
    wanted, customers = wishes(), Customers(shop)
    with running(shop, "everything"):
        async with asyncio.timeout(90):
            ordering = asyncio.create_task(customers.order(wanted))
            await until(lambda: customers.given >= 10 or ordering.done())
            await asyncio.to_thread(server.kill)
            assert len(customers.answers) < ORDERS, "it was not in the middle"
            await asyncio.to_thread(server.start)
            await ordering
            await check(shop, wanted, customers, kills=1)


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
async def test_the_session_of_its_readme_is_what_you_see(tmp_path: Path) -> None:
    text = (ROOT / "examples/shop/README.md").read_text().replace("\\\n", "")
    session = re.findall(r"^\$ (curl .*)\n(.+)$", text, re.MULTILINE)
    assert len(session) == 4
    shop = Shop(tmp_path, File(tmp_path / "shop.db"))

    def answers(command: str, said: str) -> bool:
        command = command.replace("localhost:8000", f"127.0.0.1:{shop.port}")
        done = subprocess.run(
            command, shell=True, timeout=10, capture_output=True, text=True, check=False
        )
        return done.stdout.strip() == said

    with running(shop, "everything"):
        async with asyncio.timeout(60):
            for command, said in session:  # the server may not be up yet, nor payment be through
                await until(lambda command=command, said=said: answers(command, said))  # type: ignore[misc]
