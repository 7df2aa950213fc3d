"""Idempotency keys on each database: a hundred duplicates at once, and processes that die."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request

from postroad.errors import KeyInProgressError, KeyLostError, KeyReusedError
from postroad.idempotency import IdempotencyMiddleware, Keys
from tests.integration.idempotency_databases import DUPLICATES, Kind, prepared
from tests.services.harness.sql import Database

PROCESSES = 4
"""Keys of their own, as processes of their own would have."""


class Suite:
    """What holds on every database."""

    @pytest.fixture
    def kind(self) -> Kind:
        raise NotImplementedError  # a base class: each database below names itself

    async def test_a_command_runs_once_and_its_result_is_given_again(self, kind: Kind) -> None:
        effects: list[int] = []

        async def command(keys: Keys, number: int) -> bytes:
            async with keys.claim("charges", "key-1", b"10 euros") as claim:
                if not claim.done:
                    effects.append(number)
                    await asyncio.sleep(0.01)
                    await claim.store(b"receipt %d" % number)
                return claim.result

        async with several(kind) as all_keys:
            told = await asyncio.gather(
                *[patient(command, all_keys[n % PROCESSES], n) for n in range(DUPLICATES)]
            )
        assert len(effects) == 1
        assert set(told) == {b"receipt %d" % effects[0]}

    async def test_while_it_runs_the_others_are_told_so(self, kind: Kind) -> None:
        async def attempt(keys: Keys) -> str:
            try:
                async with keys.claim("charges", "key-1"):
                    await finish.wait()
            except KeyInProgressError as error:
                refused.append(error.retry_after)
                if len(refused) == DUPLICATES - 1:
                    finish.set()
                return "refused"
            return "did"

        finish, refused = asyncio.Event(), list[float]()
        async with several(kind) as all_keys:
            claims = [attempt(all_keys[n % PROCESSES]) for n in range(DUPLICATES)]
            async with asyncio.timeout(60):
                told = Counter(await asyncio.gather(*claims))
        assert told == {"did": 1, "refused": DUPLICATES - 1}
        assert all(0 < seconds < 40 for seconds in refused), "a lease of 30 s, or a little more"

    async def test_another_payload_under_the_same_key_is_refused(self, kind: Kind) -> None:
        async with Keys(kind.url) as keys:
            async with keys.claim("charges", "key-1", b"10 euros") as claim:
                with pytest.raises(KeyReusedError, match="another payload"):
                    await enter(keys.claim("charges", "key-1", b"99 euros"))
                await claim.store()
            with pytest.raises(KeyReusedError, match="another payload"):
                await enter(keys.claim("charges", "key-1", b"99 euros"))
            assert not await enter(keys.claim("refunds", "key-1", b"99 euros"))
            assert not await enter(keys.claim("charges", "key-1 ", b"99 euros"))
            assert await enter(keys.claim("charges", "key-1", b"10 euros"))

    async def test_what_fails_or_is_cancelled_frees_the_key(self, kind: Kind) -> None:
        async with Keys(kind.url) as keys:
            with suppress(ZeroDivisionError):
                async with keys.claim("charges", "key-1"):
                    raise ZeroDivisionError
            with suppress(TimeoutError):
                async with asyncio.timeout(0.05), keys.claim("charges", "key-1"):
                    await asyncio.Event().wait()
            async with keys.claim("charges", "key-1") as claim:
                assert not claim.done
                assert claim.earlier == 0, "they ended, they did not crash"
                await claim.release()
            assert not await enter(keys.claim("charges", "key-1"))

    async def test_a_lease_is_renewed_while_the_block_runs(self, kind: Kind) -> None:
        lease = timedelta(seconds=0.6)
        async with Keys(kind.url, lease=lease) as keys, Keys(kind.url, lease=lease) as others:
            async with keys.claim("charges", "key-1") as claim:
                end = time.monotonic() + 3 * lease.total_seconds()
                while time.monotonic() < end:
                    with pytest.raises(KeyInProgressError):
                        await enter(others.claim("charges", "key-1"))
                    await asyncio.sleep(0.02)
                await claim.store(b"done")
            async with others.claim("charges", "key-1") as again:
                assert again.result == b"done"

    async def test_a_process_that_is_killed_leaves_the_key_to_the_next_after_its_lease(
        self, kind: Kind
    ) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _HOLDS, kind.url, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), 60) == b"holds\n"
        async with Keys(kind.url) as keys:
            with pytest.raises(KeyInProgressError):
                await enter(keys.claim("charges", "key-1", b"10 euros"))
            process.send_signal(signal.SIGKILL)
            await process.wait()
            async with asyncio.timeout(30):
                while True:
                    with suppress(KeyInProgressError):
                        async with keys.claim("charges", "key-1", b"10 euros") as claim:
                            assert claim.earlier == 1
                            await claim.store(b"receipt")
                        break
                    await asyncio.sleep(0.05)
            assert await enter(keys.claim("charges", "key-1", b"10 euros"))

    async def test_what_a_crash_left_is_taken_over_by_one(self, kind: Kind) -> None:
        rounds = 25
        held: list[str] = []

        async def attempt(keys: Keys, key: str) -> None:
            with suppress(KeyInProgressError):
                async with keys.claim("charges", key) as claim:
                    if not claim.done:
                        assert claim.earlier == 1
                        held.append(key)
                        await claim.store()

        async with several(kind) as all_keys:
            for number in range(rounds):
                await all_keys[0].claim("charges", f"key-{number}").__aenter__()
            all_keys[0]._held.clear()  # it died
            kind.script("UPDATE postroad_keys SET lease_until_us = 1")
            for number in range(rounds):
                duplicates = [attempt(keys, f"key-{number}") for keys in all_keys * 3]
                await asyncio.gather(*duplicates)
        assert held == [f"key-{number}" for number in range(rounds)]

    async def test_a_stalled_process_cannot_store_over_the_one_that_took_over(
        self, kind: Kind
    ) -> None:
        """Its clock stands still as it does: it renews nothing."""
        async with (
            Keys(kind.url, lease=timedelta(seconds=0.3)) as stalled,
            Keys(kind.url) as keys,
        ):
            claim = stalled.claim("charges", "key-1")
            await claim.__aenter__()
            stalled._held.clear()  # as if its loop were blocked
            async with asyncio.timeout(30):
                while True:
                    with suppress(KeyInProgressError):
                        async with keys.claim("charges", "key-1") as taken:
                            with pytest.raises(KeyLostError, match="past its lease"):
                                await claim.store(b"late")
                            await taken.store(b"mine")
                        break
                    await asyncio.sleep(0.02)
            async with keys.claim("charges", "key-1") as again:
                assert again.result == b"mine"

    async def test_a_result_can_commit_with_the_callers_transaction(self, kind: Kind) -> None:
        kind.script("CREATE TABLE payments (id INTEGER PRIMARY KEY)")
        async with Keys(kind.url) as keys:
            with suppress(ZeroDivisionError):
                async with keys.claim("charges", "key-1") as claim:
                    with kind.transaction() as connection:
                        kind.execute(connection, "INSERT INTO payments VALUES (1)")
                        claim.store_in(connection, b"never")
                        raise ZeroDivisionError
            async with keys.claim("charges", "key-1") as claim:
                assert not claim.done
                with kind.transaction() as connection:
                    kind.execute(connection, "INSERT INTO payments VALUES (1)")
                    claim.store_in(connection, b"receipt")
            async with keys.claim("charges", "key-1") as claim:
                assert claim.result == b"receipt"
        assert kind.value("SELECT count(*) FROM payments") == 1

    async def test_a_duplicate_does_not_wait_for_the_transaction_that_keeps_the_result(
        self, kind: Kind
    ) -> None:
        async with Keys(kind.url) as keys, keys.claim("charges", "key-1") as claim:
            with kind.transaction() as connection:
                claim.store_in(connection, b"receipt")
                if kind.name != "sqlite":  # there one transaction keeps every other one waiting
                    async with asyncio.timeout(5):
                        with pytest.raises(KeyInProgressError):
                            await enter(keys.claim("charges", "key-1"))

    async def test_a_result_that_was_not_committed_inside_the_block_is_an_error(
        self, kind: Kind
    ) -> None:
        async with Keys(kind.url) as keys:
            connection = kind.connect()
            with pytest.raises(KeyLostError, match="committed inside"):
                async with keys.claim("charges", "key-1") as claim:
                    claim.store_in(connection, b"receipt")
            connection.rollback()
            connection.close()

    async def test_a_duplicate_after_the_window_runs_again_and_records_are_removed(
        self, kind: Kind
    ) -> None:
        async with Keys(kind.url) as keys:
            for number in range(5):
                async with keys.claim("charges", f"key-{number}"):
                    pass
            async with keys.claim("charges", "held"):
                kind.script("UPDATE postroad_keys SET expires_us = 1")
                assert not await enter(keys.claim("charges", "key-0", b"another payload"))
                assert [await keys.purge(3) for _ in range(3)] == [3, 1, 0]
                with pytest.raises(KeyInProgressError):
                    await enter(keys.claim("charges", "held"))

    async def test_a_hundred_requests_have_one_effect_and_one_response(self, kind: Kind) -> None:
        orders: list[bytes] = []
        app = FastAPI()

        @app.post("/orders", status_code=201)
        async def order(request: Request) -> dict[str, int]:
            orders.append(await request.body())
            await asyncio.sleep(0.01)
            return {"order": len(orders)}

        async with several(kind) as all_keys:
            clients = [
                httpx.AsyncClient(
                    transport=httpx.ASGITransport(IdempotencyMiddleware(app, keys, whose=nobody)),
                    base_url="http://shop",
                )
                for keys in all_keys
            ]
            headers = {"Idempotency-Key": '"8e03978e-40d5-43e8-bc93-6894a57f9324"'}

            async def send(number: int) -> httpx.Response:
                async with asyncio.timeout(60):
                    while True:
                        client = clients[number % PROCESSES]
                        response = await client.post("/orders", content=b"tea", headers=headers)
                        if response.status_code != 409:
                            return response
                        assert response.headers["retry-after"] == "1"
                        await asyncio.sleep(0.01)

            responses = await asyncio.gather(*[send(number) for number in range(DUPLICATES)])
            other = await clients[0].post("/orders", content=b"coffee", headers=headers)
        assert orders == [b"tea"]
        assert {(r.status_code, r.content) for r in responses} == {(201, b'{"order":1}')}
        replayed = Counter(r.headers.get("idempotent-replayed") for r in responses)
        assert replayed == {"true": DUPLICATES - 1, None: 1}
        assert other.status_code == 422


_HOLDS = """
import asyncio, sys
from datetime import timedelta
from postroad.idempotency import Keys

