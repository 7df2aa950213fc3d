"""The workbench of a test: opens roads, publishes, receives, and checks the audit at the end."""

from __future__ import annotations

import os
import random
import secrets
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any, NoReturn, cast

import pytest

from postroad.core.capabilities import Capabilities
from postroad.core.clock import duration_us
from postroad.core.delivery import Action, Delivery, Failure, Settlement, Start
from postroad.core.message import Message, new_id
from postroad.core.reports import Account
from postroad.core.subscription import Subscription
from postroad.core.topic import Topic
from postroad.core.transport import Audited, Consumer, Plan, Source, Transport
from postroad.testing.conformance.road import Road

BYTES = 64 << 20
STEP = timedelta(milliseconds=200)
QUIET = timedelta(milliseconds=150)
"""How long nothing has to come before it counts as nothing."""
SEED_VARIABLE = "POSTROAD_TEST_SEED"
SEED = int(os.environ.get(SEED_VARIABLE) or secrets.randbelow(2**32))
"""The seed of every random choice of a run; each test prints it."""


def key_of(payload: dict[str, Any]) -> object:
    """The key of the suite's payloads."""
    return payload.get("key")


def make_topic(name: str, partitions: int = 1, **options: Any) -> Topic[dict[str, Any]]:
    """A topic as every process of the suite declares it."""
    return Topic(name, dict[str, Any], key=key_of, partitions=partitions, **options)


def failure(detail: str, reason: str = "exception") -> Failure:
    """Why a message was not handled, in a test."""
    return Failure(reason=reason, detail=detail, exception="ValueError", at_us=now_us())


def now_us() -> int:
    """Microseconds since the epoch, by the machine's clock."""
    return time.time_ns() // 1000


def ids(items: Iterable[Message | Delivery]) -> list[str]:
    """The ids of messages or deliveries, in order."""
    return [item.id if isinstance(item, Message) else item.message.id for item in items]


