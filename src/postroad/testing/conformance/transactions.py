"""Commits that hold more than one thing: settlement with results, with a handler's own writes,
a publish with its token."""

from __future__ import annotations

from datetime import timedelta
from typing import cast

import pytest

from postroad.core.delivery import Delivery, Settlement
from postroad.core.subscription import Subscription
from postroad.core.transport import AtomicSettle, Consumer, OnceTokens, SqlLog, Transaction
from postroad.errors import ClosedError, DuplicateError, LeaseLostError
from postroad.testing.conformance.bench import Workbench, failure, ids, make_topic


class _OwnError(Exception):
    """What a handler raises in these tests."""


class Transactions:
    """Needs `atomic_settle`, `transactions` or `once_tokens`."""

    async def test_settlement_and_results_commit_together(self, bench: Workbench) -> None:
        atomic, consumer, results = await self._atomic(bench)
        found = await bench.take(consumer, 3)
        topic = make_topic("orders.paid")
        outcome = bench.message(topic)
        settled = await atomic.settle_and_publish(
            [Settlement(delivery) for delivery in found], [(topic, outcome)]
        )
        assert list(settled) == ["done"] * 3
        assert ids(await bench.consume(results, 1)) == [outcome.id]
        await bench.nothing(consumer, "all was settled")

    async def test_one_stale_settlement_publishes_nothing(self, bench: Workbench) -> None:
        atomic, consumer, results = await self._atomic(bench)
        bench.need_each()
        found = await bench.take(consumer, 3)
        await bench.settle(consumer, found[:1], "nack")
        topic = make_topic("orders.paid")
        settled = await atomic.settle_and_publish(
            [Settlement(delivery) for delivery in found], [(topic, bench.message(topic))]
        )
        assert list(settled) == ["stale", "unknown", "unknown"]
        await bench.nothing(results, "nothing of the call is committed")
        await bench.settle(consumer, found[1:])
        await bench.consume(consumer, 1)

    async def test_settling_atomically_twice_publishes_once(self, bench: Workbench) -> None:
        atomic, consumer, results = await self._atomic(bench)
        found = await bench.take(consumer, 3)
        topic = make_topic("orders.paid")
        answers = [Settlement(found[0])]
        await atomic.settle_and_publish(answers, [(topic, bench.message(topic))])
        await atomic.settle_and_publish(answers, [(topic, bench.message(topic))])
        await bench.consume(results, 1)
        await bench.nothing(results, "a second answer changes nothing, so it publishes nothing")
        await bench.settle(consumer, found[1:])

    async def test_what_is_not_committed_was_not_published(self, bench: Workbench) -> None:
        atomic, consumer, results = await self._atomic(bench)
        found = await bench.take(consumer, 3)
        topic = make_topic("orders.paid")
        outcome = bench.message(topic)
        await atomic.settle_and_publish([Settlement(found[0])], [(topic, outcome)])
        await consumer.close()
        again = await bench.take(await bench.consumer(self._orders(bench)), 2)
        assert sorted(ids(again)) == sorted(ids(found[1:])), "the other two were not settled"
        assert ids(await bench.consume(results, 1)) == [outcome.id]
        await bench.nothing(results, "nobody published for the other two")

    async def test_a_closed_consumer_commits_nothing(self, bench: Workbench) -> None:
        atomic, consumer, results = await self._atomic(bench)
        found = await bench.take(consumer, 3)
        await consumer.close()
        topic = make_topic("orders.paid")
        answers = [Settlement(delivery) for delivery in found]
        try:
            settled = await atomic.settle_and_publish(answers, [(topic, bench.message(topic))])
        except ClosedError:
            settled = ["stale"]
        assert "done" not in settled
        await bench.nothing(results, "its deliveries went back as it was closed")
        await bench.consume(await bench.consumer(self._orders(bench)), 3)

    def _orders(self, bench: Workbench) -> Subscription:
        return bench.subscription(make_topic("orders.created"))

    async def _atomic(self, bench: Workbench) -> tuple[AtomicSettle, Consumer, Consumer]:
        bench.need_groups()
        bench.need(bench.capabilities.atomic_settle, "atomic_settle")
        topics = [make_topic("orders.created"), make_topic("orders.paid")]
        wishes = [bench.subscription(topic) for topic in topics]
        await bench.open(*topics, subscriptions=wishes)
        consumer, results = [await bench.consumer(wish) for wish in wishes]
        await bench.publish(topics[0], 3)
        return cast(AtomicSettle, consumer), consumer, results

    async def test_a_transaction_commits_writes_settlement_and_publishes(
        self, bench: Workbench
    ) -> None:
        log, consumer, results = await self._log(bench)
        (delivery,) = await bench.take(consumer, 1)
        async with log.transaction(delivery, "urn:test") as tx:
            await self._make_table(bench, tx)
            insert = f"INSERT INTO conformance_paid VALUES ({bench.road.parameter})"
            assert await tx.execute(insert, [delivery.message.id]) == 1
            assert await tx.execute_many(insert, [["a"], ["b"]]) == 2
            await tx.publish(make_topic("orders.paid"), {"key": "k", "n": 1})
        await self._settle(bench, log, consumer, delivery)
        (published,) = await bench.consume(results, 1)
        assert (published.message.source, published.message.key) == ("urn:test", "k")
        await bench.nothing(consumer, "it is settled")
        assert await self._rows(bench, log, consumer) == {"a", "b", delivery.message.id}

    async def _make_table(self, bench: Workbench, tx: Transaction) -> None:
        define = bench.road.define or tx.execute
        await define("CREATE TABLE conformance_paid (id VARCHAR(64))")

    async def test_an_exception_rolls_all_of_it_back(self, bench: Workbench) -> None:
        log, consumer, results = await self._log(bench)
        (delivery,) = await bench.take(consumer, 1)
        async with log.transaction(delivery, "urn:test") as tx:
            await self._make_table(bench, tx)
        await self._settle(bench, log, consumer, delivery)
        await bench.publish(make_topic("orders.created"))
        (delivery,) = await bench.take(consumer, 1)
        with pytest.raises(_OwnError):
            await self._fail(bench, log, delivery)
        await bench.nothing(results, "it was rolled back")
        await bench.settle(consumer, [delivery], "nack", failure=failure("rolled back"))
        await bench.consume(consumer, 1)
        assert await self._rows(bench, log, consumer) == set()

    async def _fail(self, bench: Workbench, log: SqlLog, delivery: Delivery) -> None:
        async with log.transaction(delivery, "urn:test") as tx:
            insert = f"INSERT INTO conformance_paid VALUES ({bench.road.parameter})"
            await tx.execute(insert, ["lost"])
            await tx.publish(make_topic("orders.paid"), {"n": 1})
            raise _OwnError

    async def test_what_was_answered_commits_nothing(self, bench: Workbench) -> None:
        log, consumer, results = await self._log(bench)
        await bench.publish(make_topic("orders.created"), 4)
        held = await bench.take(consumer, 5)
        await bench.settle(consumer, held[:1], "nack")
        await bench.settle(consumer, held[1:2], "nack", failure=failure("again"))
        await bench.settle(consumer, held[2:3])
        for delivery in held[:3]:
            with pytest.raises(LeaseLostError):
                await self._publish(log, delivery)
        await bench.nothing(results, "the deliveries were no longer ours")
        await bench.settle(consumer, held[3:])
        await bench.consume(consumer, 2)

    async def test_a_lost_lease_commits_nothing(self, bench: Workbench) -> None:
        log, consumer, results = await self._log(bench, bench.road.lease)
        (delivery,) = await bench.take(consumer, 1)
        other = await bench.consumer(bench.subscription(make_topic("orders.created")))
        (again,) = await bench.take(other, 1)
        with pytest.raises(LeaseLostError):
            await self._publish(log, delivery)
        await bench.nothing(results, "the delivery was no longer ours")
        await bench.settle(other, [again])

    async def _publish(self, log: SqlLog, delivery: Delivery) -> None:
        async with log.transaction(delivery, "urn:test") as tx:
            await tx.publish(make_topic("orders.paid"), {"n": 1})

    async def _rows(self, bench: Workbench, log: SqlLog, consumer: Consumer) -> set[str]:
        """What another delivery's transaction finds in the table."""
        await bench.publish(make_topic("orders.created"))
        (delivery,) = await bench.take(consumer, 1)
        async with log.transaction(delivery, "urn:test") as tx:
            found = {row[0] for row in await tx.fetch("SELECT id FROM conformance_paid")}
        await self._settle(bench, log, consumer, delivery)
        return found

    async def _settle(
        self, bench: Workbench, log: SqlLog, consumer: Consumer, delivery: Delivery
    ) -> None:
        """As the engine does where it is not in the commit."""
        if not log.settles:
            await bench.settle(consumer, [delivery])

    async def test_what_was_committed_comes_again_as_a_duplicate(self, bench: Workbench) -> None:
        log, consumer, results = await self._log(bench)
        (delivery,) = await bench.take(consumer, 1)
        async with log.transaction(delivery, "urn:test") as tx:
            await tx.publish(make_topic("orders.paid"), {"n": 1})
        await self._settle(bench, log, consumer, delivery)
        await bench.consume(results, 1)
        copy = (make_topic("orders.created"), delivery.message)
        await bench.main.publish([copy])
        (again,) = await bench.take(consumer, 1)
        with pytest.raises(DuplicateError):
            await self._publish(log, again)
        await bench.nothing(results, "the copy was handled before")
        await bench.settle(consumer, [again])

    async def _log(
        self, bench: Workbench, lease: timedelta = timedelta(seconds=30)
    ) -> tuple[SqlLog, Consumer, Consumer]:
        bench.need_each()
        bench.need(bench.capabilities.transactions, "transactions")
        topics = [make_topic("orders.created"), make_topic("orders.paid")]
        wishes = [bench.subscription(topic) for topic in topics]
        await bench.open(*topics, subscriptions=wishes)
        consumer = await bench.consumer(wishes[0], lease=lease)
        results = await bench.consumer(wishes[1])
        await bench.publish(topics[0])
        return cast(SqlLog, consumer), consumer, results

    async def test_a_token_is_accepted_once(self, bench: Workbench) -> None:
        bench.need_groups()
        bench.need(bench.capabilities.once_tokens, "once_tokens")
        topic, subscription = await bench.setup()
        sent = [bench.message(topic, n) for n in range(2)]
        batch = [(topic, message) for message in sent]
        first, second = cast(OnceTokens, bench.main), cast(OnceTokens, await bench.another())
        assert await first.publish_once("token-1", batch) is True
        assert await first.publish_once("token-1", batch) is False
        assert await second.publish_once("token-1", batch) is False, "known to every process"
        assert await second.publish_once("token-2", batch) is True
        consumer = await bench.consumer(subscription)
        assert ids(await bench.consume(consumer, 4)) == ids(sent) * 2
        await bench.nothing(consumer, "a known token publishes nothing")
        if bench.capabilities.durable:
            await bench.reopen()
            again = cast(OnceTokens, bench.main)
            assert await again.publish_once("token-1", batch) is False, "also after reopening"
