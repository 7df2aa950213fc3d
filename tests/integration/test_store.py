"""The store: retries, parked keys and dead letters of roads that cannot keep them, on SQLite."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from postroad import Delivery, Hooks, Message, Postroad, Reject, Retry, Topic
from postroad.core.delivery import Receipt
from postroad.core.reports import Account, Lag
from postroad.delivery.delaying import Delaying
from postroad.errors import (
    DeclarationError,
    GuaranteeError,
    NotFoundError,
    PayloadTooLargeError,
    PublishError,
)
from postroad.testing.conformance.waiting import eventually
from postroad.testing.models import Broker, CumulativeModel, LeasedModel, PushModel
from postroad.testing.models.base import ModelTransport

SOON = timedelta(seconds=0.3)


class Step(Struct):
    key: str
    n: int


STEPS = Topic("steps.taken", Step, key="key", partitions=2)
Make = Callable[[], Postroad]


@pytest.fixture(params=[CumulativeModel, PushModel], ids=["cumulative", "push"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Makes apps, as of several processes, over one server and one store."""
    return maker(request.param, tmp_path)


def maker(model: type[ModelTransport[Any]], folder: Path) -> Make:
    broker: Broker[Any] = Broker()

    def make() -> Postroad:
        road = Postroad("memory://", store=f"sqlite:///{folder}/store.db")
        road._transport = model(broker)
        return road

    return make


async def balanced(road: Postroad) -> None:
    """The store accounts for all that was moved to it, and has done with it."""

    async def settled() -> bool:
        entries = [one for one in (await road.audit()).entries if one.account is not None]
        assert entries
        return all(one.verdict == "balanced" and not one.pending for one in entries)

    await eventually(settled, "the store's account balances and nothing is pending")


async def publish(road: Postroad, key: str, numbers: range) -> None:
    await road.publish_many(STEPS, [Step(key, n) for n in numbers])


# ------------------------------------------------------------------ without order


async def test_a_retry_waits_in_the_store_and_holds_up_nothing(make: Make) -> None:
    road = make()
    calls: defaultdict[int, list[tuple[float, int, int]]] = defaultdict(list)

    @road.subscribe(
        STEPS, group="g", start="latest", retry=Retry(attempts=4, backoff="fixed", first=SOON)
    )
    async def handler(step: Step, delivery: Delivery) -> None:
        now = time.monotonic()
        calls[step.n].append((now, delivery.attempts, len(delivery.failures)))
        assert delivery.topic == STEPS.name
        assert not delivery.message.headers, "as it was published"
        if step.n % 10 == 0 and delivery.attempts < 2:
            raise ConnectionError("down")

    async with road, road.consuming():
        await publish(road, "k", range(100))
        await eventually(lambda: len(calls) == 100, "all of them, once")
        await eventually(lambda: sum(map(len, calls.values())) == 120, "ten of them twice more")
    for n, made in calls.items():
        expected = [0, 1, 2] if n % 10 == 0 else [0]
        assert [attempts for _, attempts, _ in made] == expected, "each attempt once"
        assert [failures for _, _, failures in made] == expected, "with its history"
        assert all(b[0] - a[0] >= 0.29 for a, b in pairwise(made)), "not early"


async def test_what_dies_is_kept_in_the_store_and_comes_back(make: Make) -> None:
    road = make()
    handled: list[int] = []
    sick = True

    @road.subscribe(STEPS, group="g", start="latest", retry=Retry(attempts=2, backoff="immediate"))
    async def handler(step: Step) -> None:
        if sick and step.n == 3:
            raise Reject("never")
        if sick and step.n == 4:
            raise ValueError("poison")
        handled.append(step.n)

    async def dead() -> int:
        return len(await road.dead_letters.list())

    async with road, road.consuming():
        await publish(road, "k", range(6))
        await eventually(lambda: sorted(handled) == [0, 1, 2, 5], "the others")

        async def both() -> bool:
            return await dead() == 2

        await eventually(both, "both are dead")
        rejected, failed = sorted(await road.dead_letters.list(), key=lambda one: len(one.failures))
        assert [one.reason for one in rejected.failures] == ["rejected"]
        assert [one.detail for one in failed.failures] == ["poison"] * 2
        assert {rejected.topic, failed.topic} == {STEPS.name}
        assert {rejected.group, failed.group} == {"g"}
        assert not rejected.message.headers
        assert await road.dead_letters.list("other.*") == []
        sick = False
        await balanced(road)
        assert await road.dead_letters.redrive() == 2
        await eventually(lambda: sorted(handled) == list(range(6)), "they come back")
        assert await dead() == 0


