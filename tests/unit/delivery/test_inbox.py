"""The inbox's life and its outbox; what holds on every database is in
`tests/integration/test_inbox.py`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from postroad.core.clock import SystemClock
from postroad.core.delivery import Delivery
from postroad.core.message import Message
from postroad.core.subscription import Subscription
from postroad.core.topic import Topic
from postroad.delivery.inbox import Inbox
from postroad.delivery.outbox.reading import depth
from postroad.delivery.outbox.sql import sql_of
from postroad.delivery.outbox.table import OWN
from postroad.errors import ClosedError, DuplicateError
from postroad.storage.sqlite.connection import SqlitePlace

ORDERS: Topic[int] = Topic("orders", int)
PAID: Topic[int] = Topic("paid", int)
WISH = Subscription(
    source=ORDERS,
    group="g",
    delivery="effectively-once",
    inbox_window=timedelta(days=2),
)


def delivery(id_: str = "m1", topic: str = "orders") -> Delivery:
    message = Message(id=id_, type="t", source="s", data=b"1", time_us=0)
    return Delivery(message=message, topic=topic, group="g")


@pytest.fixture
async def inbox(tmp_path: Path) -> AsyncIterator[Inbox]:
    made = Inbox(SqlitePlace(tmp_path / "a.db"), SystemClock())
    await made.open()
    yield made
    await made.close()


async def handle(inbox: Inbox, one: Delivery) -> None:
    async with inbox.of(WISH).transaction(one, "tests"):
        pass


async def test_before_it_is_opened_and_after_it_is_closed_it_says_so(tmp_path: Path) -> None:
    inbox = Inbox(SqlitePlace(tmp_path / "a.db"), SystemClock())
    with pytest.raises(ClosedError, match="is not open"):
        inbox.of(WISH).transaction(delivery(), "tests")
    for _ in range(2):
        await inbox.open()
    for _ in range(2):
        await inbox.close()
    with pytest.raises(ClosedError, match="is not open"):
        inbox.of(WISH).transaction(delivery(), "tests")


async def test_the_declared_window_is_kept_with_the_records(inbox: Inbox) -> None:
    await handle(inbox, delivery())
    read = "SELECT name, topic, window_us FROM postroad_readers"
    rows = await inbox.database.read(lambda c: c.execute(read).fetchall())
    assert rows == [("g", "orders", 2 * 24 * 3600 * 1_000_000)]


async def test_what_is_forgotten_is_of_one_topic_only(inbox: Inbox) -> None:
    both = [delivery(topic="orders"), delivery(topic="other")]
    for one in both:
        await handle(inbox, one)
    await inbox.forget("orders", "g")
    await inbox.forget("nowhere", "g")
    await handle(inbox, both[0])
    with pytest.raises(DuplicateError):
        await handle(inbox, both[1])


async def test_what_is_published_waits_in_the_outbox_and_its_topic_is_prepared(
    inbox: Inbox,
) -> None:
    prepared = []
    told: list[frozenset[str] | None] = []

    async def prepare(topic: Topic[int]) -> None:
        prepared.append(topic.name)

    inbox.prepare = prepare
    inbox.changed = told.append
    async with inbox.of(WISH).transaction(delivery(), "tests") as tx:
        await tx.publish(PAID, 1)
        await tx.publish(PAID, 2)
        assert told == []
    assert (prepared, told) == (["paid", "paid"], [None])
    found = await inbox.database.read(lambda c: depth(c, sql_of(OWN), SystemClock()))
    assert found.pending == 2
