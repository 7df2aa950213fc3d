"""The audit: every message is in exactly one state, at every moment, and duplicates are counted."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, cast

import pytest

from postroad.core.delivery import Settlement
from postroad.core.topic import Retention
from postroad.core.transport import Audited, Consumer
from postroad.errors import NotFoundError
from postroad.testing.conformance.bench import (
    BYTES,
    Workbench,
    check_balance,
    failure,
    later,
    make_topic,
)
from postroad.testing.conformance.waiting import eventually

_ACTIONS: tuple[Any, ...] = ("ack", "ack", "nack", "reject", "hold")


class Auditing:
    """Needs `audit="exact"`."""

    async def test_it_balances_at_every_moment(self, bench: Workbench) -> None:
        bench.need_each()
        bench.need(bench.capabilities.audit == "exact", "an exact audit")
        topic = make_topic("orders.created", 4)
        wishes = [bench.subscription(topic, name) for name in ("g", "other")]
        await bench.open(topic, subscriptions=wishes)
        consumers = [await bench.consumer(wish) for wish in wishes]
        accepted = 0
        for step in range(40):
            delayed = {"deliver_at_us": later(3600)} if step % 10 == 3 else {}
            if not bench.capabilities.delay:
                delayed = {}
            accepted += len(await bench.publish(topic, bench.random.randrange(8), **delayed))
            for consumer in consumers:
                await self._step(bench, consumer)
            await bench.check_audit()
            assert (await bench.account(topic)).accepted == accepted

    async def _step(self, bench: Workbench, consumer: Consumer) -> None:
        """Receive some and answer each at random."""
        found = await consumer.receive(5, BYTES, timedelta(0))
        answers = []
        for delivery in found:
            action = bench.random.choice(_ACTIONS)
            if action == "reject" and not bench.capabilities.dead_letters:
                action = "ack"
            if action == "hold":
                continue
            said = None if action == "ack" else failure("at random")
            answers.append(Settlement(delivery, action, failure=said))
        await consumer.settle(answers)

    async def test_each_state_is_named(self, bench: Workbench) -> None:
        bench.need_each()
        bench.need(bench.capabilities.audit == "exact", "an exact audit")
        topic, subscription = await bench.setup()
        consumer = await bench.consumer(subscription)
        await bench.publish(topic, 10)
        found = await bench.take(consumer, 6)
        await bench.settle(consumer, found[:3])
        delay = timedelta(hours=1 if bench.capabilities.redelivery_delay else 0)
        await bench.settle(consumer, found[3:5], "nack", delay=delay, failure=failure("later"))
        account = await bench.account(topic)
        assert account.accepted == 10
        assert (account.backlog, account.leased, account.waiting) == (4, 1, 2)
        assert (account.scheduled, account.trimmed, account.duplicates) == (0, 0, 0)
        assert account.outcomes.get("handled") == 3

    async def test_duplicates_are_counted_beside(self, bench: Workbench) -> None:
        bench.need_each()
        bench.need(bench.capabilities.audit == "exact", "an exact audit")
        topic, subscription = await bench.setup()
        consumer = await bench.consumer(subscription)
        await bench.publish(topic, 4)
        for _ in range(3):
            held = await bench.take(consumer, 4)
            await bench.settle(consumer, held, "nack", failure=failure("again"))
        await bench.consume(consumer, 4)
        account = await bench.account(topic)
        assert account.duplicates == 12, "deliveries beyond the first of a message"
        check_balance(account)

    async def test_a_late_group_counts_from_its_start(self, bench: Workbench) -> None:
        bench.need_groups()
        bench.need(bench.capabilities.audit == "exact", "an exact audit")
        topic = make_topic("orders.created")
        await bench.open(topic)
        await bench.publish(topic, 10)
        await bench.consumer(bench.subscription(topic, "late", "latest"))
        await bench.publish(topic, 3)
        account = await bench.account(topic, "late")
        assert (account.accepted, account.backlog) == (3, 3)
        if bench.capabilities.history:
            await bench.consumer(bench.subscription(topic, "all", "earliest"))
            account = await bench.account(topic, "all")
            assert (account.accepted, account.backlog) == (13, 13)

    async def test_what_retention_trims_unread_is_counted(self, bench: Workbench) -> None:
        bench.need_groups()
        bench.need(bench.capabilities.audit == "exact", "an exact audit")
        bench.need("age" in bench.capabilities.retention, "retention by age")
        topic, subscription = await bench.setup(retention=Retention(age=timedelta(seconds=1)))
        consumer = await bench.consumer(subscription)
        await bench.publish(topic, 10)
        await bench.consume(consumer, 4, limit=4)
        await consumer.close()

        async def trimmed() -> int:
            await bench.publish(topic)
            account = await bench.account(topic)
            check_balance(account)
            return account.trimmed

        await eventually(trimmed, "retention to trim the unread")
        assert (await bench.account(topic)).outcomes.get("handled") == 4

    async def test_a_queue_forgets_what_every_group_has_settled(self, bench: Workbench) -> None:
        bench.need_groups()
        bench.need("consumed" in bench.capabilities.retention, "retention by consumption")
        topic = make_topic("jobs", retention=Retention(consumed=True))
        wishes = [bench.subscription(topic, name) for name in ("g", "other")]
        await bench.open(topic, subscriptions=wishes)
        await bench.publish(topic, 20)
        await bench.consume(await bench.consumer(wishes[0]), 20)
        slow = await bench.consumer(wishes[1])
        await bench.consume(slow, 20)
        await bench.check_audit()
        if bench.capabilities.browse:

            async def empty() -> bool:
                return not await bench.source().browse(topic.name, "earliest", 1)

            await eventually(empty, "the queue to forget what all have settled")

    async def test_groups_are_listed(self, bench: Workbench) -> None:
        bench.need_groups()
        bench.need(bench.capabilities.audit != "none", "an audit")
        topics = [make_topic("orders.created"), make_topic("invoices.sent")]
        await bench.open(*topics, subscriptions=[bench.subscription(one) for one in topics])
        audited = cast(Audited, bench.main)
        assert list(await audited.groups("orders.*")) == [("orders.created", "g")]
        assert len(await audited.groups("#")) == 2
        with pytest.raises(NotFoundError):
            await audited.account("orders.created", "no such group")
        with pytest.raises(NotFoundError):
            await audited.account("no.such.topic", "g")
