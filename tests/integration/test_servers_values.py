"""Values that a database server refuses, and values that it might take for the same."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import msgspec
import pytest

from postroad.core.delivery import Failure, Settlement
from postroad.core.message import Message
from postroad.core.transport import Plan
from postroad.errors import PublishError, StorageRefusedError
from postroad.transports.sql import SqlTransport
from tests.integration.servers_road import KINDS, ONE, collect, group, message, opened, publish
from tests.services.harness.sql import Database

SECRET = "the-secret-of-the-payload"


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest) -> Database:
    found: Database = request.getfixturevalue(f"{request.param}_database")
    return found


async def refusal(transport: SqlTransport, bad: Message) -> StorageRefusedError:
    """Publish a bad message in the middle of good ones, all at once: only the bad one fails."""
    good = [publish(transport, message(n)) for n in range(20)]
    calls = [*good[:10], publish(transport, bad), *good[10:]]
    async with asyncio.timeout(20):
        results = await asyncio.gather(*calls, return_exceptions=True)
    error = results.pop(10)
    assert [one for one in results if isinstance(one, BaseException)] == []
    assert isinstance(error, PublishError)
    assert list(error.failed) == [0]
    assert not error.unknown
    cause = error.failed[0]
    assert isinstance(cause, StorageRefusedError)
    assert SECRET not in f"{error} {cause}"
    return cause


async def test_a_nul_in_a_key_fails_alone(postgresql_database: Database) -> None:
    async with opened(postgresql_database.url) as transport:
        for bad in (message(1, key="a\0b"), message(1, id_="a\0b")):
            cause = await refusal(transport, bad)
            assert "0x00" in str(cause)
        many = [message(n, key="k") for n in range(50)]
        with pytest.raises(PublishError) as caught:
            await publish(transport, *many, message(1, key="a\0b"))
        assert sorted(caught.value.failed) == list(range(51))


async def test_a_nul_in_a_key_is_kept(mariadb_database: Database) -> None:
    async with opened(mariadb_database.url, group()) as transport:
        consumer = await transport.subscribe(group(), Plan())
        await publish(transport, message(1, key="a\0b"))
        (got,) = await collect(consumer, 1)
        assert got.message.key == "a\0b"


async def test_a_key_that_is_too_long_fails_alone(mariadb_database: Database) -> None:
    async with opened(mariadb_database.url) as transport:
        cause = await refusal(transport, message(1, key=SECRET + "k" * 600))
        assert "message_key" in str(cause)
        cause = await refusal(transport, message(1, id_=SECRET + "k" * 600))
        assert "too long" in str(cause)


async def test_a_payload_above_the_packet_limit_fails_alone(mariadb_database: Database) -> None:
    limit = int(mariadb_database.query("SELECT @@max_allowed_packet")[0][0] or 0)
    async with opened(mariadb_database.url, group()) as transport:
        large = SECRET.encode() + bytes(limit)
        cause = await refusal(transport, message(1, data=large))
        assert "max_allowed_packet" in str(cause)
        consumer = await transport.subscribe(group(), Plan())
        assert len(await collect(consumer, 20)) == 20


async def test_a_payload_below_the_packet_limit_arrives(mariadb_database: Database) -> None:
    """Whatever bytes it has: some need an escape on the way."""
    limit = int(mariadb_database.query("SELECT @@max_allowed_packet")[0][0] or 0)
    data = b"\0\\'\"\n" * (limit // 2 // 5 - 1000)
    async with opened(mariadb_database.url, group()) as transport:
        consumer = await transport.subscribe(group(), Plan())
        await publish(transport, message(1, data=data))
        (got,) = await collect(consumer, 1)
        assert got.message.data == data


ALIKE = ("key", "key ", "KEY", "key  ", "kéy", "key\t")


async def test_keys_that_look_alike_are_not_the_same(database: Database) -> None:
    """A key that waits for its retry holds up none that differs in a space or a letter's case."""
    ordered = group(order="key")
    async with opened(database.url, ordered) as transport:
        consumer = await transport.subscribe(ordered, Plan(ordered=True))
        await publish(transport, *[message(n, key=key) for n, key in enumerate(ALIKE)])
        first = await consumer.receive(100, 1 << 30, timedelta(seconds=5))
        assert [one.message.key for one in first] == list(ALIKE)
        why = Failure(reason="exception", detail="no luck")
        nacks = [
            Settlement(one, "nack", delay=timedelta(hours=1), failure=why)
            if one.message.key == "key"
            else Settlement(one)
            for one in first
        ]
        await consumer.settle(nacks)
        await publish(transport, *[message(n, key=key) for n, key in enumerate(ALIKE)])
        second = await consumer.receive(100, 1 << 30, timedelta(seconds=5))
        assert [one.message.key for one in second] == list(ALIKE[1:])
        assert set(await transport.unsettled_keys(ONE.name, "g", None)) == {"key"}


async def test_groups_that_look_alike_are_not_the_same(database: Database) -> None:
    async with opened(database.url) as transport:
        await publish(transport, message(1))
        for name in ("group", "GROUP", "Group"):
            consumer = await transport.subscribe(group(name=name), Plan())
            assert len(await collect(consumer, 1)) == 1


async def test_ids_that_look_alike_are_not_the_same(database: Database) -> None:
    async with opened(database.url) as transport:
        for token in ALIKE:
            assert await transport.publish_once(token, [(ONE, message(1))])
        for token in ALIKE:
            assert not await transport.publish_once(token, [(ONE, message(1))])
        for text in ALIKE:
            await publish(transport, _delayed(message(1, id_=text)))
        for text in ALIKE:
            assert await transport.cancel(text)
            assert not await transport.cancel(text)


def _delayed(one: Message) -> Message:
    return msgspec.structs.replace(one, deliver_at_us=one.time_us + 3_600_000_000)
