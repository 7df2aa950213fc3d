"""What is published is what arrives: every attribute, any payload, each topic by itself."""

from __future__ import annotations

from datetime import timedelta

import pytest

from postroad.core.clock import from_us
from postroad.core.message import Message
from postroad.core.transport import Consumer
from postroad.errors import PayloadTooLargeError, PublishError
from postroad.testing.conformance.bench import BYTES, Workbench, ids, later, make_topic, now_us


class RoundTrip:
    """Needs nothing but a road that can be read."""

    async def _reader(self, bench: Workbench) -> Consumer:
        group = "g" if bench.capabilities.groups else None
        topic = make_topic("orders.created")
        subscription = bench.subscription(topic, group)
        await bench.open(topic, subscriptions=[subscription] if group else [])
        return await bench.consumer(subscription)

    def _full(self, bench: Workbench) -> Message:
        return bench.message(
            make_topic("orders.created"),
            type="shop.order/ünï",
            source="urn:shop:orders",
            time_us=now_us() - 123_456,
            content_type="application/vnd.shop+json; charset=utf-8",
            schema="https://example.com/schema/1",
            subject='a "subject" of 100 % 😀',
            key="Straße 1/😀",
            headers={"tenant": "ä\u2028ö", "X-Odd Name": "a\r\nb", "empty": ""},
            priority=0 if bench.capabilities.priorities < 2 else 4,
            deliver_at_us=now_us() - 1_000_000,
            expires_at_us=later(3600),
            correlation_id="conversation-1",
            causation_id="cause-1",
            traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        )

    async def test_every_attribute_arrives(self, bench: Workbench) -> None:
        consumer = await self._reader(bench)
        full = self._full(bench)
        bare = bench.message(make_topic("orders.created"))
        await bench.send(make_topic("orders.created"), [full, bare])
        arrived = {d.message.id: d.message for d in await bench.take(consumer, 2)}
        assert arrived[full.id] == full
        assert arrived[bare.id] == bare
        assert arrived[bare.id].key is None, "no key is None, not a text"

    async def test_any_bytes_are_a_payload(self, bench: Workbench) -> None:
        consumer = await self._reader(bench)
        payloads = [b"", b"\x00", bytes(range(256)), b"\xff" * 10, bench.random.randbytes(60_000)]
        topic = make_topic("orders.created")
        sent = [bench.message(topic, data=data, content_type="a/b") for data in payloads]
        await bench.send(topic, sent)
        arrived = await bench.take(consumer, len(sent))
        found = {delivery.message.id: delivery.message.data for delivery in arrived}
        assert found == {message.id: message.data for message in sent}

    async def test_the_empty_key_is_a_key(self, bench: Workbench) -> None:
        consumer = await self._reader(bench)
        await bench.publish(make_topic("orders.created"), key="")
        (delivery,) = await bench.take(consumer, 1)
        assert delivery.message.key == ""

    async def test_a_payload_beyond_the_limit_is_refused(self, bench: Workbench) -> None:
        limit = bench.capabilities.max_payload
        if limit is None or limit > 32 << 20:
            bench.skip("no limit of payload size that a test could reach")
        consumer = await self._reader(bench)
        topic = make_topic("orders.created", max_payload=limit * 2)
        large = bench.message(topic, data=b"x" * (limit + 1))
        with pytest.raises(PublishError) as caught:
            await bench.send(topic, [large])
        assert isinstance(caught.value.failed[0], PayloadTooLargeError)
        await bench.nothing(consumer, "the payload was refused")

    async def test_publishing_nothing_is_nothing(self, bench: Workbench) -> None:
        consumer = await self._reader(bench)
        assert list(await bench.main.publish([])) == []
        await bench.nothing(consumer, "nothing was published")

    async def test_the_same_id_twice_is_two_messages(self, bench: Workbench) -> None:
        consumer = await self._reader(bench)
        topic = make_topic("orders.created")
        message = bench.message(topic)
        await bench.send(topic, [message, message])
        assert ids(await bench.take(consumer, 2)) == [message.id] * 2

    async def test_a_delivery_says_where_it_comes_from(self, bench: Workbench) -> None:
        consumer = await self._reader(bench)
        topic = make_topic("orders.created")
        message = bench.message(topic)
        (receipt,) = await bench.main.publish([(topic, message)])
        (delivery,) = await bench.take(consumer, 1)
        assert delivery.topic == topic.name
        assert delivery.group == ("g" if bench.capabilities.groups else None)
        assert delivery.attempts == 0
        assert delivery.failures == ()
        if receipt.position is not None:
            assert delivery.position == receipt.position
        if bench.capabilities.lease and bench.capabilities.groups:
            assert delivery.lease_until is not None
            assert delivery.lease_until > from_us(now_us()), "a lease begins at receive"

    async def test_topics_do_not_mix(self, bench: Workbench) -> None:
        names = ("orders.created", "orders.created.eu", "orders-created", "ORDERS")
        group = "g" if bench.capabilities.groups else None
        topics = [make_topic(name) for name in names]
        wishes = [bench.subscription(topic, group) for topic in topics]
        await bench.open(*topics, subscriptions=wishes if group else [])
        consumers = [await bench.consumer(wish) for wish in wishes]
        for topic, consumer in zip(topics, consumers, strict=True):
            sent = await bench.publish(topic, 3)
            arrived = await bench.take(consumer, 3)
            assert sorted(ids(arrived)) == sorted(ids(sent))
            assert {delivery.topic for delivery in arrived} == {topic.name}
        for consumer in consumers:
            await bench.nothing(consumer, "its own messages were received")

    async def test_receive_keeps_to_its_limits(self, bench: Workbench) -> None:
        consumer = await self._reader(bench)
        topic = make_topic("orders.created")
        sent = [bench.message(topic, data=bytes(10_000)) for _ in range(30)]
        await bench.send(topic, sent)
        found = await bench.take(consumer, 7, limit=7)
        few = await consumer.receive(20, 30_000, timedelta(seconds=5))
        assert 1 <= len(few) <= 4, f"max_bytes=30,000 gave {len(few)} messages of 10,000 bytes"
        one = await consumer.receive(20, 1, timedelta(seconds=5))
        assert len(one) == 1, "a message above max_bytes comes, alone"
        rest = await bench.take(consumer, 30 - 7 - len(few) - 1)
        assert sorted(ids([*found, *few, *one, *rest])) == sorted(ids(sent))

    async def test_receive_returns_empty_after_its_wait(self, bench: Workbench) -> None:
        consumer = await self._reader(bench)
        began = now_us()
        assert list(await consumer.receive(10, BYTES, timedelta(milliseconds=300))) == []
        assert now_us() - began >= 290_000, "receive waits before it gives up"