async def test_waiting_retries_survive_every_process(make: Make) -> None:
    handled: list[tuple[int, int]] = []
    sick = True

    def app() -> Postroad:
        road = make()

        @road.subscribe(STEPS, group="g", start="latest", retry=Retry(backoff="fixed", first=SOON))
        async def handler(step: Step, delivery: Delivery) -> None:
            if sick:
                raise ConnectionError("down")
            handled.append((step.n, delivery.attempts))

        return road

    first = app()
    async with first:
        await publish(first, "k", range(20))
        async with first.consuming(drain=timedelta(0)):
            waiting = 0

            async def parked() -> bool:
                nonlocal waiting
                entries = (await first.audit()).entries
                waiting = sum(one.pending for one in entries)
                return waiting == 20

            await eventually(parked, "all of them wait in the store")
    sick = False
    second = app()
    async with second, second.consuming():
        await eventually(lambda: len(handled) == 20, "all of them")
    assert sorted(n for n, _ in handled) == list(range(20))
    assert all(attempts >= 1 for _, attempts in handled), "their attempts are kept"


async def test_what_is_on_its_way_to_the_store_gets_there_also_past_the_drain(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def app() -> Postroad:
        road = make()

        @road.subscribe(STEPS, group="g", start="latest")
        async def handler(step: Step) -> None:
            calls.append(step.n)
            raise Reject("never")

        return road

    first = app()
    store: Any = first._store
    keep = store.keep

    async def slowly(*args: Any, **options: Any) -> None:
        await asyncio.sleep(0.3)
        await keep(*args, **options)

    monkeypatch.setattr(store, "keep", slowly)
    async with first:
        async with first.consuming(drain=timedelta(0)):
            await publish(first, "k", range(3))
            await eventually(lambda: len(calls) == 3, "all of them are refused")
        assert len(await first.dead_letters.list()) == 3
    second = app()
    async with second, second.consuming():
        await publish(second, "k", range(3, 4))
        await eventually(lambda: 3 in calls, "it goes on")
    assert calls == [0, 1, 2, 3], "and repeats none"


# ------------------------------------------------------------------ in order of a key


def ordered(
    road: Postroad, handled: defaultdict[str, list[int]], sick: set[tuple[str, int]], **retry: Any
) -> None:
    policy: dict[str, Any] = {"attempts": 100, "backoff": "fixed", "first": SOON, "hold": 5}

    @road.subscribe(
        STEPS, group="g", order="key", start="latest", prefetch=100, retry=Retry(**policy | retry)
    )
    async def handler(step: Step) -> None:
        await asyncio.sleep(0)
        if (step.key, step.n) in sick:
            raise ConnectionError("down")
        handled[step.key].append(step.n)


async def test_a_blocked_key_is_parked_in_the_store(tmp_path: Path) -> None:
    road = maker(CumulativeModel, tmp_path)()
    handled: defaultdict[str, list[int]] = defaultdict(list)
    sick = {("hot", 0)}
    ordered(road, handled, sick)
    async with road, road.consuming():
        await publish(road, "hot", range(500))
        for number in range(10):
            await publish(road, f"cold{number}", range(50))
        await eventually(lambda: sum(map(len, handled.values())) == 500, "the other keys go on")
        assert not handled["hot"]
        await asyncio.sleep(0.5)
        sick.clear()
        await eventually(lambda: len(handled["hot"]) == 500, "the parked key drains", 60)
        await publish(road, "hot", range(500, 600))
        await eventually(lambda: len(handled["hot"]) == 600, "and goes on on its road")
        await balanced(road)
    for got in handled.values():
        assert got == list(range(len(got))), "each once, in order"


async def test_a_parked_key_stays_in_order_while_owners_change(tmp_path: Path) -> None:
    """Consumers come and go, drained, while one key is parked and more of it is published."""
    make = maker(CumulativeModel, tmp_path)
    handled: defaultdict[str, list[int]] = defaultdict(list)
    sick = {("hot", 3)}
    publisher = make()
    async with publisher:
        published = 0
        for turn in range(6):
            road = make()
            ordered(road, handled, sick)
            async with road, road.consuming(drain=timedelta(seconds=5)):
                for key in ("hot", "cold"):
                    await publish(publisher, key, range(published, published + 40))
                published += 40
                await eventually(
                    lambda wanted=published: len(handled["cold"]) == wanted,  # type: ignore[misc]
                    "the other key goes on",
                )
                if turn == 4:
                    sick.clear()
        road = make()
        ordered(road, handled, sick)
        async with road, road.consuming():
            await eventually(lambda: len(handled["hot"]) >= published, "the parked key drains")
    first = list(dict.fromkeys(handled["hot"]))
    assert first == list(range(published)), "in order over first deliveries, none lost"


async def test_two_owners_share_a_store(tmp_path: Path) -> None:
    make = maker(CumulativeModel, tmp_path)
    handled: defaultdict[str, list[int]] = defaultdict(list)
    sick = {(f"key{number}", 7) for number in range(0, 12, 2)}
    async with AsyncExitStack() as stack:
        roads = [make(), make()]
        for road in roads:
            ordered(road, handled, sick)
            await stack.enter_async_context(road)
            await stack.enter_async_context(road.consuming())
        for start in range(0, 60, 20):
            for number in range(12):
                await publish(roads[0], f"key{number}", range(start, start + 20))
        await eventually(lambda: distinct(handled) == 6 * 60 + 6 * 7, "what can be")
        sick.clear()
        await eventually(lambda: distinct(handled) == 12 * 60, "all of it")
    for got in handled.values():
        assert list(dict.fromkeys(got)) == list(range(60)), "in order over first deliveries"


def distinct(handled: defaultdict[str, list[int]]) -> int:
    """How many messages were handled; a rebalance may repeat some."""
    return sum(len(set(got)) for got in handled.values())


async def test_a_dead_message_parks_its_key_in_the_store(tmp_path: Path) -> None:
    road = maker(CumulativeModel, tmp_path)()
    handled: defaultdict[str, list[int]] = defaultdict(list)
    sick = {("hot", 2)}
    ordered(road, handled, sick, attempts=1, on_dead="park-key")

    async def dead() -> bool:
        return len(await road.dead_letters.list()) == 1

    async with road, road.consuming():
        await publish(road, "hot", range(6))
        await publish(road, "cold", range(6))
        await eventually(lambda: len(handled["cold"]) == 6, "the other key goes on")
        await eventually(dead, "a dead letter")
        await publish(road, "hot", range(6, 9))
        await publish(road, "cold", range(6, 7))
        await eventually(lambda: len(handled["cold"]) == 7, "also new ones of it")
        assert handled["hot"] == [0, 1]
        sick.clear()
        await road.dead_letters.redrive()
        await eventually(lambda: len(handled["hot"]) == 9, "the key drains")
        await balanced(road)
        assert handled["hot"] == list(range(9))


# ------------------------------------------------------------------ declarations


async def test_the_contract_names_the_store(make: Make) -> None:
    road = make()

    @road.subscribe(STEPS, group="g")
    async def handler(step: Step) -> None: ...

    (contract, *_) = road.explain()
    keepers = {term.subject: term.keeper for term in contract.terms}
    assert (keepers["retry"], keepers["dead letters"]) == ("store", "store")


async def test_without_a_store_it_is_refused() -> None:
    road = Postroad("memory://")
    road._transport = CumulativeModel(Broker())

    @road.subscribe(STEPS, group="g")
    async def handler(step: Step) -> None: ...

    with pytest.raises(GuaranteeError, match="store="):
        await road.open()


@pytest.mark.parametrize("url", ["memory://", "sqlite://"])
def test_what_cannot_keep_is_no_store(url: str) -> None:
    with pytest.raises((DeclarationError, ValueError)):
        Postroad("memory://", store=url)


# ------------------------------------------------------------------ delays


async def test_a_delayed_message_waits_in_the_store(make: Make) -> None:
    road = make()
    came: dict[int, float] = {}

    @road.subscribe(STEPS, group="g", start="latest")
    async def handler(step: Step, delivery: Delivery) -> None:
        came[step.n] = time.monotonic()
        assert not delivery.message.headers

    async with road, road.consuming():
        began = time.monotonic()
        await road.publish(STEPS, Step("k", 1), delay=timedelta(seconds=0.6))
        await road.publish_many(STEPS, [Step("k", 2), Step("k", 3)], delay=timedelta(seconds=0.3))
        receipt = await road.publish(STEPS, Step("k", 4), delay=timedelta(seconds=0.3))
        await road.publish(STEPS, Step("k", 5))
        assert receipt.position is None
        assert receipt.recall is not None
        assert await road.cancel(receipt.recall)
        await eventually(lambda: len(came) == 4, "all but the one that was withdrawn")
    assert sorted(came) == [1, 2, 3, 5]
    assert came[5] - began < 0.3
    assert all(came[n] - began >= 0.29 for n in (2, 3))
    assert came[1] - began >= 0.59


async def test_a_delayed_message_survives_and_is_published_by_another_process(make: Make) -> None:
    came: list[int] = []

    def app() -> Postroad:
        road = make()

        @road.subscribe(STEPS, group="g", start="latest")
        async def handler(step: Step) -> None:
            came.append(step.n)

        return road

    first = app()
    async with first:
        await publish_later(first, 7)
    second = app()
    async with second, second.consuming():
        await eventually(lambda: came == [7], "it comes")


async def publish_later(road: Postroad, n: int) -> None:
    await road.publish(STEPS, Step("k", n), delay=SOON)


class Picky(LeasedModel):
    """Counts what becomes of messages; refuses for good what is in `refused`."""

    def __init__(self, broker: Broker[Any] | None = None) -> None:
        super().__init__(broker)
        self.refused: set[str] = set()

    async def publish(self, messages: Sequence[tuple[Topic[Any], Message]]) -> Sequence[Receipt]:
        if any(message.id in self.refused for _, message in messages):
            raise PublishError({0: PayloadTooLargeError("too large")})
        return await super().publish(messages)


def two_groups(make: Make) -> tuple[Postroad, list[int]]:
    """An app with the groups `g` and `h`, and what they handled."""
    road, came = make(), []

    @road.subscribe(STEPS, group="g", start="latest")
    async def handler(step: Step) -> None:
        came.append(step.n)

    @road.subscribe(STEPS, group="h", start="latest")
    async def other(step: Step) -> None:
        came.append(step.n)

    return road, came


async def accounts(road: Postroad, *asked: Any) -> dict[tuple[str, str], Account]:
    """By topic and group, without what was moved for a group."""
    found = await road.audit(*asked)
    assert found.verdict == "balanced"
    return {
        (one.topic.removeprefix("postroad.moved."), one.group): one.account
        for one in found.entries
        if one.account is not None and (one.account.accepted or one.group == "postroad")
    }


def delayed_of(found: dict[tuple[str, str], Account]) -> Account:
    """The account of what waited in the store."""
    (account,) = [account for (_, group), account in found.items() if group == "postroad"]
    return account


def behind(lags: Sequence[Lag]) -> dict[str, int | None]:
    """Messages by group, where there are any."""
    return {lag.group: lag.messages for lag in lags if lag.messages}


async def test_delayed_messages_in_the_store_are_accounted_for(tmp_path: Path) -> None:
    road, came = two_groups(maker(LeasedModel, tmp_path))
    async with road:
        await road.publish(STEPS, Step("k", 1))
        for n, delay in ((2, SOON), (3, SOON), (4, timedelta(hours=1))):
            await road.publish(STEPS, Step("k", n), delay=delay)
        found = await accounts(road)
        for group in ("g", "h"):
            account = found[STEPS.name, group]
            assert (account.accepted, account.backlog, account.scheduled) == (4, 1, 3)
        assert (delayed_of(found).accepted, delayed_of(found).scheduled) == (3, 3)
        assert set(await accounts(road, "steps.*", "g")) == set(found) - {(STEPS.name, "h")}
        assert behind(await road.lag()) == {"g": 1, "h": 1}, "not what is for later"

        async def due() -> bool:
            return behind(await road.lag("steps.*", "g")) == {"g": 1, "postroad": 2}

        await eventually(due, "what is due and not published is on its way to every group")
        assert (await accounts(road))[STEPS.name, "g"].accepted == 4
        async with road.consuming(), asyncio.timeout(20):
            await road.settled(STEPS.name, "g")
            await road.settled()
        assert sorted(came) == [1, 1, 2, 2, 3, 3]
        found = await accounts(road)
        for group in ("g", "h"):
            account = found[STEPS.name, group]
            assert (account.accepted, account.scheduled) == (4, 1)
            assert account.outcomes["handled"] == 3
        assert delayed_of(found).outcomes["handled"] == 2
        assert delayed_of(found).scheduled == 1
        assert not behind(await road.lag())


@pytest.mark.parametrize("kind", ["lag", "audit"])
async def test_what_is_published_while_one_asks_is_not_overlooked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    road, _ = two_groups(maker(LeasedModel, tmp_path))
    here: Any = road._transport
    there: Any = road._store

    async def published() -> bool:
        return (await LeasedModel.lag(here, STEPS.name, "g")).messages == 1

    async def forward() -> None:
        assert road._delaying is not None
        stop = asyncio.Event()
        runner = asyncio.create_task(road._delaying.runner(Hooks()).run(stop, SOON))
        await eventually(published, "it is published")
        stop.set()
        await runner

    def meanwhile(ask: Callable[..., Any]) -> Callable[..., Any]:
        """After the first answer the message goes from the store to its road."""

        async def asked(*pair: str) -> Any:
            answer = await ask(*pair)
            if not await published():
                await forward()
            return answer

        return asked

    async with road:
        await publish_later(road, 1)
        await asyncio.sleep(SOON.total_seconds())
        for place, method in ((here, "lag"), (there, "lag"), (here, "account"), (there, "account")):
            monkeypatch.setattr(place, method, meanwhile(getattr(place, method)))
        if kind == "lag":
            assert sum(one.messages or 0 for one in await road.lag(group="g")) >= 1
        else:
            assert (await accounts(road))[STEPS.name, "g"].accepted >= 1
        monkeypatch.undo()
        first, *_ = await road.lag(STEPS.name, "g")
        assert first.topic == STEPS.name, "its own place is told first"


async def test_only_topics_that_are_asked_about_are_told(tmp_path: Path) -> None:
    road, _ = two_groups(maker(LeasedModel, tmp_path))
    async with road:
        await road.publish(STEPS, Step("k", 1), delay=timedelta(hours=1))
        await road.publish(Topic("alone", int), 1, delay=timedelta(hours=1))
        assert len(await accounts(road)) == 4
        assert len(await accounts(road, "steps.*")) == 3
        assert delayed_of(await accounts(road, "alone")).scheduled == 1, "no group reads it"
        assert delayed_of(await accounts(road, STEPS.name, "postroad")).scheduled == 1
        for asked in (("steps.*", "typo"), ("typo",)):
            with pytest.raises(NotFoundError):
                await road.audit(*asked)


async def test_what_waits_is_told_by_a_road_that_counts_nothing(make: Make) -> None:
    road = make()
    async with road:
        await publish_later(road, 1)
        (nothing, waiting) = (await road.audit()).entries
    assert nothing.verdict == "unknown"
    assert (waiting.verdict, waiting.pending) == ("balanced", 1)


@pytest.mark.parametrize("action", ["redrive", "discard"])
async def test_a_delayed_message_that_is_refused_for_good_is_a_dead_letter(
    tmp_path: Path, action: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient = Retry(attempts=2, backoff="immediate")
    slow = Delaying._subscription
    monkeypatch.setattr(
        Delaying, "_subscription", lambda self: replace(slow(self), retry=impatient)
    )
    road, came = two_groups(maker(Picky, tmp_path))
    picky = road._transport
    assert isinstance(picky, Picky)

    async def one_died() -> bool:
        return delayed_of(await accounts(road)).outcomes.get("dead") == 1

    async with road, road.consuming(), asyncio.timeout(60):
        receipt = await road.publish(STEPS, Step("k", 1), delay=SOON)
        assert receipt.recall is not None
        picky.refused = {receipt.recall}
        await eventually(one_died, "the store accounts for it")
        (letter,) = await road.dead_letters.list("steps.*")
        assert (letter.topic, letter.message.id) == (STEPS.name, receipt.recall)
        assert STEPS.decode(letter.message.data) == Step("k", 1)
        assert not letter.message.headers
        assert "too large" in letter.failures[-1].detail
        assert await road.dead_letters.list("other.*") == []
        await road.settled()
        picky.refused.clear()
        assert await getattr(road.dead_letters, action)([letter.id]) == 1
        await road.settled()
        assert came == ([1, 1] if action == "redrive" else [])
        assert await road.dead_letters.list() == []
        outcomes = delayed_of(await accounts(road)).outcomes
        ended = "handled" if action == "redrive" else "discarded"
        assert {name: n for name, n in outcomes.items() if n} == {ended: 1}
