"""What was accepted survives: closing, reopening, a killed process, a server that restarts."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta

from postroad.core.clock import duration_us
from postroad.core.delivery import Settlement
from postroad.core.message import Message
from postroad.core.notices import Disconnected, Notice
from postroad.errors import PublishError, TransportError
from postroad.testing.conformance.bench import Workbench, failure, ids, make_topic, now_us
from postroad.testing.conformance.processes import worker
from postroad.testing.conformance.waiting import PATIENCE
from postroad.testing.conformance.worker import Job


@dataclass
class Load:
    """A publisher that goes on through restarts, and what it knows was accepted."""

    accepted: list[str]
    stop: bool = False

    async def run(self, bench: Workbench) -> None:
        """Publish one after the other until told to stop; only what is confirmed counts."""
        topic = make_topic("orders.created")
        while not self.stop:
            message: Message = bench.message(topic)
            try:
                await bench.main.publish([(topic, message)])
                self.accepted.append(message.id)
            except (PublishError, TransportError):
                await asyncio.sleep(0.05)


async def _first(notices: AsyncIterator[Notice]) -> Notice:
    return await anext(notices)


class Durability:
    """Needs `durable`; the killed processes also need `shared`."""

    async def test_nothing_is_lost_by_closing_and_reopening(self, bench: Workbench) -> None:
        bench.need_groups()
        bench.need(bench.capabilities.durable, "durable")
        _, subscription = await bench.setup(partitions=4)
        topic = make_topic("orders.created", 4)
        sent: list[Message] = []
        done: list[str] = []
        for _ in range(4):
            sent += await bench.publish(topic, 25)
            consumer = await bench.consumer(subscription)
            done += ids(await bench.consume(consumer, 20, limit=20))
            await bench.take(consumer, 3)
            await bench.reopen()
        consumer = await bench.consumer(subscription)
        done += ids(await bench.consume(consumer, 20))
        assert Counter(done) == Counter(ids(sent)), "all settled, each once"
        await bench.nothing(consumer, "all was settled")

    async def test_attempts_survive_reopening(self, bench: Workbench) -> None:
        bench.need_each()
        bench.need(bench.capabilities.durable and bench.capabilities.attempts, "attempts, durable")
        topic, subscription = await bench.setup()
        consumer = await bench.consumer(subscription)
        await bench.publish(topic)
        said = failure("before")
        await bench.settle(consumer, await bench.take(consumer, 1), "nack", failure=said)
        await bench.reopen()
        (delivery,) = await bench.take(await bench.consumer(subscription), 1)
        assert (delivery.attempts, delivery.failures) == (1, (said,))

    async def test_every_instance_sees_the_same(self, bench: Workbench) -> None:
        bench.need_groups()
        bench.need(bench.capabilities.shared, "shared")
        topic, subscription = await bench.setup()
        consumer = await bench.consumer(subscription)
        writer = await bench.another()
        sent = [bench.message(topic, n) for n in range(20)]
        await writer.publish([(topic, message) for message in sent])
        assert sorted(ids(await bench.consume(consumer, 20))) == sorted(ids(sent))

    async def test_a_killed_publisher_loses_nothing_confirmed(self, bench: Workbench) -> None:
        self._need_processes(bench)
        _, subscription = await bench.setup()
        job = Job(bench.road.process, "publish", "orders.created", count=100_000)
        async with worker(job) as process:
            await process.said(50)
            confirmed = await process.kill()
        consumer = await bench.consumer(subscription)
        found = ids(await bench.consume(consumer, len(confirmed)))
        more = ids(await consumer.receive(10, 1 << 20, bench.road.lease))
        assert set(confirmed) <= {*found, *more}
        assert len(more) <= 1, "at most the one that was not confirmed yet"

    async def test_what_a_killed_consumer_held_comes_again(self, bench: Workbench) -> None:
        self._need_processes(bench)
        bench.need_each()
        bench.need(bench.capabilities.lease, "lease")
        topic, subscription = await bench.setup()
        sent = await bench.publish(topic, 30)
        lease = bench.road.lease.total_seconds()
        job = Job(bench.road.process, "hold", topic.name, count=10, lease=lease)
        async with worker(job) as process:
            held = await process.said(10)
            held = await process.kill()
        killed = now_us()
        consumer = await bench.consumer(subscription)
        found = await bench.consume(consumer, 30)
        assert Counter(ids(found)) == Counter(ids(sent)), "all came, each once"
        assert now_us() - killed < duration_us(bench.road.lease) + 10_000_000
        for delivery in found:
            assert delivery.attempts == 0, "a crash is no failure of the message"
            if delivery.starts is not None:
                assert delivery.starts == (delivery.message.id in held)

    async def test_what_a_killed_consumer_settled_stays_settled(self, bench: Workbench) -> None:
        self._need_processes(bench)
        topic, subscription = await bench.setup()
        sent = await bench.publish(topic, 300)
        lease = bench.road.lease.total_seconds()
        job = Job(bench.road.process, "consume", topic.name, count=7, lease=lease)
        async with worker(job) as process:
            await process.said(30)
            confirmed = set(await process.kill())
        consumer = await bench.consumer(subscription)
        found: list[str] = []
        patience = bench.road.lease + timedelta(seconds=1)
        while batch := await consumer.receive(50, 1 << 20, patience):
            await bench.settle(consumer, batch)
            found += ids(batch)
        assert not confirmed & set(found), "what was confirmed does not come again"
        unsaid = set(ids(sent)) - confirmed - set(found)
        assert len(unsaid) <= 7, "no more missing than one batch settled and not printed"
        if bench.capabilities.audit == "exact":
            assert (await bench.account(topic)).outcomes.get("handled") == 300, "nothing is lost"

    async def test_an_ordered_group_outlives_a_killed_owner(self, bench: Workbench) -> None:
        self._need_processes(bench)
        bench.need_each()
        bench.need(bench.capabilities.order == "key-group", 'order="key-group"')
        topic, subscription = await bench.setup(partitions=4)
        keys = [f"key-{n % 5}" for n in range(60)]
        sent = [bench.message(topic, n, key=key) for n, key in enumerate(keys)]
        await bench.send(topic, sent)
        lease = bench.road.lease.total_seconds()
        job = Job(bench.road.process, "hold", topic.name, 4, count=10, lease=lease, ordered=True)
        async with worker(job) as process:
            await process.said(10)
            await process.kill()
        consumer = await bench.consumer(subscription, ordered=True)
        found = await bench.consume(consumer, 60)
        for key in set(keys):
            expected = [message.id for message in sent if message.key == key]
            assert ids([d for d in found if d.message.key == key]) == expected

    async def test_a_server_restart_under_load_loses_nothing(self, bench: Workbench) -> None:
        restart = bench.road.restart
        if restart is None:
            bench.skip("there is no server to restart")
        bench.need_groups()
        bench.need(bench.capabilities.durable, "durable")
        _, subscription = await bench.setup()
        load = Load([])
        publishing = asyncio.create_task(load.run(bench))
        for _ in range(2):
            await restart()
        load.stop = True
        await publishing
        await bench.reopen()
        consumer = await bench.consumer(subscription)
        found: set[str] = set()
        while not set(load.accepted) <= found:
            found |= set(ids(await bench.consume(consumer, 1)))

    async def test_a_broken_connection_loses_nothing(self, bench: Workbench) -> None:
        disconnect = bench.road.disconnect
        if disconnect is None:
            bench.skip("a broken connection is nothing that a consumer would notice")
        bench.need_each()
        topic, subscription = await bench.setup()
        holder = await bench.another()
        consumer = await bench.consumer(subscription, holder)
        sent = await bench.publish(topic, 30)
        held = await bench.take(consumer, 10)
        await bench.settle(consumer, held[:4])
        told = asyncio.create_task(_first(holder.notices()))
        await disconnect(holder)
        assert isinstance(await asyncio.wait_for(told, PATIENCE), Disconnected)
        late = await consumer.settle([Settlement(delivery) for delivery in held[4:]])
        settled = {
            *ids(held[:4]),
            *(d.message.id for d, r in zip(held[4:], late, strict=True) if r == "done"),
        }
        rest = await bench.consume(consumer, len(sent) - len(settled))
        assert Counter(ids(rest)) == Counter(set(ids(sent)) - settled), "the others, each once"
        await bench.nothing(consumer, "all was settled")

    def _need_processes(self, bench: Workbench) -> None:
        bench.need_groups()
        capabilities = bench.capabilities
        bench.need(capabilities.durable and capabilities.shared, "durable and shared")
        bench.need(not bench.road.model, "a server that other processes reach")
        assert bench.road.process, "a shared durable road says how a process gets there"
