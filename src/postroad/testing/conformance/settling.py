"""Ack, nack and reject: final is final, again is again, and each is counted."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

from postroad.core.delivery import Settlement
from postroad.testing.conformance.bench import Workbench, failure, ids, now_us


class Settling:
    """What the answers to deliveries do."""

    async def test_acknowledged_is_final(self, bench: Workbench) -> None:
        bench.need_groups()
        topic, subscription = await bench.setup()
        consumer = await bench.consumer(subscription)
        await bench.publish(topic, 20)
        await bench.consume(consumer, 20)
        await bench.nothing(consumer, "all was acknowledged")
        await consumer.close()
        await bench.nothing(await bench.consumer(subscription), "all was acknowledged")

    async def test_received_is_gone_where_nothing_settles(self, bench: Workbench) -> None:
        bench.need_groups()
        bench.need(bench.capabilities.settling == "none", 'settling="none"')
        topic, subscription = await bench.setup()
        consumer = await bench.consumer(subscription)
        await bench.publish(topic)
        await bench.take(consumer, 1)
        await consumer.close()
        await bench.nothing(await bench.consumer(subscription), "what is received is gone")

    async def test_a_position_settles_what_stands_before_it(self, bench: Workbench) -> None:
        bench.need_groups()
        bench.need(bench.capabilities.settling == "cumulative", 'settling="cumulative"')
        topic, subscription = await bench.setup()
        consumer = await bench.consumer(subscription)
        sent = await bench.publish(topic, 10)
        found = await bench.take(consumer, 10)
        await bench.settle(consumer, found[3:4])
        await consumer.close()
        again = await bench.take(await bench.consumer(subscription), 6)
        assert ids(again) == ids(sent[4:])

    async def test_a_nack_brings_it_again(self, bench: Workbench) -> None:
        bench.need_each()
        topic, subscription = await bench.setup()
        consumer = await bench.consumer(subscription)
        sent = await bench.publish(topic, 3)
        for attempt in range(4):
            found = await bench.take(consumer, 3)
            assert sorted(ids(found)) == sorted(ids(sent)), f"attempt {attempt + 1}"
            assert all(d.deliveries in (None, attempt + 1) for d in found), "deliveries counted"
            if bench.capabilities.attempts:
                assert [d.attempts for d in found] == [attempt] * 3
                details = [f"failure {n}" for n in range(attempt)]
                kept = [[one.detail for one in d.failures] for d in found]
                assert kept == [details] * 3, "oldest first"
            await bench.settle(consumer, found, "nack", failure=failure(f"failure {attempt}"))
        await bench.consume(consumer, 3)
        await bench.nothing(consumer, "all was acknowledged in the end")

    async def test_what_nobody_counts_stays_unknown(self, bench: Workbench) -> None:
        bench.need_each()
        topic, subscription = await bench.setup()
        consumer = await bench.consumer(subscription)
        await bench.publish(topic)
        (first,) = await bench.take(consumer, 1)
        for number in (2, 3):
            await consumer.begin([first])
            await bench.settle(consumer, [first], "nack", failure=failure("again"))
            if number == 3:
                await consumer.close()
                consumer = await bench.consumer(subscription)
            before, (first,) = first, await bench.take(consumer, 1)
            assert first.deliveries == (None if before.deliveries is None else number)
            assert first.starts == before.starts, "None, or none: it was answered each time"
            if not bench.capabilities.attempts:
                assert (first.attempts, first.failures) == (0, ()), "no half of a history"
        await bench.settle(consumer, [first])

    async def test_what_a_failure_says_is_kept(self, bench: Workbench) -> None:
        bench.need_each()
        bench.need(bench.capabilities.attempts, "attempts")
        topic, subscription = await bench.setup()
        consumer = await bench.consumer(subscription)
        await bench.publish(topic)
        said = failure("ünï\nsecond line")
        await bench.settle(consumer, await bench.take(consumer, 1), "nack", failure=said)
        (delivery,) = await bench.take(consumer, 1)
        assert delivery.failures == (said,)

    async def test_a_hand_back_costs_no_attempt(self, bench: Workbench) -> None:
        bench.need_each()
        topic, subscription = await bench.setup()
        consumer = await bench.consumer(subscription)
        await bench.publish(topic)
        await bench.settle(consumer, await bench.take(consumer, 1), "nack")
        (delivery,) = await bench.take(consumer, 1)
        assert delivery.attempts == 0
        assert delivery.failures == ()

    async def test_a_delayed_nack_is_not_early(self, bench: Workbench) -> None:
        bench.need_each()
        bench.need(bench.capabilities.redelivery_delay, "redelivery_delay")
        topic, subscription = await bench.setup()
        consumer = await bench.consumer(subscription)
        await bench.publish(topic, 2)
        found = await bench.take(consumer, 2)
        due = now_us() + 600_000
        delay = timedelta(milliseconds=600)
        await bench.settle(consumer, found[:1], "nack", delay=delay, failure=failure("later"))
        await bench.settle(consumer, found[1:], "nack")
        assert ids(await bench.take(consumer, 1)) == ids(found[1:]), "the other one comes at once"
        (delivery,) = await bench.take(consumer, 1)
        assert delivery.message.id == found[0].message.id
        assert now_us() >= due, f"{(due - now_us()) / 1e6:.3f} s early"

    async def test_a_nack_belongs_to_its_group(self, bench: Workbench) -> None:
        bench.need_each()
        topic, subscription = await bench.setup()
        other = bench.subscription(topic, "other")
        first, second = await bench.consumer(subscription), await bench.consumer(other)
        await bench.publish(topic, 2)
        await bench.consume(second, 2)
        failed = await bench.take(first, 2)
        await bench.settle(first, failed, "nack", failure=failure("no"))
        await bench.nothing(second, "another group's nack is not ours")
        await bench.consume(first, 2)

    async def test_a_batch_can_be_settled_in_parts(self, bench: Workbench) -> None:
        bench.need_each()
        topic, subscription = await bench.setup()
        consumer = await bench.consumer(subscription)
        await bench.publish(topic, 20)
        found = await bench.take(consumer, 20)
        answers = [
            Settlement(delivery, "ack" if n % 2 else "nack", failure=failure("even"))
            for n, delivery in enumerate(found)
        ]
        bench.random.shuffle(answers)
        assert list(await consumer.settle(answers)) == ["done"] * 20
        again = await bench.take(consumer, 10)
        assert Counter(ids(again)) == Counter(ids(found[::2]))
        await bench.nothing(consumer, "the others were acknowledged")

    async def test_an_ack_settles_nothing_before_it(self, bench: Workbench) -> None:
        bench.need_each()
        topic, subscription = await bench.setup()
        consumer = await bench.consumer(subscription)
        await bench.publish(topic, 10)
        found = await bench.take(consumer, 10)
        await bench.settle(consumer, found[6:])
        await consumer.close()
        other = await bench.consumer(subscription)
        assert sorted(ids(await bench.consume(other, 6))) == sorted(ids(found[:6]))

    async def test_outcomes_are_counted_apart(self, bench: Workbench) -> None:
        bench.need_each()
        bench.need(bench.capabilities.audit == "exact", "an exact audit")
        topic, subscription = await bench.setup()
        consumer = await bench.consumer(subscription)
        await bench.publish(topic, 15)
        expected: dict[str, int] = {}
        for count, outcome in enumerate(("handled", "filtered", "expired", "shed", "discarded"), 1):
            await bench.settle(consumer, await bench.take(consumer, count), outcome=outcome)
            expected[outcome] = count
        account = await bench.account(topic)
        assert {name: n for name, n in account.outcomes.items() if n} == expected

    async def test_settling_twice_changes_nothing(self, bench: Workbench) -> None:
        bench.need_each()
        topic, subscription = await bench.setup()
        consumer = await bench.consumer(subscription)
        await bench.publish(topic, 2)
        found = await bench.take(consumer, 2)
        await bench.settle(consumer, found)
        nacks = [Settlement(delivery, "nack", failure=failure("late")) for delivery in found]
        for answers in ([Settlement(delivery) for delivery in found], nacks):
            assert set(await consumer.settle(answers)) <= {"done", "stale"}
        await bench.nothing(consumer, "it was acknowledged first")
        if bench.capabilities.audit == "exact":
            assert (await bench.account(topic)).outcomes.get("handled") == 2

    async def test_an_ack_after_a_nack_is_too_late(self, bench: Workbench) -> None:
        bench.need_each()
        topic, subscription = await bench.setup()
        consumer = await bench.consumer(subscription)
        await bench.publish(topic)
        found = await bench.take(consumer, 1)
        await bench.settle(consumer, found, "nack")
        assert set(await consumer.settle([Settlement(found[0])])) <= {"done", "stale"}
        again = await bench.take(consumer, 1)
        assert ids(again) == ids(found), "the nack stands"
        await bench.settle(consumer, again)

    async def test_one_delivery_twice_in_a_batch_counts_once(self, bench: Workbench) -> None:
        bench.need_each()
        topic, subscription = await bench.setup()
        consumer = await bench.consumer(subscription)
        await bench.publish(topic)
        (delivery,) = await bench.take(consumer, 1)
        settled = await consumer.settle([Settlement(delivery), Settlement(delivery)])
        assert settled[0] == "done"
        assert settled[1] in ("done", "stale")
        if bench.capabilities.audit == "exact":
            assert (await bench.account(topic)).outcomes.get("handled") == 1

    async def test_begin_returns_what_is_still_ours(self, bench: Workbench) -> None:
        bench.need_each()
        topic, subscription = await bench.setup()
        consumer = await bench.consumer(subscription)
        await bench.publish(topic, 3)
        found = await bench.take(consumer, 3)
        await bench.settle(consumer, found[:1])
        assert ids(await consumer.begin(found[1:])) == ids(found[1:])
        assert list(await consumer.begin([])) == []
        await bench.settle(consumer, found[1:])

    async def test_closing_hands_back_without_an_attempt(self, bench: Workbench) -> None:
        bench.need_each()
        topic, subscription = await bench.setup()
        consumer = await bench.consumer(subscription)
        sent = await bench.publish(topic, 5)
        await bench.take(consumer, 5)
        await consumer.close()
        again = await bench.take(await bench.consumer(subscription), 5)
        assert sorted(ids(again)) == sorted(ids(sent))
        assert all(delivery.attempts == 0 for delivery in again)
        assert all(not delivery.starts for delivery in again), "leaving is not a crash"
