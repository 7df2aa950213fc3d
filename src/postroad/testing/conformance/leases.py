"""Leases: what a silent consumer holds goes to another one, and its late answers change nothing."""

from __future__ import annotations

import time

from postroad.core.delivery import Delivery, Settlement
from postroad.core.subscription import Subscription
from postroad.core.topic import Topic
from postroad.core.transport import Consumer
from postroad.testing.conformance.bench import Workbench, failure, ids, now_us
from postroad.testing.conformance.waiting import eventually


class Leases:
    """Needs `lease` and settling by message."""

    async def _held(
        self, bench: Workbench, count: int = 3
    ) -> tuple[Topic[dict[str, object]], Subscription, Consumer, list[Delivery]]:
        bench.need_each()
        bench.need(bench.capabilities.lease, "lease")
        topic, subscription = await bench.setup()
        holder = await bench.consumer(subscription, await bench.another(), lease=bench.road.lease)
        await bench.publish(topic, count)
        return topic, subscription, holder, await bench.take(holder, count)

    async def test_a_lease_that_ends_gives_the_message_to_another(self, bench: Workbench) -> None:
        _, subscription, _, held = await self._held(bench)
        until = min(delivery.lease_until_us or 0 for delivery in held)
        assert until > now_us() - 1_000_000, "the lease runs from the receive"
        other = await bench.consumer(subscription)
        again = await bench.take(other, 3)
        assert now_us() >= until, "nobody else has it before the lease ends"
        assert sorted(ids(again)) == sorted(ids(held))
        assert [delivery.attempts for delivery in again] == [0, 0, 0], "silence is no failure"
        await bench.settle(other, again)

    async def test_a_zombie_settles_nothing(self, bench: Workbench) -> None:
        topic, subscription, zombie, held = await self._held(bench)
        other = await bench.consumer(subscription)
        again = await bench.take(other, 3)
        for answers in (
            [Settlement(delivery) for delivery in held],
            [Settlement(delivery, "nack", failure=failure("zombie")) for delivery in held],
            [Settlement(delivery, "reject", failure=failure("zombie")) for delivery in held],
        ):
            settled = list(await zombie.settle(answers))
            assert settled == ["stale"] * 3, f"a zombie's {answers[0].action}: {settled}"
        assert list(await zombie.begin(held)) == []
        assert list(await zombie.extend(held)) == []
        await bench.settle(other, again)
        if bench.capabilities.audit == "exact":
            account = await bench.account(topic)
            assert {k: v for k, v in account.outcomes.items() if v} == {"handled": 3}

    async def test_a_zombie_whose_message_was_settled_changes_nothing(
        self, bench: Workbench
    ) -> None:
        topic, subscription, zombie, held = await self._held(bench)
        other = await bench.consumer(subscription)
        await bench.consume(other, 3)
        answers = [Settlement(delivery, "nack", failure=failure("zombie")) for delivery in held]
        assert set(await zombie.settle(answers)) <= {"stale", "done"}
        await bench.nothing(other, "it was acknowledged by its owner")
        if bench.capabilities.audit == "exact":
            assert (await bench.account(topic)).duplicates == 3, "duplicates are counted"

    async def test_the_fence_grows_with_every_owner(self, bench: Workbench) -> None:
        _, subscription, _, held = await self._held(bench)
        other = await bench.consumer(subscription)
        again = {delivery.message.id: delivery for delivery in await bench.take(other, 3)}
        for delivery in held:
            before, after = delivery.fence, again[delivery.message.id].fence
            if before is None or after is None:
                bench.skip("its deliveries carry no fence")
            assert after > before
        await bench.settle(other, list(again.values()))

    async def test_extending_keeps_what_is_held(self, bench: Workbench) -> None:
        _, subscription, holder, held = await self._held(bench)
        other = await bench.consumer(subscription)
        first_end = max(delivery.lease_until_us or 0 for delivery in held)
        lease = bench.road.lease.total_seconds()
        extended_past = first_end + int(lease * 1.5e6)
        pause = time.monotonic()
        while now_us() < extended_past:
            owned = await holder.extend(held)
            assert ids(owned) == ids(held), f"lost after {time.monotonic() - pause:.2f} s"
            await bench.nothing(other, "the leases are renewed")
        await bench.settle(holder, held)

    async def test_extend_returns_what_is_still_ours(self, bench: Workbench) -> None:
        _, subscription, holder, held = await self._held(bench)
        other = await bench.consumer(subscription)
        assert list(await other.extend(held)) == [], "another member's are not ours"
        assert ids(await holder.extend(held)) == ids(held)
        assert list(await holder.extend([])) == []
        await bench.settle(holder, held)

    async def test_a_begun_delivery_that_was_left_alone_is_told(self, bench: Workbench) -> None:
        _, subscription, holder, held = await self._held(bench)
        await holder.begin(held[:2])
        other = await bench.consumer(subscription)
        again = {delivery.message.id: delivery for delivery in await bench.take(other, 3)}
        starts = [again[delivery.message.id].starts for delivery in held]
        if starts[0] is None:
            bench.skip("nobody counts starts")
        assert starts[:2] == [1, 1], "begun and not answered"
        assert starts[2] in (0, 1), "received and not begun may count, where receiving marks it"
        await bench.settle(other, list(again.values()))

    async def test_a_late_answer_before_anybody_else_came_is_one_answer(
        self, bench: Workbench
    ) -> None:
        topic, subscription, holder, held = await self._held(bench, 1)
        until = held[0].lease_until_us or 0
        await eventually(lambda: now_us() > until, "the lease to end")
        (settled,) = await holder.settle([Settlement(held[0])])
        other = await bench.consumer(subscription)
        if settled == "done":
            await bench.nothing(other, "the late answer was taken")
        else:
            assert settled == "stale"
            await bench.consume(other, 1)
        if bench.capabilities.audit == "exact":
            assert (await bench.account(topic)).outcomes.get("handled") == 1
