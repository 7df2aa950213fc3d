"""Groups on the SQLite road: claims, settling, leases and fences, retries, accounts."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from postroad.core.delivery import Position, Settlement
from postroad.core.message import Message
from postroad.core.topic import Options, Topic
from postroad.core.transport import AtomicSettle, SqlLog
from postroad.errors import (
    GroupActiveError,
    LeaseLostError,
    NotFoundError,
    PublishError,
    TopicMismatchError,
)
from postroad.transports.sql import SqlTransport
from tests.integration.sqlite_road import (
    KEYED,
    NOW,
    PLAIN,
    SOON,
    WHY,
    JumpingClock,
    Number,
    ack,
    balance,
    group,
    join,
    n,
    ns,
    publish,
    road,
    take,
)

NAME = PLAIN.name


async def test_publishes_of_many_tasks_share_commits(tmp_path: Path) -> None:
    async with road(tmp_path, group()) as transport:
        before = transport.commits
        receipts = await asyncio.gather(*(publish(transport, [i]) for i in range(2000)))
        assert transport.commits - before < 200
        offsets = sorted(int(r[0].position.offset) for r in receipts if r[0].position)
        assert offsets == list(range(2000))
        assert (await transport.lag(NAME, "g")).messages == 2000


async def test_a_bad_message_fails_alone(tmp_path: Path) -> None:
    bad = Message(id="\ud800", type=NAME, source="test", data=b"{}", time_us=0)
    async with road(tmp_path, group()) as transport:
        results = await asyncio.gather(
            publish(transport, [1]),
            transport.publish([(PLAIN, bad)]),
            publish(transport, [2]),
            return_exceptions=True,
        )
        assert isinstance(results[1], PublishError)
        assert list(results[1].failed) == [0]
        found = await transport.browse(NAME, "earliest", 10)
        assert sorted(ns(found)) == [1, 2]
        assert [delivery.offset for delivery in found] == [0, 1]


async def test_a_part_that_was_not_settled_comes_back_in_order(tmp_path: Path) -> None:
    clock, subscription = JumpingClock(), group()
    async with road(tmp_path, subscription, clock=clock) as transport:
        await publish(transport, range(20))
        first = await join(transport, subscription)
        held = await take(first)
        assert await ack(first, [held[i] for i in range(20) if i % 3]) == {"done"}
        clock.jump(seconds=31)
        second = await join(transport, subscription)
        again = await take(second)
        assert ns(again) == [i for i in range(20) if i % 3 == 0]
        assert {delivery.starts for delivery in again} == {1}
        assert {delivery.attempts for delivery in again} == {0}
        account = await transport.account(NAME, "g")
        assert (account.duplicates, balance(account)) == (7, 0)
        assert await ack(first, held[:1]) == {"stale"}
        assert await ack(second, again) == {"done"}
        account = await transport.account(NAME, "g")
        assert account.outcomes == {"handled": 20}
        assert (account.backlog, account.leased, account.waiting) == (0, 0, 0)


async def test_a_split_return_keeps_its_rest(tmp_path: Path) -> None:
    clock, subscription = JumpingClock(), group()
    async with road(tmp_path, subscription, clock=clock) as transport:
        await publish(transport, range(10))
        first = await join(transport, subscription)
        held = await take(first)
        await ack(first, [held[0], held[4], held[9]])
        clock.jump(seconds=31)
        second = await join(transport, subscription)
        assert ns(await take(second, 3)) == [1, 2, 3]
        assert ns(await take(second, 2)) == [5, 6]
        assert ns(await take(second)) == [7, 8]
        assert balance(await transport.account(NAME, "g")) == 0


async def test_an_expired_session_neither_settles_nor_commits(tmp_path: Path) -> None:
    clock, subscription = JumpingClock(), group()
    async with road(tmp_path, subscription, clock=clock) as transport:
        await publish(transport, range(2))
        consumer = await join(transport, subscription)
        assert isinstance(consumer, SqlLog)
        one, two = await take(consumer)
        clock.jump(seconds=31)
        assert await ack(consumer, [one]) == {"stale"}
        with pytest.raises(LeaseLostError):
            async with consumer.transaction(two, "test") as tx:
                await tx.execute("CREATE TABLE business (n)")
        with pytest.raises(LeaseLostError):
            async with consumer.transaction(two, "test"):
                pass
        assert await consumer.extend([one, two]) == ()
        again = await take(consumer, wait=SOON)
        assert ns(again) == [0, 1]
        assert (again[0].fence or 0) > (one.fence or 0)
        async with consumer.transaction(again[0], "test") as tx:
            await tx.execute("CREATE TABLE business (n)")


async def test_a_transaction_is_all_or_nothing(tmp_path: Path) -> None:
    subscription = group()
    async with road(tmp_path, subscription, group(KEYED, "after")) as transport:
        await publish(transport, range(3))
        consumer = await join(transport, subscription)
        after = await join(transport, group(KEYED, "after"))
        assert isinstance(consumer, SqlLog)
        one, two, three = await take(consumer)
        async with consumer.transaction(one, "test") as tx:
            await tx.execute("CREATE TABLE business (n INTEGER)")
            assert await tx.execute_many("INSERT INTO business VALUES (?)", [(1,), (2,)]) == 2
            await tx.publish(KEYED, Number(7, "k"))
            assert await transport.browse(KEYED.name, "earliest", 10) == []

        async def change_my_mind() -> None:
            async with consumer.transaction(two, "test") as tx:
                await tx.execute("DELETE FROM business")
                await tx.publish(KEYED, Number(8, "k"))
                raise RuntimeError("changed my mind")

        with pytest.raises(RuntimeError, match="changed my mind"):
            await change_my_mind()
        async with consumer.transaction(three, "test") as tx:
            assert await tx.fetch("SELECT n FROM business") == [(1,), (2,)]
        assert ns(await take(after, wait=SOON)) == [7]
        account = await transport.account(NAME, "g")
        assert (account.outcomes, account.leased) == ({"handled": 2}, 1)


async def test_transactions_take_turns_and_writers_wait(tmp_path: Path) -> None:
    subscription = group()
    async with road(tmp_path, subscription) as transport:
        await publish(transport, range(30))
        consumer = await join(transport, subscription)
        assert isinstance(consumer, SqlLog)
        held = await take(consumer)
        async with consumer.transaction(held[0], "test") as tx:
            await tx.execute("CREATE TABLE business (n INTEGER)")

        async def handle(i: int) -> None:
            async with consumer.transaction(held[i], "test") as tx:
                await tx.execute("INSERT INTO business VALUES (?)", (i,))
                await asyncio.sleep(0.001)

        await asyncio.gather(
            *(handle(i) for i in range(1, 30)), *(publish(transport, [i]) for i in range(50))
        )
        account = await transport.account(NAME, "g")
        assert (account.outcomes, account.backlog) == ({"handled": 30}, 50)


async def test_settle_and_publish_is_one_commit(tmp_path: Path) -> None:
    subscription = group()
    async with road(tmp_path, subscription, group(KEYED, "after")) as transport:
        await publish(transport, range(2))
        consumer = await join(transport, subscription)
        assert isinstance(consumer, AtomicSettle)
        one, two = await take(consumer)
        result = [(KEYED, KEYED.envelope(Number(1, "k"), 0, "test"))]
        assert await consumer.settle_and_publish([Settlement(one)], result) == ["done"]
        both = [Settlement(one), Settlement(two)]
        assert await consumer.settle_and_publish(both, result) == ["stale", "unknown"]
        assert (await transport.lag(KEYED.name, "after")).messages == 1
        assert await ack(consumer, [two]) == {"done"}


async def test_nacks_and_rejects(tmp_path: Path) -> None:
    subscription = group()
    async with road(tmp_path, subscription) as transport:
        await publish(transport, range(4))
        consumer = await join(transport, subscription)
        held = await take(consumer)
        later = timedelta(milliseconds=150)
        await consumer.settle(
            [
                Settlement(held[0], "nack", delay=later, failure=WHY),
                Settlement(held[1], "nack"),
                Settlement(held[2], "reject", failure=WHY),
                Settlement(held[3], outcome="filtered"),
            ]
        )
        account = await transport.account(NAME, "g")
        assert (account.waiting, account.outcomes) == (2, {"dead": 1, "filtered": 1})
        (back,) = await take(consumer)
        assert (n(back), back.attempts, back.failures) == (1, 0, ())
        asked = asyncio.get_running_loop().time()
        (retry,) = await take(consumer, wait=SOON)
        assert asyncio.get_running_loop().time() - asked > 0.1
        assert (n(retry), retry.attempts, retry.failures) == (0, 1, (WHY,))
        await consumer.settle([Settlement(retry, "nack", failure=WHY)])
        (retry,) = await take(consumer, wait=SOON)
        assert (retry.attempts, retry.failures) == (2, (WHY, WHY))
        assert await ack(consumer, [retry, back]) == {"done"}
        assert balance(await transport.account(NAME, "g")) == 0


async def test_dead_letters(tmp_path: Path) -> None:
    subscription = group()
    async with road(tmp_path, subscription) as transport:
        await publish(transport, range(5))
        consumer = await join(transport, subscription)
        held = await take(consumer)
        for index in (3, 1, 4, 0, 2):
            await consumer.settle([Settlement(held[index], "reject", failure=WHY)])
        letters = await transport.dead_letters("numbers.*", None, 10)
        assert [PLAIN.decode(letter.message.data).n for letter in letters] == [0, 1, 2, 3, 4]
        assert [letter.position for letter in letters] == ["0:0", "0:1", "0:2", "0:3", "0:4"]
        assert letters[0].failures == (WHY,)
        assert await transport.dead_letters(NAME, "other", 10) == []
        ids = [letter.id for letter in letters]
        assert await transport.redrive([ids[2], ids[0], "999", "no"]) == 2
        again = await take(consumer)
        assert ns(again) == [0, 2]
        assert [delivery.attempts for delivery in again] == [0, 0]
        assert await transport.discard(ids) == 3
        account = await transport.account(NAME, "g")
        assert {k: v for k, v in account.outcomes.items() if v} == {"discarded": 3}
        assert (account.leased, balance(account)) == (2, 0)


async def test_leaving_hands_back_for_free(tmp_path: Path) -> None:
    subscription = group()
    async with road(tmp_path, subscription) as transport:
        await publish(transport, range(10))
        first = await join(transport, subscription)
        held = await take(first)
        await ack(first, held[:4])
        await asyncio.gather(*(first.close() for _ in range(10)))
        second = await join(transport, subscription)
        again = await take(second)
        assert ns(again) == [4, 5, 6, 7, 8, 9]
        assert {delivery.starts for delivery in again} == {0}
        assert (await transport.account(NAME, "g")).duplicates == 0


async def test_a_cancelled_receive_gives_back(tmp_path: Path) -> None:
    subscription = group()
    async with road(tmp_path, subscription) as transport:
        await publish(transport, range(50))
        consumer = await join(transport, subscription)
        for _ in range(20):
            receiving = asyncio.ensure_future(take(consumer, 10))
            await asyncio.sleep(0)
            receiving.cancel()
            await asyncio.wait([receiving])
        found: list[int] = []
        while len(found) < 50:
            deliveries = await take(consumer, wait=SOON)
            assert deliveries
            found += ns(deliveries)
        assert sorted(found) == list(range(50))
        assert (await transport.account(NAME, "g")).duplicates == 0


async def test_seek_by_time_and_position(tmp_path: Path) -> None:
    clock, subscription = JumpingClock(), group()
    async with road(tmp_path, subscription, clock=clock) as transport:
        for i in range(10):
            await publish(transport, [i])
            clock.jump(minutes=1)
        consumer = await join(transport, subscription)
        held = await take(consumer)
        await consumer.settle([Settlement(held[0], "reject", failure=WHY), Settlement(held[1])])
        with pytest.raises(GroupActiveError):
            await transport.seek(NAME, "g", "earliest")
        await consumer.close()
        with pytest.raises(NotFoundError):
            await transport.seek(NAME, "nobody", "earliest")
        since = datetime.now(UTC) + timedelta(minutes=6, seconds=-30)
        for to, expected in (
            (since, 4),
            (Position(0, 7), 3),
            (Position(0, 99), 0),
            ("earliest", 10),
            ("latest", 0),
        ):
            await transport.seek(NAME, "g", to)  # type: ignore[arg-type]
            assert (await transport.lag(NAME, "g")).messages == expected
            account = await transport.account(NAME, "g")
            assert (account.backlog, balance(account)) == (expected, 0)


async def test_lag_is_exact(tmp_path: Path) -> None:
    clock, subscription = JumpingClock(), group(KEYED)
    async with road(tmp_path, subscription, clock=clock) as transport:
        await publish(transport, range(100), KEYED, keys=20)
        await publish(transport, range(5), KEYED, Options(delay=timedelta(hours=1)))
        clock.jump(seconds=10)
        lag = await transport.lag(KEYED.name, "g")
        assert lag.messages == 100
        assert 10 <= (lag.age or NOW).total_seconds() < 12
        consumer = await join(transport, subscription)
        held = await take(consumer, 60)
        await ack(consumer, held[:40])
        await consumer.settle([Settlement(held[40], "nack", delay=SOON, failure=WHY)])
        assert (await transport.lag(KEYED.name, "g")).messages == 60
        await ack(consumer, held[41:])
        clock.jump(seconds=30)
        await ack(await join(transport, subscription), [])
        clock.jump(hours=1)
        assert (await transport.lag(KEYED.name, "g")).messages == 46
        assert (await transport.account(KEYED.name, "g")).scheduled == 0


async def test_an_audit_that_can_fail(tmp_path: Path) -> None:
    """Each figure has its own source: a row taken away behind our back is missed."""
    async with road(tmp_path, group()) as transport:
        await publish(transport, range(10))
        database = transport._log.database
        one = "SELECT id FROM postroad_messages LIMIT 1"
        delete = f"DELETE FROM postroad_messages WHERE id IN ({one})"
        await database.write(lambda c: c.execute(delete).rowcount)
        assert balance(await transport.account(NAME, "g")) == 1


async def test_partitions_can_be_added_not_removed(tmp_path: Path) -> None:
    async with road(tmp_path) as transport:
        more: Topic[Number] = Topic(KEYED.name, Number, key="key", partitions=8)
        await transport.open([more], [])
        (info,) = await transport.topics(KEYED.name)
        assert info.partitions == 8
    again = SqlTransport(f"sqlite:///{tmp_path}/road.db")
    with pytest.raises(TopicMismatchError, match="has 8 partitions"):
        await again.open([KEYED], [])
    await again.close()
