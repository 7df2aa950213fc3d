"""Patterns: one consumer over every topic that fits, those of later among them."""

from __future__ import annotations

import pytest

from postroad.errors import PostroadError
from postroad.testing.conformance.bench import Workbench, ids, make_topic


class Patterns:
    """Subscriptions to a pattern, and the list of topics."""

    async def test_a_pattern_reads_what_fits_and_later_topics_too(self, bench: Workbench) -> None:
        bench.need_groups()
        bench.need(bench.capabilities.patterns, "patterns")
        first, other = make_topic("orders.created"), make_topic("invoices.created")
        wish = bench.subscription("orders.*")
        await bench.open(first, other, subscriptions=[wish])
        consumer = await bench.consumer(wish)
        sent = await bench.publish(first, 3)
        await bench.publish(other, 3)
        assert sorted(ids(await bench.consume(consumer, 3))) == sorted(ids(sent))
        later = make_topic("orders.paid")
        await bench.main.open([later], [])
        sent = await bench.publish(later, 3)
        found = await bench.consume(consumer, 3)
        assert sorted(ids(found)) == sorted(ids(sent))
        assert {delivery.topic for delivery in found} == {"orders.paid"}
        await bench.nothing(consumer, "the other topic does not fit")

    async def test_a_hash_fits_any_depth(self, bench: Workbench) -> None:
        bench.need_groups()
        bench.need(bench.capabilities.patterns, "patterns")
        names = ("orders", "orders.created", "orders.created.eu", "ordersx", "invoices")
        topics = [make_topic(name) for name in names]
        wish = bench.subscription("orders.#")
        await bench.open(*topics, subscriptions=[wish])
        sent = [(await bench.publish(topic))[0].id for topic in topics]
        consumer = await bench.consumer(wish)
        assert sorted(ids(await bench.consume(consumer, 3))) == sorted(sent[:3])
        await bench.nothing(consumer, "the others do not fit")

    async def test_a_topic_made_by_another_process_is_seen(self, bench: Workbench) -> None:
        bench.need_groups()
        bench.need(bench.capabilities.patterns and bench.capabilities.shared, "patterns, shared")
        wish = bench.subscription("orders.*")
        await bench.open(subscriptions=[wish])
        consumer = await bench.consumer(wish)
        await bench.nothing(consumer, "there is no topic yet")
        other, topic = await bench.another(), make_topic("orders.created")
        await other.open([topic], [])
        message = bench.message(topic)
        await other.publish([(topic, message)])
        assert ids(await bench.consume(consumer, 1)) == [message.id]

    async def test_a_pattern_is_refused_where_undeclared(self, bench: Workbench) -> None:
        bench.need_groups()
        if bench.capabilities.patterns:
            bench.skip("they are declared")
        await bench.open(make_topic("orders.created"))
        with pytest.raises(PostroadError):
            await bench.consumer(bench.subscription("orders.*"))

    async def test_topics_are_listed_by_pattern(self, bench: Workbench) -> None:
        names = ("orders.created", "orders.paid", "invoices.sent")
        await bench.open(*(make_topic(name, 2) for name in names))
        listed = {info.name: info for info in await bench.source().topics("orders.*")}
        assert set(listed) == {"orders.created", "orders.paid"}
        assert {info.name for info in await bench.source().topics("#")} >= set(names)
        if bench.capabilities.order != "none":
            assert listed["orders.paid"].partitions == 2
