"""History: where a group starts, moving it, reading without a group."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from postroad.core.clock import from_us
from postroad.core.delivery import Position, Start
from postroad.core.message import Message
from postroad.core.topic import Topic
from postroad.errors import GroupActiveError, NotFoundError, NotSupportedError
from postroad.testing.conformance.bench import Workbench, ids, make_topic, now_us
from postroad.testing.conformance.waiting import eventually


class History:
    """Late subscribers, seek and browse."""

    async def _published(self, bench: Workbench) -> tuple[Topic[Any], list[Message], datetime]:
        """Ten messages, and the instant between the first five and the last five."""
        topic = make_topic("orders.created")
        await bench.open(topic)
        sent = await bench.publish(topic, 5)
        before = now_us()
        await eventually(lambda: now_us() > before + 5_000, "the clock to move")
        between = from_us(now_us())
        mark = now_us()
        await eventually(lambda: now_us() > mark + 5_000, "the clock to move")
        sent += await bench.publish(topic, 5)
        return topic, sent, between

    async def test_a_late_group_sees_history_or_nothing(self, bench: Workbench) -> None:
        bench.need_groups()
        topic, sent, _ = await self._published(bench)
        start: Start = "earliest" if bench.capabilities.history else "latest"
        consumer = await bench.consumer(bench.subscription(topic, "late", start))
        if bench.capabilities.history:
            assert ids(await bench.consume(consumer, 10)) == ids(sent)
        else:
            await bench.nothing(consumer, "the road declares no history")
        more = await bench.publish(topic)
        assert ids(await bench.consume(consumer, 1)) == ids(more)

    async def test_a_late_group_may_start_from_now(self, bench: Workbench) -> None:
        bench.need_groups()
        topic, _, _ = await self._published(bench)
        consumer = await bench.consumer(bench.subscription(topic, "late", "latest"))
        await bench.nothing(consumer, "it starts from now")
        more = await bench.publish(topic, 2)
        assert ids(await bench.consume(consumer, 2)) == ids(more)

    async def test_a_late_group_may_start_at_an_instant(self, bench: Workbench) -> None:
        bench.need_groups()
        bench.need(bench.capabilities.history, "history")
        topic, sent, between = await self._published(bench)
        consumer = await bench.consumer(bench.subscription(topic, "late", between))
        assert ids(await bench.consume(consumer, 5)) == ids(sent[5:])
        ahead = datetime.now(UTC) + timedelta(days=1)
        future = await bench.consumer(bench.subscription(topic, "future", ahead))
        await bench.nothing(future, "it starts tomorrow")

    async def test_a_late_group_may_start_at_a_position(self, bench: Workbench) -> None:
        bench.need_groups()
        bench.need(bench.capabilities.history, "history")
        topic, sent, _ = await self._published(bench)
        first = await bench.consumer(bench.subscription(topic, "first"))
        third = (await bench.consume(first, 10))[2].position
        assert third is not None, "a road with history has positions"
        consumer = await bench.consumer(bench.subscription(topic, "late", third))
        assert ids(await bench.consume(consumer, 8)) == ids(sent[2:]), "the first one is at it"

    async def test_a_group_that_was_goes_on_where_it_was(self, bench: Workbench) -> None:
        bench.need_groups()
        bench.need(bench.capabilities.history, "history")
        topic, sent, _ = await self._published(bench)
        consumer = await bench.consumer(bench.subscription(topic))
        await bench.consume(consumer, 4, limit=4)
        await consumer.close()
        again = await bench.consumer(bench.subscription(topic, start="latest"))
        assert ids(await bench.consume(again, 6)) == ids(sent[4:]), "start is for new groups"

    async def test_seek_moves_a_group_at_rest(self, bench: Workbench) -> None:
        bench.need_groups()
        bench.need(bench.capabilities.seek, "seek")
        topic, sent, between = await self._published(bench)
        subscription = bench.subscription(topic)
        consumer = await bench.consumer(subscription)
        found = await bench.consume(consumer, 10)
        await consumer.close()
        place = found[7].position
        assert place is not None
        tries: list[tuple[Start, list[Message]]] = [
            ("earliest", sent),
            (between, sent[5:]),
            (place, sent[7:]),
            ("latest", []),
        ]
        for to, expected in tries:
            await bench.source().seek(topic.name, "g", to)
            consumer = await bench.consumer(subscription)
            assert ids(await bench.consume(consumer, len(expected))) == ids(expected), to
            await bench.nothing(consumer, f"all after {to} was received")
            await consumer.close()
            await bench.check_audit()

    async def test_seek_forgets_what_is_unsettled(self, bench: Workbench) -> None:
        bench.need_each()
        bench.need(bench.capabilities.seek, "seek")
        topic, subscription = await bench.setup()
        consumer = await bench.consumer(subscription)
        await bench.publish(topic, 4)
        found = await bench.take(consumer, 4)
        await bench.settle(consumer, found[:2], "nack")
        await consumer.close()
        await bench.source().seek(topic.name, "g", "latest")
        await bench.nothing(await bench.consumer(subscription), "the group was moved past it")

    async def test_seek_needs_a_group_at_rest(self, bench: Workbench) -> None:
        bench.need_groups()
        bench.need(bench.capabilities.seek, "seek")
        topic, subscription = await bench.setup()
        consumer = await bench.consumer(subscription, await bench.another())
        await bench.publish(topic, 2)
        await bench.consume(consumer, 1, limit=1)
        with pytest.raises(GroupActiveError):
            await bench.source().seek(topic.name, "g", "earliest")
        await bench.consume(consumer, 1)
        await consumer.close()
        await bench.source().seek(topic.name, "g", "earliest")

    async def test_seek_of_what_is_not_there_says_so(self, bench: Workbench) -> None:
        bench.need_groups()
        topic, _ = await bench.setup()
        for name, group in (("no.such.topic", "g"), (topic.name, "no such group")):
            with pytest.raises((NotFoundError, NotSupportedError)) as caught:
                await bench.source().seek(name, group, "earliest")
            if bench.capabilities.seek:
                assert isinstance(caught.value, NotFoundError)

    async def test_seek_is_refused_where_undeclared(self, bench: Workbench) -> None:
        bench.need_groups()
        if bench.capabilities.seek:
            bench.skip("it is declared")
        topic, _ = await bench.setup()
        with pytest.raises(NotSupportedError):
            await bench.source().seek(topic.name, "g", "earliest")

    async def test_browsing_is_refused_where_undeclared(self, bench: Workbench) -> None:
        if bench.capabilities.browse:
            bench.skip("it is declared")
        topic = make_topic("orders.created")
        await bench.open(topic)
        with pytest.raises(NotSupportedError):
            await bench.source().browse(topic.name, "earliest", 1)

    async def test_browsing_has_no_effect(self, bench: Workbench) -> None:
        bench.need(bench.capabilities.browse, "browse")
        topic, sent, between = await self._published(bench)
        source = bench.source()
        for _ in range(2):
            found = await source.browse(topic.name, "earliest", 100)
            assert ids(found) == ids(sent)
        assert ids(await source.browse(topic.name, between, 100)) == ids(sent[5:])
        assert list(await source.browse(topic.name, "latest", 100)) == []
        if bench.capabilities.history and bench.capabilities.groups:
            consumer = await bench.consumer(bench.subscription(topic))
            assert ids(await bench.consume(consumer, 10)) == ids(sent)

    async def test_browsing_goes_on_page_by_page(self, bench: Workbench) -> None:
        bench.need(bench.capabilities.browse, "browse")
        topic, sent, _ = await self._published(bench)
        found = list(await bench.source().browse(topic.name, "earliest", 4))
        assert ids(found) == ids(sent[:4])
        while len(found) < 10:
            last = found[-1].position
            assert last is not None
            assert isinstance(last.offset, int) or bench.skip("its offsets are no numbers")
            page = await bench.source().browse(
                topic.name, Position(last.partition, last.offset + 1), 4
            )
            assert 1 <= len(page) <= 4
            found += page
        assert ids(found) == ids(sent)

    async def test_browsing_what_is_not_there_says_so(self, bench: Workbench) -> None:
        bench.need(bench.capabilities.browse, "browse")
        await bench.open(make_topic("orders.created"))
        with pytest.raises(NotFoundError):
            await bench.source().browse("no.such.topic", "earliest", 1)
