"""Several processes on one file, some of them killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from tests.integration.sqlite_road import (
    PLAIN,
    SOON,
    ack,
    balance,
    group,
    join,
    publish,
    road,
    take,
    until,
)

WORKER = """
import asyncio, sys, time
from datetime import timedelta
from pathlib import Path
from tests.integration.sqlite_road import *

async def main(folder, log, pace):
    subscription = group()
    async with road(Path(folder)) as transport:
        consumer = await join(transport, subscription, lease=timedelta(seconds=1))
        with open(log, "a", buffering=1) as out:
            print("ready", file=out)
            while True:
                held = await take(consumer, 10, timedelta(seconds=1))
                for delivery in held:
                    await asyncio.sleep(float(pace))
                if held and await ack(consumer, held) == {"done"}:
                    print(*ns(held), sep="\\n", file=out)

asyncio.run(main(*sys.argv[1:]))
"""
PUBLISHER = """
import asyncio, sys
from pathlib import Path
from tests.integration.sqlite_road import *

async def main(folder, log, start):
    async with road(Path(folder)) as transport:
        with open(log, "a", buffering=1) as out:
            n = int(start)
            while True:
                await publish(transport, [n])
                print(n, file=out)
                n += 1

asyncio.run(main(*sys.argv[1:]))
"""


def start(code: str, *args: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", code, *map(str, args)])


def numbers(log: Path) -> list[int]:
    """The whole lines of a log that its writer may have been killed over."""
    lines = log.read_text().split("\n")[:-1] if log.exists() else []
    return [int(line) for line in lines if line.isdigit()]


async def wait_for(log: Path, count: int) -> None:
    end = time.monotonic() + 30
    while len(numbers(log)) < count:
        assert time.monotonic() < end, f"{log.name} did not get to {count}"
        await asyncio.sleep(0.02)


async def test_competing_processes_share_without_repeating(tmp_path: Path) -> None:
    async with road(tmp_path, group()) as transport:
        await publish(transport, range(3000))
        logs = [tmp_path / f"worker{i}" for i in range(3)]
        workers = [start(WORKER, tmp_path, log, 0) for log in logs]
        try:

            async def all_settled() -> bool:
                return (await transport.lag(PLAIN.name, "g")).messages == 0

            await until(all_settled)
            account = await transport.account(PLAIN.name, "g")
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
        assert account.outcomes == {"handled": 3000}
        assert (account.duplicates, balance(account)) == (0, 0)
        done = Counter(number for log in logs for number in numbers(log))
        assert len(done) >= 3000 - 3 * 10
        assert set(done.values()) == {1}


async def test_killed_workers_lose_nothing(tmp_path: Path) -> None:
    """SIGKILL in the middle of batches, again and again: all is handled, what is repeated is
    counted, and nothing that was settled comes again."""
    total = 300
    async with road(tmp_path, group()) as transport:
        await publish(transport, range(total))
        logs = []
        for kill in range(4):
            log = tmp_path / f"worker{kill}"
            worker = start(WORKER, tmp_path, log, 0.003)
            await wait_for(log, 15)
            worker.send_signal(signal.SIGKILL)
            worker.wait()
            logs.append(log)
        account = await transport.account(PLAIN.name, "g")
        assert balance(account) == 0
        assert account.leased > 0
        consumer = await join(transport, group())
        rest: list[int] = []
        while held := await take(consumer, wait=SOON / 2):
            rest += [PLAIN.decode(delivery.message.data).n for delivery in held]
            await ack(consumer, held)
        account = await transport.account(PLAIN.name, "g")
        assert account.outcomes == {"handled": total}
        assert account.duplicates > 0
        settled = [number for log in logs for number in numbers(log)]
        assert not set(settled) & set(rest)
        assert set(range(total)) >= set(settled) | set(rest)
        assert len(set(settled) | set(rest)) >= total - 4 * 10


async def test_killed_publishers_lose_nothing_acknowledged(tmp_path: Path) -> None:
    async with road(tmp_path, group()) as transport:
        acknowledged: list[int] = []
        for kill in range(4):
            log = tmp_path / f"publisher{kill}"
            publisher = start(PUBLISHER, tmp_path, log, kill * 1_000_000)
            await wait_for(log, 20)
            os.kill(publisher.pid, signal.SIGKILL)
            publisher.wait()
            acknowledged += numbers(log)
        found = await transport.browse(PLAIN.name, "earliest", 1_000_000)
        kept = Counter(PLAIN.decode(delivery.message.data).n for delivery in found)
        assert set(acknowledged) <= set(kept)
        assert set(kept.values()) == {1}
        assert [delivery.offset for delivery in found] == list(range(len(found)))
        assert balance(await transport.account(PLAIN.name, "g")) == 0


async def test_a_stopped_process_cannot_settle_what_went_to_another(tmp_path: Path) -> None:
    async with road(tmp_path, group()) as transport:
        await publish(transport, range(10))
        log = tmp_path / "worker"
        worker = start(WORKER, tmp_path, log, 0.2)
        try:

            async def some_leased() -> bool:
                return (await transport.account(PLAIN.name, "g")).leased > 0

            await until(some_leased)
            worker.send_signal(signal.SIGSTOP)
            consumer = await join(transport, group())
            held = await take(consumer, wait=SOON)
            assert len(held) == 10
            worker.send_signal(signal.SIGCONT)
            await asyncio.sleep(2.5)
            assert numbers(log) == []
            assert await ack(consumer, held) == {"done"}
        finally:
            worker.kill()
            worker.wait()
        account = await transport.account(PLAIN.name, "g")
        assert (account.outcomes, account.duplicates) == ({"handled": 10}, 10)
