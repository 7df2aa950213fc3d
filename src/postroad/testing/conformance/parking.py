"""Parking: what comes later of a key waits on the road behind what waits or died."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, cast

from postroad.core.delivery import Delivery
from postroad.core.message import Message
from postroad.core.subscription import Subscription
from postroad.core.topic import Topic
from postroad.core.transport import Consumer, DeadLetters
from postroad.testing.conformance.bench import Workbench, failure, ids

_DELAY = timedelta(seconds=0.8)


class Parking:
    """Needs `parking`. The key `k` is the one that is parked; `o` is another one beside it."""

    async def test_a_key_waits_behind_its_retry(self, bench: Workbench) -> None:
        topic, _, consumer = await _ordered(bench)
        sent = await _keyed(bench, topic, *"koko")
        held = await bench.take(consumer, 4)
        began = time.monotonic()
        await bench.settle(consumer, held[:1], "nack", delay=_DELAY, failure=failure("down"))
        await bench.settle(consumer, [held[2]], "nack")
        await bench.settle(consumer, [held[1], held[3]])
        sent += await _keyed(bench, topic, *"kok")
        (other,) = await bench.consume(consumer, 1)
        assert other.message == sent[5], "another key goes on"
        again = await bench.take(consumer, 4)
        assert time.monotonic() - began >= _DELAY.total_seconds(), "a delay is not early"
        assert ids(again) == ids([sent[0], sent[2], sent[4], sent[6]]), "in the order of the log"
        assert [delivery.attempts for delivery in again] == [1, 0, 0, 0], "only the failure counts"
        await bench.settle(consumer, again)

    async def test_a_whole_lane_can_be_given_back(self, bench: Workbench) -> None:
        topic, _, consumer = await _ordered(bench)
        sent = await _keyed(bench, topic, *"kkkkkk")
        for _ in range(2):
            held = await bench.take(consumer, 6)
            assert ids(held) == ids(sent)
            await bench.settle(consumer, held, "nack", delay=timedelta(seconds=0.3))
        assert ids(await bench.consume(consumer, 6, limit=2)) == ids(sent), "also in small batches"
        await bench.nothing(consumer, "all is settled")

    async def test_an_earlier_one_goes_before_what_waits(self, bench: Workbench) -> None:
        topic, _, consumer = await _ordered(bench)
        sent = await _keyed(bench, topic, *"kkk")
        held = await bench.take(consumer, 3)
        await bench.settle(consumer, held[1:2], "nack", delay=_DELAY)
        await bench.settle(consumer, held[2:], "nack", delay=timedelta(seconds=60))
        await bench.settle(consumer, held[:1], "nack")
        assert ids(await bench.consume(consumer, 1)) == ids(sent[:1])
        assert ids(await bench.consume(consumer, 1)) == ids(sent[1:2])
        await bench.nothing(consumer, "its own delay is not over")

    async def test_what_is_parked_is_counted_and_survives(self, bench: Workbench) -> None:
        topic, subscription, consumer = await _ordered(bench)
        sent = await _keyed(bench, topic, *"kkk")
        held = await bench.take(consumer, 3)
        await bench.settle(consumer, held, "nack", delay=_DELAY)
        sent += await _keyed(bench, topic, *"kk")
        await bench.nothing(consumer, "the key waits")
        if bench.capabilities.audit == "exact":
            account = await bench.account(topic)
            assert (account.waiting, account.backlog, account.leased) == (5, 0, 0)
        if bench.capabilities.lag:
            assert (await bench.source().lag(topic.name, "g")).messages == 5
        bench.need(bench.capabilities.durable, "durable")
        await bench.reopen()
        consumer = await bench.consumer(subscription, ordered=True)
        assert ids(await bench.consume(consumer, 5)) == ids(sent)

    # Behind a dead letter

    async def test_a_dead_letter_parks_its_key(self, bench: Workbench) -> None:
        topic, _, consumer, sent = await _parked(bench)
        assert await _redrive(bench, topic) == 1
        assert ids(await bench.consume(consumer, 4, limit=1)) == ids(sent), "the dead one first"
        await bench.nothing(consumer, "the key is drained")
        assert ids(await _after(bench, topic, consumer)) != [], "and goes on"

    async def test_discarding_it_lets_its_key_go_on(self, bench: Workbench) -> None:
        topic, _, consumer, sent = await _parked(bench)
        letters = await _letters(bench, topic)
        await cast(DeadLetters, bench.main).discard([letter.id for letter in letters])
        assert ids(await bench.consume(consumer, 3)) == ids(sent[1:])
        await _after(bench, topic, consumer)

    async def test_dying_again_parks_again(self, bench: Workbench) -> None:
        topic, _, consumer, sent = await _parked(bench)
        for _ in range(2):
            await _redrive(bench, topic)
            held = await bench.take(consumer, 4)
            assert ids(held) == ids(sent)
            await _die(bench, consumer, held)
            await bench.nothing(consumer, "the key is parked again")
        await _redrive(bench, topic)
        held = await bench.take(consumer, 4)
        await bench.settle(consumer, held[:1])
        await _die(bench, consumer, held[1:])
        await bench.nothing(consumer, "the next one parks it")
        await _redrive(bench, topic)
        assert ids(await bench.consume(consumer, 3)) == ids(sent[1:])

    async def test_a_parked_key_survives(self, bench: Workbench) -> None:
        topic, subscription, consumer, sent = await _parked(bench)
        bench.need(bench.capabilities.durable, "durable")
        await bench.reopen()
        consumer = await bench.consumer(subscription, ordered=True, parks=True)
        await bench.nothing(consumer, "the key is parked")
        await _redrive(bench, topic)
        assert ids(await bench.consume(consumer, 4)) == ids(sent)

    async def test_without_the_plan_a_key_goes_on(self, bench: Workbench) -> None:
        topic, _, consumer = await _ordered(bench)
        sent = await _keyed(bench, topic, *"kk")
        held = await bench.take(consumer, 1)
        await bench.settle(consumer, held, "reject", failure=failure("poison"))
        assert ids(await bench.consume(consumer, 1)) == ids(sent[1:])


async def _ordered(
    bench: Workbench, *, parks: bool = False
) -> tuple[Topic[Any], Subscription, Consumer]:
    bench.need_each()
    bench.need(bench.capabilities.parking, "parking")
    topic, subscription = await bench.setup()
    consumer = await bench.consumer(subscription, ordered=True, parks=parks)
    return topic, subscription, consumer


async def _keyed(bench: Workbench, topic: Topic[Any], *keys: str) -> list[Message]:
    return await bench.send(topic, [bench.message(topic, n, key=key) for n, key in enumerate(keys)])


async def _parked(bench: Workbench) -> tuple[Topic[Any], Subscription, Consumer, list[Message]]:
    """The first of four of a key dead, the others parked: handed back, and new."""
    topic, subscription, consumer = await _ordered(bench, parks=True)
    sent = await _keyed(bench, topic, *"kkk")
    await _die(bench, consumer, await bench.take(consumer, 3))
    sent += await _keyed(bench, topic, *"ko")
    assert [d.message.key for d in await bench.consume(consumer, 1)] == ["o"]
    await bench.nothing(consumer, "the key is parked")
    return topic, subscription, consumer, sent[:4]


async def _die(bench: Workbench, consumer: Consumer, held: Sequence[Delivery]) -> None:
    await bench.settle(consumer, held[:1], "reject", failure=failure("poison"))
    await bench.settle(consumer, held[1:], "nack")


async def _after(bench: Workbench, topic: Topic[Any], consumer: Consumer) -> Sequence[Delivery]:
    sent = await _keyed(bench, topic, *"kok")
    found = await bench.consume(consumer, 3)
    assert ids(found) == ids(sent)
    return found


async def _letters(bench: Workbench, topic: Topic[Any]) -> Any:
    return await cast(DeadLetters, bench.main).dead_letters(topic.name, "g", 100)


async def _redrive(bench: Workbench, topic: Topic[Any]) -> int:
    letters = await _letters(bench, topic)
    return await cast(DeadLetters, bench.main).redrive([letter.id for letter in letters])
