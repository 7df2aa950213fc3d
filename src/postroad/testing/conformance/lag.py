"""Lag: exact against a known backlog, in messages and in age, and None where unknown."""

from __future__ import annotations

from datetime import timedelta

import pytest

from postroad.errors import NotFoundError
from postroad.testing.conformance.bench import Workbench, failure, now_us


class Lags:
    """How far a group is behind."""

    async def test_lag_is_exact(self, bench: Workbench) -> None:
        bench.need_groups()
        bench.need(bench.capabilities.lag, "lag")
        topic, subscription = await bench.setup(partitions=4)
        source = bench.source()
        lag = await source.lag(topic.name, "g")
        assert (lag.messages, lag.age) == (0, timedelta(0)), "an empty backlog has age zero"
        sent = [bench.message(topic, n, key=f"key-{n}") for n in range(50)]
        await bench.send(topic, sent)
        lag = await source.lag(topic.name, "g")
        assert lag.messages == 50
        assert sorted(part.partition for part in lag.partitions) == [0, 1, 2, 3]
        consumer = await bench.consumer(subscription)
        held = await bench.take(consumer, 20)
        assert (await source.lag(topic.name, "g")).messages == 50, "what is leased is behind"
        await bench.settle(consumer, held)
        assert (await source.lag(topic.name, "g")).messages == 30
        await bench.consume(consumer, 30)
        lag = await source.lag(topic.name, "g")
        assert (lag.messages, lag.age) == (0, timedelta(0))

    async def test_lag_counts_what_waits_for_a_retry(self, bench: Workbench) -> None:
        bench.need_each()
        bench.need(bench.capabilities.lag, "lag")
        topic, subscription = await bench.setup()
        consumer = await bench.consumer(subscription)
        await bench.publish(topic, 10)
        found = await bench.take(consumer, 10)
        await bench.settle(consumer, found[2:])
        delay = timedelta(hours=1 if bench.capabilities.redelivery_delay else 0)
        await bench.settle(consumer, found[:2], "nack", delay=delay, failure=failure("later"))
        assert (await bench.source().lag(topic.name, "g")).messages == 2

    async def test_the_age_is_that_of_the_oldest(self, bench: Workbench) -> None:
        bench.need_groups()
        bench.need(bench.capabilities.lag, "lag")
        topic, subscription = await bench.setup()
        before = now_us()
        await bench.publish(topic)
        after = now_us()
        await bench.publish(topic, 3)
        asked = now_us()
        age = (await bench.source().lag(topic.name, "g")).age
        answered = now_us()
        assert age is not None
        low, high = asked - after, answered - before
        slack = 20_000
        assert low - slack <= age / timedelta(microseconds=1) <= high + slack
        consumer = await bench.consumer(subscription)
        await bench.consume(consumer, 4)
        assert (await bench.source().lag(topic.name, "g")).age == timedelta(0)

    async def test_lag_needs_no_consumer_and_sees_other_processes(self, bench: Workbench) -> None:
        bench.need_groups()
        bench.need(bench.capabilities.lag, "lag")
        topic, _ = await bench.setup()
        other = await bench.another()
        await other.publish([(topic, bench.message(topic))])
        assert (await bench.source().lag(topic.name, "g")).messages == 1

    async def test_unknown_lag_is_none(self, bench: Workbench) -> None:
        bench.need_groups()
        if bench.capabilities.lag:
            bench.skip("lag is declared")
        topic, _ = await bench.setup()
        await bench.publish(topic, 3)
        lag = await bench.source().lag(topic.name, "g")
        assert lag.messages is None or lag.messages == 3, "unknown is None, never a wrong figure"

    async def test_lag_of_what_is_not_there_says_so(self, bench: Workbench) -> None:
        bench.need_groups()
        bench.need(bench.capabilities.lag, "lag")
        topic, _ = await bench.setup()
        for name, group in (("no.such.topic", "g"), (topic.name, "no such group")):
            with pytest.raises(NotFoundError):
                await bench.source().lag(name, group)
