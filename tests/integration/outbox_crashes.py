"""A business and relays as processes that are killed with SIGKILL, and what must hold afterwards.

As a program: `python -m tests.integration.outbox_crashes write|relay …`.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from postroad.core.message import Message
from postroad.core.topic import Topic
from postroad.storage.database import Database
from postroad.transports.sql import SqlTransport
from tests.integration.outbox_world import (
    ORDERS,
    QUICK,
    TOPICS,
    Business,
    Order,
    connect,
    query,
    run,
)

WRITER_STEPS = ("begin", "insert", "commit")
"""The writer dies right after this."""
RELAY_STEPS = ("read", "publish", "confirm", "mark", "find", "delete")
"""The relay dies right after this; `find` is between marking and deleting."""
BATCH = 10
ROLLED_BACK = 1_000_000
"""Numbers of orders from here on belong to transactions that were rolled back."""
SETTINGS = replace(
    QUICK,
    batch=BATCH,
    largest=BATCH,
    retention=timedelta(milliseconds=1),
    cleanup=timedelta(milliseconds=20),
)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# ------------------------------------------------------------ the processes


def write(url: str, step: str, first: int, count: int, at: int) -> None:
    """Transactions of one or two orders each, every third rolled back; dies at the `at`th after a
    step. Prints the number of each order that was committed for certain."""
    business = Business(url)
    connection = connect(url)
    for turn in range(count):
        numbers = [first + 2 * turn, first + 2 * turn + 1]
        undone = turn % 3 == 2
        dying = turn == at
        run(connection, "SELECT count(*) FROM orders")
        if step == "begin" and dying:
            die()
        for number in numbers:
            told = number + ROLLED_BACK if undone else number
            customer = f"customer {turn % 4}"
            run(connection, "INSERT INTO orders VALUES (%s, %s)", (told, customer))
            business.outbox.add(connection, ORDERS, Order(told, customer))
        if step == "insert" and dying:
            die()
        if undone:
            connection.rollback()
        else:
            connection.commit()
        if step == "commit" and dying:
            die()
    connection.close()


class Dying:
    """A database whose user dies after the nth of some step."""

    def __init__(self, database: Database, step: str, at: int) -> None:
        self._database = database
        self._step = step
        self._at = at

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    def count(self, step: str) -> None:
        """This step was done."""
        if step == self._step:
            self._at -= 1
            if self._at < 0:
                die()

    def write(self, operation: Callable[..., Any], **more: Any) -> asyncio.Future[Any]:
        name = getattr(operation, "func", operation).__name__
        if name == "mark":
            self.count("confirm")
        if name == "delete":
            self.count("find")
        future = self._database.write(operation, **more)
        if name in ("mark", "delete"):
            future.add_done_callback(lambda _: self.count(name))
        return future


async def relay(url: str, target: str, step: str, at: int) -> None:
    """A relay that dies at the nth of a step; without a step it ends when nothing waits."""
    business = Business(url)
    transport = SqlTransport(target)
    await transport.open([ORDERS], [])
    made: list[Any] = []
    opened = await Database.open(business.place, lambda topics: made[0].wake(topics))
    database = Dying(opened, step, at)

    class Road:
        async def publish(self, messages: Sequence[tuple[Topic[Any], Message]]) -> object:
            database.count("read")
            publishing = asyncio.create_task(transport.publish(messages))
            if step == "publish":
                await asyncio.sleep(random.uniform(0, 0.004))
                database.count("publish")
            return await publishing

    from postroad.delivery.outbox import Relay

    made.append(Relay(database, Road().publish, TOPICS, settings=SETTINGS))  # type: ignore[arg-type]
    if step == "":
        await made[0].drain()
    else:
        await made[0].run()
    await opened.close()
    await transport.close()


# ------------------------------------------------------------ what must hold


@dataclass
class Evidence:
    """What there was, and what arrived."""

    committed: dict[str, list[int]]
    arrived: dict[str, list[int]]
    kills: int = 0
    duplicates: int = 0
    wrong: list[str] = field(default_factory=list)

    def judged(self, most: int) -> Evidence:
        """With at most so many duplicates."""
        first: dict[str, list[int]] = defaultdict(list)
        for customer, numbers in self.arrived.items():
            first[customer] = list(dict.fromkeys(numbers))
            self.duplicates += len(numbers) - len(first[customer])
        for customer in {*self.committed, *first}:
            wanted, found = self.committed.get(customer, []), first[customer]
            if lost := set(wanted) - set(found):
                self.wrong.append(f"{customer}: lost {sorted(lost)[:5]}")
            if made_up := set(found) - set(wanted):
                self.wrong.append(f"{customer}: never committed {sorted(made_up)[:5]}")
            if not self.wrong and found != wanted:
                self.wrong.append(f"{customer}: {found} instead of {wanted}")
        if self.duplicates > most:
            self.wrong.append(f"{self.duplicates} duplicates, documented are up to {most}")
        return self


class Crew:
    """The processes around one business database."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.target = f"sqlite:///{folder}/target.db"
        self.kills = 0
        self.next = 0
        Business(url)
        query(url, "CREATE TABLE orders (number BIGINT PRIMARY KEY, customer VARCHAR(100))")

    def start(self, *words: object) -> subprocess.Popen[bytes]:
        """Start one."""
        program = [sys.executable, "-m", "tests.integration.outbox_crashes"]
        return subprocess.Popen([*program, *map(str, words)], stderr=subprocess.PIPE)

    def writer(self, step: str, turns: int, at: int) -> subprocess.Popen[bytes]:
        """A writer of the next numbers."""
        first, self.next = self.next, self.next + 2 * turns
        return self.start("write", self.url, step, first, turns, at)

    def relay(self, step: str, at: int) -> subprocess.Popen[bytes]:
        """A relay."""
        return self.start("relay", self.url, self.target, step, at)

    def dies(self, process: subprocess.Popen[bytes]) -> None:
        """It has to kill itself."""
        _, err = process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL, (process.args, err.decode()[-2000:])
        self.kills += 1

    def ends(self, process: subprocess.Popen[bytes]) -> None:
        """It has to end well."""
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, (process.args, err.decode()[-2000:])

    async def drain(self) -> None:
        """What is left, by a relay that nobody kills. The leases of the dead have to end first."""
        deadline = time.monotonic() + 60
        while query(
            self.url, "SELECT count(*) FROM postroad_outbox WHERE processed_at IS NULL"
        ) != [(0,)]:
            assert time.monotonic() < deadline
            await asyncio.to_thread(lambda: self.ends(self.relay("", 0)))

    async def evidence(self, kills_of_relays: int) -> Evidence:
        """What there is after everything."""
        committed: dict[str, list[int]] = defaultdict(list)
        for number, customer in query(self.url, "SELECT number, customer FROM orders ORDER BY 1"):
            committed[customer].append(number)
        arrived: dict[str, list[int]] = defaultdict(list)
        transport = SqlTransport(self.target)
        await transport.open([ORDERS], [])
        found = await transport.browse(ORDERS.name, "earliest", 1_000_000)
        await transport.close()
        for delivery in found:
            order = ORDERS.decode(delivery.message.data)
            arrived[order.customer].append(order.number)
        evidence = Evidence(committed, arrived, self.kills)
        return evidence.judged(2 * BATCH * kills_of_relays)


def main(words: Sequence[str]) -> None:
    """The program."""
    if words[0] == "write":
        write(words[1], words[2], *map(int, words[3:]))
    else:
        asyncio.run(relay(words[1], words[2], words[3], int(words[4])))


if __name__ == "__main__":
    main(sys.argv[1:])
