"""Leases and windows in virtual time."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from postroad.errors import (
    ClosedError,
    InvalidURLError,
    KeyInProgressError,
    KeyLostError,
    KeyReusedError,
    StorageError,
)
from postroad.idempotency import Keys, records
from postroad.testing.clock import VirtualClock

LEASE, WINDOW = timedelta(seconds=30), timedelta(hours=24)
MOMENT = timedelta(microseconds=1)


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/shop.db"


@pytest.fixture
async def keys(url: str, clock: VirtualClock) -> AsyncIterator[Keys]:
    async with Keys(url, lease=LEASE, window=WINDOW, clock=clock) as keys:
        yield keys


async def used(keys: Keys, payload: bytes = b"", result: bytes = b"") -> bool:
    """Claim, store, and tell whether it was done before."""
    async with keys.claim("charges", "key", payload) as claim:
        if claim.done:
            return True
        await claim.store(result)
    return False


async def test_a_result_is_kept_for_the_window(keys: Keys, clock: VirtualClock) -> None:
    assert not await used(keys)
    await clock.advance(WINDOW - MOMENT)
    assert await used(keys)
    assert await keys.purge() == 0
    await clock.advance(MOMENT)
    assert not await used(keys)
    await clock.advance(WINDOW)
    assert await keys.purge() == 1


async def test_the_window_begins_when_the_result_is_there(keys: Keys, clock: VirtualClock) -> None:
    async with keys.claim("charges", "key"):
        await clock.advance(timedelta(hours=2))
    await clock.advance(WINDOW - MOMENT)
    assert await used(keys)


async def test_a_crash_frees_the_key_after_the_lease_and_is_counted(
    keys: Keys, clock: VirtualClock
) -> None:
    for crashes in range(3):
        claim = keys.claim("charges", "key")
        await claim.__aenter__()
        assert claim.earlier == crashes
        keys._held.clear()  # a dead process renews nothing
        await clock.advance(LEASE - MOMENT)
        with pytest.raises(KeyInProgressError) as caught:
            await used(keys)
        assert caught.value.retry_after == pytest.approx(1e-6)
        assert caught.value.transient
        await clock.advance(MOMENT)
    assert not await used(keys)
    async with keys.claim("charges", "key") as claim:
        assert claim.done


async def test_a_crash_does_not_give_the_key_to_another_payload(
    keys: Keys, clock: VirtualClock
) -> None:
    claim = keys.claim("charges", "key", b"10 euros")
    await claim.__aenter__()
    keys._held.clear()
    await clock.advance(LEASE)
    with pytest.raises(KeyReusedError):
        await used(keys, b"99 euros")
    assert not await used(keys, b"10 euros")
    with pytest.raises(KeyLostError):
        await claim.store()


async def test_renewals_are_one_write_for_all_that_is_held(keys: Keys, clock: VirtualClock) -> None:
    claims = [keys.claim("charges", f"key-{n}") for n in range(20)]
    for claim in claims:
        await claim.__aenter__()
    assert keys._database is not None
    before = keys._database.commits
    await clock.advance(LEASE / 3)
    await until(lambda: keys._database.commits > before)
    assert keys._database.commits == before + 1
    for claim in claims:
        await claim.store()


async def test_no_renewal_is_left_when_nothing_is_held(keys: Keys, clock: VirtualClock) -> None:
    await used(keys)
    await clock.advance(LEASE)
    await until(lambda: keys._renewing is None or keys._renewing.done())
    assert clock.sleepers == 0


async def test_expired_records_go_while_claims_come_in(
    url: str, keys: Keys, clock: VirtualClock
) -> None:
    await used(keys)
    await clock.advance(WINDOW)
    async with keys.claim("charges", "another"):
        await until(lambda: count(url) == 1)


async def test_a_claim_ends_once(keys: Keys) -> None:
    async with keys.claim("charges", "key") as claim:
        await claim.store(b"1")
        for call in (claim.store(b"2"), claim.release()):
            with pytest.raises(ClosedError, match="ended"):
                await call
    async with keys.claim("charges", "key") as again:
        assert again.result == b"1"
        with pytest.raises(ClosedError, match="ended"):
            await again.release()


async def test_what_is_stored_stays_though_the_block_fails_afterwards(keys: Keys) -> None:
    with suppress(ZeroDivisionError):
        async with keys.claim("charges", "key") as claim:
            await claim.store(b"1")
            raise ZeroDivisionError
    assert await used(keys)


async def test_a_claim_that_is_cancelled_while_it_enters_holds_nothing(
    keys: Keys, clock: VirtualClock
) -> None:
    await used(keys, b"warm")
    entering = asyncio.create_task(keys.claim("refunds", "key").__aenter__())
    await asyncio.sleep(0)
    entering.cancel()
    await asyncio.gather(entering, return_exceptions=True)
    assert entering.cancelled()
    async with asyncio.timeout(10):
        while True:
            try:
                async with keys.claim("refunds", "key") as claim:
                    assert claim.earlier == 0
                return
            except KeyInProgressError:
                await asyncio.sleep(0.001)


async def test_an_error_of_the_block_is_not_hidden_by_one_of_the_database(
    url: str, keys: Keys
) -> None:
    async def block() -> None:
        async with keys.claim("charges", "key"):
            with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
                connection.execute("DROP TABLE postroad_keys")
            connection.close()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await block()
    with pytest.raises(StorageError):
        await used(keys)


async def test_keys_are_closed_and_opened_again(url: str) -> None:
    keys = Keys(url)
    assert not await used(keys)
    await keys.close()
    await keys.close()
    assert await used(keys)
    await keys.close()


def test_scopes_and_keys_do_not_run_into_each_other() -> None:
    pairs = [("a", "bc"), ("ab", "c"), ("", "abc"), ("abc", ""), ("a", "bc "), ("\ud800", "")]
    assert len({records.identity(*pair) for pair in pairs}) == len(pairs)
    assert records.readable("a\0\ud800" + "x" * 300).isprintable()
    assert len(records.readable("x" * 300)) == 255


@pytest.mark.parametrize("wrong", [{"lease": timedelta(0)}, {"window": timedelta(0)}])
def test_what_cannot_work_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="longer than nothing"):
        Keys("sqlite:///shop.db", **wrong)
    with pytest.raises(InvalidURLError):
        Keys("redis://localhost")


def count(url: str) -> int:
    connection = sqlite3.connect(url.removeprefix("sqlite:///"))
    (number,) = connection.execute("SELECT count(*) FROM postroad_keys").fetchone()
    connection.close()
    return int(number)


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - it changes in a thread
            await asyncio.sleep(0.001)
