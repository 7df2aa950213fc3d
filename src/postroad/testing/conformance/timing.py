"""Delay, cancelling, expiry and priorities: kept where declared, carried where not."""

from __future__ import annotations

from datetime import timedelta
from typing import cast

import pytest

from postroad.core.transport import Cancels
from postroad.errors import NotSupportedError
from postroad.testing.conformance.bench import Workbench, ids, later, make_topic, now_us
from postroad.testing.conformance.waiting import eventually

_SOON = 0.6


class Timing:
    """What messages say about when they may be handled."""

    async def test_a_delayed_message_is_not_early(self, bench: Workbench) -> None:
        bench.need_groups()
        bench.need(bench.capabilities.delay >= timedelta(seconds=1), "delay")
        topic, subscription = await bench.setup()
        consumer = await bench.consumer(subscription)
        dues = {n: later(_SOON + n * 0.1) for n in (3, 1, 2, 0)}
        delayed = {n: bench.message(topic, n, deliver_at_us=due) for n, due in dues.items()}
        await bench.send(topic, list(delayed.values()))
        prompt = await bench.publish(topic)
        assert ids(await bench.consume(consumer, 1)) == ids(prompt), "a delay blocks nobody else"
        for n in range(4):
            (delivery,) = await bench.take(consumer, 1)
            due = delivery.message.deliver_at_us or 0
            assert now_us() >= due, f"{(due - now_us()) / 1e6:.3f} s early"
            assert delivery.message == delayed[n], "in the order of their times"
            await bench.settle(consumer, [delivery])

    async def test_a_delay_is_kept_for_every_group(self, bench: Workbench) -> None:
        bench.need_groups()
        bench.need(bench.capabilities.delay >= timedelta(seconds=1), "delay")
        topic, subscription = await bench.setup()
        other = bench.subscription(topic, "other")
        consumers = [await bench.consumer(subscription), await bench.consumer(other)]
        due = later(_SOON)
        await bench.publish(topic, deliver_at_us=due)
        for consumer in consumers:
            await bench.consume(consumer, 1)
            assert now_us() >= due

    async def test_a_scheduled_message_survives_reopening(self, bench: Workbench) -> None:
        bench.need_groups()
        bench.need(bench.capabilities.delay >= timedelta(seconds=1), "delay")
        bench.need(bench.capabilities.durable, "durable")
        topic, subscription = await bench.setup()
        due = later(_SOON)
        sent = await bench.publish(topic, deliver_at_us=due)
        await bench.reopen()
        found = await bench.consume(await bench.consumer(subscription), 1)
        assert ids(found) == ids(sent)
        assert now_us() >= due

    async def test_a_scheduled_message_is_no_lag_and_is_counted(self, bench: Workbench) -> None:
        bench.need_groups()
        bench.need(bench.capabilities.delay >= timedelta(hours=1), "delay of an hour")
        topic, _ = await bench.setup()
        await bench.publish(topic, 3, deliver_at_us=later(3600))
        if bench.capabilities.lag:
            lag = await bench.source().lag(topic.name, "g")
            assert lag.messages == 0, "lag leaves out what is scheduled"
        if bench.capabilities.audit == "exact":
            account = await bench.account(topic)
            assert (account.accepted, account.scheduled, account.backlog) == (3, 3, 0)

    async def test_where_delay_is_undeclared_it_is_carried_for_the_engine(
        self, bench: Workbench
    ) -> None:
        bench.need_groups()
        if bench.capabilities.delay:
            bench.skip("it is declared")
        topic, subscription = await bench.setup()
        sent = await bench.publish(topic, deliver_at_us=later(3600))
        (delivery,) = await bench.take(await bench.consumer(subscription), 1)
        assert delivery.message == sent[0]

    async def test_a_scheduled_message_can_be_withdrawn(self, bench: Workbench) -> None:
        bench.need_groups()
        bench.need(bench.capabilities.cancel, "cancel")
        topic, subscription = await bench.setup()
        due = later(_SOON)
        kept, gone = await bench.publish(topic, 2, deliver_at_us=due)
        cancels = cast(Cancels, bench.main)
        assert await cancels.cancel(gone.id) is True
        assert await cancels.cancel(gone.id) is False, "it is withdrawn already"
        assert await cancels.cancel("no such message") is False
        consumer = await bench.consumer(subscription)
        assert ids(await bench.consume(consumer, 1)) == [kept.id]
        await eventually(lambda: now_us() > due, "the time of the withdrawn one")
        await bench.nothing(consumer, "it was withdrawn")
        assert await cancels.cancel(kept.id) is False, "it was delivered"

    async def test_cancelling_is_refused_where_undeclared(self, bench: Workbench) -> None:
        if bench.capabilities.cancel:
            bench.skip("it is declared")
        await bench.open(make_topic("orders.created"))
        if isinstance(bench.main, Cancels):
            with pytest.raises(NotSupportedError):
                await bench.main.cancel("any")

    async def test_expired_messages_are_dropped_and_counted(self, bench: Workbench) -> None:
        bench.need_groups()
        bench.need(bench.capabilities.expiry, "expiry")
        topic, subscription = await bench.setup()
        consumer = await bench.consumer(subscription)
        end = later(0.3)
        await bench.publish(topic, 3, expires_at_us=end)
        lasting = await bench.publish(topic, expires_at_us=later(3600))
        await eventually(lambda: now_us() > end, "the messages to expire")
        assert ids(await bench.consume(consumer, 1)) == ids(lasting)
        await bench.nothing(consumer, "the others have expired")
        if bench.capabilities.audit == "exact":
            account = await bench.account(topic)
            assert account.outcomes.get("expired") == 3
            assert account.outcomes.get("handled") == 1

    async def test_where_expiry_is_undeclared_it_is_carried_for_the_engine(
        self, bench: Workbench
    ) -> None:
        bench.need_groups()
        if bench.capabilities.expiry:
            bench.skip("it is declared")
        topic, subscription = await bench.setup()
        sent = await bench.publish(topic, expires_at_us=later(-1))
        (delivery,) = await bench.take(await bench.consumer(subscription), 1)
        assert delivery.message == sent[0]

    async def test_higher_priorities_go_first(self, bench: Workbench) -> None:
        bench.need_groups()
        levels = bench.capabilities.priorities
        bench.need(levels > 1, "priorities")
        topic, subscription = await bench.setup()
        numbers = [n for n in range(levels) for _ in range(3)]
        bench.random.shuffle(numbers)
        sent = [bench.message(topic, n, priority=level) for n, level in enumerate(numbers)]
        await bench.send(topic, sent)
        consumer = await bench.consumer(subscription)
        found = await bench.consume(consumer, len(sent), limit=5)
        expected = sorted(sent, key=lambda message: -message.priority)
        assert [d.message.priority for d in found] == [m.priority for m in expected]
        if bench.capabilities.order != "none":
            assert ids(found) == ids(expected), "in the order of the log within one priority"

    async def test_where_priorities_are_undeclared_they_are_carried(self, bench: Workbench) -> None:
        bench.need_groups()
        if bench.capabilities.priorities > 1:
            bench.skip("they are declared")
        topic, subscription = await bench.setup()
        sent = await bench.publish(topic, priority=7)
        (delivery,) = await bench.take(await bench.consumer(subscription), 1)
        assert delivery.message == sent[0]