async def main():
    async with Keys(sys.argv[1], lease=timedelta(seconds=2)) as keys:
        async with keys.claim("charges", "key-1", b"10 euros"):
            print("holds", flush=True)
            await asyncio.Event().wait()

asyncio.run(main())
"""


def nobody(_: Any) -> str:
    return ""


class several:  # noqa: N801 - used as a function is
    """Keys of so many processes."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> list[Keys]:
        return [
            await self._stack.enter_async_context(Keys(self._kind.url)) for _ in range(PROCESSES)
        ]

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()


async def enter(claim: Any) -> bool:
    """Enter and leave; whether it was done before."""
    async with claim:
        was: bool = claim.done
    return was


async def patient(
    command: Callable[[Keys, int], Awaitable[bytes]], keys: Keys, number: int
) -> bytes:
    async with asyncio.timeout(60):
        while True:
            with suppress(KeyInProgressError):
                return await command(keys, number)
            await asyncio.sleep(0.01)


class TestSqlite(Suite):
    @pytest.fixture
    def kind(self, tmp_path: Path) -> Kind:
        return prepared(f"sqlite:///{tmp_path}/shop.db")


class TestPostgresql(Suite):
    @pytest.fixture
    def kind(self, postgresql_database: Database) -> Kind:
        return prepared(postgresql_database.url)


class TestMariadb(Suite):
    @pytest.fixture
    def kind(self, mariadb_database: Database) -> Kind:
        return prepared(mariadb_database.url)
