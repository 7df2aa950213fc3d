"""Dead letters: kept whole, listed, redriven in order, discarded, and counted."""

from __future__ import annotations

from typing import Any, cast

import pytest

from postroad.core.delivery import Delivery
from postroad.core.message import Message
from postroad.core.subscription import Subscription
from postroad.core.topic import Topic
from postroad.core.transport import Consumer, DeadLetters
from postroad.errors import NotSupportedError
from postroad.testing.conformance.bench import Workbench, failure, ids, make_topic


class DeadLettering:
    """Needs `dead_letters`, except for the test that undeclared ones are refused."""

    async def _dead(
        self, bench: Workbench, count: int = 6
    ) -> tuple[Topic[Any], Subscription, Consumer, list[Message], list[Delivery]]:
        """So many messages, the even ones rejected, the odd ones acknowledged."""
        bench.need_each()
        bench.need(bench.capabilities.dead_letters, "dead_letters")
        topic, subscription = await bench.setup()
        consumer = await bench.consumer(subscription)
        sent = await bench.publish(topic, count, key="key", headers={"tenant": "ä"})
        found = await bench.take(consumer, count)
        dead = list(reversed(found[::2]))
        for delivery in dead:
            await bench.settle(
                consumer, [delivery], "reject", failure=failure("poison", "rejected")
            )
        await bench.settle(consumer, found[1::2])
        return topic, subscription, consumer, sent, found

    async def test_a_reject_is_final_and_listed_whole(self, bench: Workbench) -> None:
        topic, _, consumer, sent, found = await self._dead(bench)
        await bench.nothing(consumer, "a reject is final")
        letters = await self._letters(bench, topic)
        assert [letter.message for letter in letters] == sent[::2], "in the order of the log"
        for letter, delivery in zip(letters, found[::2], strict=True):
            assert (letter.topic, letter.group) == (topic.name, "g")
            assert [(one.reason, one.detail) for one in letter.failures] == [("rejected", "poison")]
            if delivery.position is not None:
                assert letter.position == str(delivery.position)
            assert letter.died_us > 0
        if bench.capabilities.audit == "exact":
            outcomes = (await bench.account(topic)).outcomes
            assert (outcomes.get("dead"), outcomes.get("handled")) == (3, 3)

    async def test_a_dead_letter_has_its_whole_history(self, bench: Workbench) -> None:
        bench.need_each()
        bench.need(bench.capabilities.dead_letters and bench.capabilities.attempts, "attempts")
        topic, subscription = await bench.setup()
        consumer = await bench.consumer(subscription)
        await bench.publish(topic)
        said = [failure(f"failure {n}") for n in range(3)]
        for n, one in enumerate(said):
            action: Any = "nack" if n < 2 else "reject"
            await bench.settle(consumer, await bench.take(consumer, 1), action, failure=one)
        (letter,) = await self._letters(bench, topic)
        assert list(letter.failures) == said, "oldest first, the last one is the reason"

    async def test_listing_is_by_topic_pattern_group_and_limit(self, bench: Workbench) -> None:
        topic, *_ = await self._dead(bench)
        road = cast(DeadLetters, bench.main)
        assert len(await road.dead_letters("orders.*", None, 100)) == 3
        assert len(await road.dead_letters("#", "g", 100)) == 3
        assert len(await road.dead_letters(topic.name, "g", 2)) == 2
        assert list(await road.dead_letters(topic.name, "other", 100)) == []
        assert list(await road.dead_letters("invoices.*", None, 100)) == []

    async def test_redrive_keeps_order_and_identity(self, bench: Workbench) -> None:
        topic, _, consumer, sent, found = await self._dead(bench)
        letters = list(await self._letters(bench, topic))
        bench.random.shuffle(letters)
        road = cast(DeadLetters, bench.main)
        assert await road.redrive([letter.id for letter in letters]) == 3
        assert list(await self._letters(bench, topic)) == []
        again = await bench.take(consumer, 3)
        assert [delivery.message for delivery in again] == sent[::2], "in the order of the log"
        assert all(d.attempts == 0 and d.failures == () for d in again), "attempts are reset"
        keys = [delivery.idempotency_key for delivery in found[::2]]
        assert [delivery.idempotency_key for delivery in again] == keys
        await bench.settle(consumer, again)
        if bench.capabilities.audit == "exact":
            outcomes = (await bench.account(topic)).outcomes
            assert (outcomes.get("handled"), outcomes.get("dead", 0)) == (6, 0)

    async def test_redrive_goes_to_its_own_group_only(self, bench: Workbench) -> None:
        topic, *_ = await self._dead(bench)
        other = await bench.consumer(bench.subscription(topic, "other", "latest"))
        letters = await self._letters(bench, topic)
        await cast(DeadLetters, bench.main).redrive([letter.id for letter in letters])
        await bench.nothing(other, "another group's dead letters are not ours")

    async def test_a_redriven_message_can_die_again(self, bench: Workbench) -> None:
        topic, _, consumer, _, _ = await self._dead(bench, 1)
        road = cast(DeadLetters, bench.main)
        for _ in range(3):
            (letter,) = await self._letters(bench, topic)
            await road.redrive([letter.id])
            held = await bench.take(consumer, 1)
            await bench.settle(consumer, held, "reject", failure=failure("again"))
        (letter,) = await self._letters(bench, topic)
        assert letter.failures[-1].detail == "again"

    async def test_discard_is_final_and_counted(self, bench: Workbench) -> None:
        topic, _, consumer, _, _ = await self._dead(bench)
        road = cast(DeadLetters, bench.main)
        letters = await self._letters(bench, topic)
        assert await road.discard([letters[0].id, letters[1].id]) == 2
        assert await road.discard([letters[0].id, "no such letter"]) == 0
        assert await road.redrive([letters[0].id]) == 0
        assert [letter.id for letter in await self._letters(bench, topic)] == [letters[2].id]
        await bench.nothing(consumer, "they were discarded")
        if bench.capabilities.audit == "exact":
            outcomes = (await bench.account(topic)).outcomes
            assert (outcomes.get("dead"), outcomes.get("discarded")) == (1, 2)

    async def test_dead_letters_survive_reopening(self, bench: Workbench) -> None:
        topic, subscription, _, sent, _ = await self._dead(bench)
        bench.need(bench.capabilities.durable, "durable")
        await bench.reopen()
        letters = await self._letters(bench, topic)
        assert [letter.message for letter in letters] == sent[::2]
        await cast(DeadLetters, bench.main).redrive([letter.id for letter in letters])
        assert ids(await bench.consume(await bench.consumer(subscription), 3)) == ids(sent[::2])

    async def test_they_are_refused_where_undeclared(self, bench: Workbench) -> None:
        if bench.capabilities.dead_letters:
            bench.skip("they are declared")
        await bench.open(make_topic("orders.created"))
        if isinstance(bench.main, DeadLetters):
            with pytest.raises(NotSupportedError):
                await bench.main.dead_letters("#", None, 1)

    async def _letters(self, bench: Workbench, topic: Topic[Any]) -> Any:
        return await cast(DeadLetters, bench.main).dead_letters(topic.name, "g", 100)