class Workbench:
    """Everything that one test opens; closed, and its audit checked, when the test is over."""

    def __init__(self, name: str, road: Road) -> None:
        self.name = name
        self.road = road
        self.seed = SEED
        self.random = random.Random(SEED)
        self.main = road.make()
        self.audited = True
        """Whether the audit is checked at the end; false where a test leaves nothing to ask."""
        self.capabilities: Capabilities = self.main.capabilities
        self._transports: list[Transport] = [self.main]
        self._consumers: list[Consumer] = []
        self._declared: tuple[Sequence[Topic[Any]], Sequence[Subscription]] = ((), ())
        print(f"{name}: repeat with {SEED_VARIABLE}={SEED}")  # noqa: T201

    # What a road declares

    def need(self, holds: object, what: str) -> None:
        """Skip the test where the road does not declare what it is about."""
        if not holds:
            self.skip(f"{what} is not declared")

    def skip(self, why: str) -> NoReturn:
        """Skip the test, with the reason."""
        pytest.skip(f"{self.name}: {why}")

    def need_groups(self) -> None:
        """Skip the test where there are no groups that read."""
        self.need(self.capabilities.groups, "groups")

    def need_each(self) -> None:
        """Skip the test where a group's messages cannot be settled one by one."""
        self.need_groups()
        self.need(self.capabilities.settling == "each", 'settling="each"')

    # Opening

    async def open(self, *topics: Topic[Any], subscriptions: Sequence[Subscription] = ()) -> None:
        """Open the first instance with these declarations."""
        self._declared = (topics, subscriptions)
        await self.main.open(topics, subscriptions)

    async def another(self) -> Transport:
        """Another process's view: an instance of its own where the road is shared, else the
        first one."""
        if not self.capabilities.shared:
            return self.main
        transport = self.road.make()
        self._transports.append(transport)
        await transport.open(*self._declared)
        return transport

    async def reopen(self) -> None:
        """Close every instance and open the first one anew on the same data."""
        await self.close_all()
        self.main = self.road.make()
        self._transports = [self.main]
        await self.main.open(*self._declared)

    def subscription(
        self, source: Topic[Any] | str, group: str | None = "g", start: Start = "earliest"
    ) -> Subscription:
        """A subscription; `earliest` becomes `latest` on a road without history."""
        if start == "earliest" and not self.capabilities.history:
            start = "latest"
        return Subscription(source=source, group=group, start=start)

    async def setup(self, partitions: int = 1, **options: Any) -> tuple[Topic[Any], Subscription]:
        """One topic and one group on it, opened."""
        topic = make_topic("orders.created", partitions, **options)
        subscription = self.subscription(topic)
        await self.open(topic, subscriptions=[subscription])
        return topic, subscription

    async def consumer(
        self,
        subscription: Subscription,
        transport: Transport | None = None,
        *,
        lease: timedelta = timedelta(seconds=30),
        ordered: bool = False,
        parks: bool = False,
    ) -> Consumer:
        """A member of the subscription's group."""
        consumer = await self.source(transport).subscribe(
            subscription, Plan(lease=lease, ordered=ordered, parks=parks)
        )
        self._consumers.append(consumer)
        return consumer

    def source(self, transport: Transport | None = None) -> Source:
        """A transport as one that can be read."""
        return cast(Source, transport or self.main)

    # Publishing and receiving

    def message(self, topic: Topic[Any], number: int = 0, **changes: Any) -> Message:
        """A message of its own id whose payload is its number."""
        fields: dict[str, Any] = {
            "id": new_id(),
            "type": topic.name,
            "source": "urn:postroad:conformance",
            "data": b'{"number": %d}' % number,
            "time_us": now_us(),
        }
        return Message(**(fields | changes))

    async def publish(self, topic: Topic[Any], count: int = 1, **changes: Any) -> list[Message]:
        """So many messages, numbered from 0, in one batch."""
        return await self.send(topic, [self.message(topic, n, **changes) for n in range(count)])

    async def send(self, topic: Topic[Any], messages: Sequence[Message]) -> list[Message]:
        """These messages, in one batch; every one has to be accepted."""
        receipts = await self.main.publish([(topic, message) for message in messages])
        assert len(receipts) == len(messages), "publish answers every message of a batch"
        return list(messages)

    async def take(
        self, consumer: Consumer, count: int, limit: int | None = None
    ) -> list[Delivery]:
        """Exactly so many deliveries, unsettled."""
        found: list[Delivery] = []
        patience = self.road.patience
        deadline = time.monotonic() + patience
        while len(found) < count:
            assert time.monotonic() < deadline, f"{len(found)} of {count} came in {patience} s"
            most = min(limit or count, count - len(found))
            batch = await consumer.receive(most, BYTES, STEP)
            assert len(batch) <= most, f"receive(limit={most}) gave {len(batch)}"
            found += batch
        return found

    async def nothing(self, consumer: Consumer, why: str) -> None:
        """Nothing comes."""
        batch = await consumer.receive(10, BYTES, QUIET)
        assert not batch, f"{why}, but {len(batch)} came"

    async def settle(
        self,
        consumer: Consumer,
        deliveries: Sequence[Delivery],
        action: Action = "ack",
        **answer: Any,
    ) -> None:
        """One answer to all of them, which has to be done."""
        answers = [Settlement(delivery, action, **answer) for delivery in deliveries]
        settled = await consumer.settle(answers)
        assert list(settled) == ["done"] * len(answers), f"{action}: {Counter(settled)}"

    async def consume(self, consumer: Consumer, count: int, limit: int = 500) -> list[Delivery]:
        """Receive and acknowledge exactly so many."""
        found: list[Delivery] = []
        while len(found) < count:
            batch = await self.take(consumer, min(limit, count - len(found)))
            await self.settle(consumer, batch)
            found += batch
        return found

    # The end

    async def account(self, topic: Topic[Any], group: str = "g") -> Account:
        """What the road counted for a group."""
        return await cast(Audited, self.main).account(topic.name, group)

    async def check_audit(self) -> None:
        """Where the road's counters are exact, everything accepted is in exactly one state."""
        if self.capabilities.audit != "exact":
            return
        audited = cast(Audited, self.main)
        for topic, group in await audited.groups("#"):
            check_balance(await audited.account(topic, group))

    async def close_all(self) -> None:
        """Close every consumer and transport of the test."""
        consumers, self._consumers = self._consumers, []
        for consumer in consumers:
            await consumer.close()
        for transport in self._transports:
            await transport.close()

    async def finish(self) -> None:
        """Check the audit with everything handed back, then close all."""
        try:
            if self.audited and any(self._declared):
                for consumer in self._consumers:
                    await consumer.close()
                await self._checked()
        finally:
            await self.close_all()

    async def _checked(self) -> None:
        durable = self.capabilities.durable and self.capabilities.shared
        if durable:
            await self.reopen()
        await self.check_audit()


def check_balance(account: Account) -> None:
    """The sum of all states is what was accepted.

    Raises:
        AssertionError: it is not, or a figure is negative.
    """
    states = {
        "backlog": account.backlog,
        "leased": account.leased,
        "waiting": account.waiting,
        "scheduled": account.scheduled,
        "trimmed": account.trimmed,
        **account.outcomes,
    }
    where = f"{account.topic} → {account.group}"
    negative = {name: figure for name, figure in states.items() if figure < 0}
    assert not negative, f"{where}: {negative}"
    total = sum(states.values())
    assert account.accepted == total, f"{where}: {account.accepted} accepted, {total} in {states}"


def later(seconds: float) -> int:
    """An instant so many seconds from now, in microseconds since the epoch."""
    return now_us() + duration_us(timedelta(seconds=seconds))
