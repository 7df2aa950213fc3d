"""The road for users' unit tests: what it shows, how its time passes, how it fails on demand."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from msgspec import Struct

from postroad import Batch, Delivery, Postroad, Retry, Topic, Transaction
from postroad.errors import ClosedError, DeclarationError, GuaranteeError, NotFoundError
from postroad.testing import TestRoad

HOUR = timedelta(hours=1)


class Order(Struct):
    id: int
    customer: str = "ada"


class Invoice(Struct):
    order: int


def _orders() -> Topic[Order]:
    return Topic("orders", Order, key="customer")


def _invoices() -> Topic[Invoice]:
    return Topic("invoices", Invoice)


class Shop:
    """An app on a file that no test may create."""

    def __init__(self, tmp_path: Path) -> None:
        self.file = tmp_path / "shop.db"
        self.orders = _orders()
        self.invoices = _invoices()
        self.road = Postroad(f"sqlite:///{self.file}")
        self.seen: list[int] = []

    def count(self, **options: object) -> None:
        """Subscribe a handler that notes what it sees."""

        @self.road.subscribe(self.orders, group="count", **options)  # type: ignore[arg-type]
        async def count(order: Order) -> None:
            self.seen.append(order.id)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


async def test_handlers_run_and_what_they_publish_is_seen(shop: Shop) -> None:
    @shop.road.subscribe(shop.orders, group="invoicing", start="earliest")
    async def invoice(order: Order) -> object:
        return shop.invoices.message(Invoice(order.id))

    async with TestRoad(shop.road) as test:
        await test.publish(shop.orders, Order(1), Order(2))
        assert test.published(shop.orders) == [Order(1), Order(2)]
        assert test.published(shop.invoices) == [Invoice(1), Invoice(2)]
        assert test.messages("invoices")[0].causation_id == test.messages("orders")[0].id
        assert (await test.audit()).verdict == "balanced"
    assert not shop.file.exists()


async def test_a_handler_that_uses_the_apps_own_road_publishes_on_the_tests(shop: Shop) -> None:
    @shop.road.subscribe(shop.orders, group="invoicing")
    async def invoice(order: Order) -> None:
        await shop.road.publish(shop.invoices, Invoice(order.id))

    async with TestRoad(shop.road) as test:
        await test.publish(shop.orders, Order(1))
        assert test.published(shop.invoices) == [Invoice(1)]


async def test_handlers_in_threads_generators_and_real_waits_are_waited_for(shop: Shop) -> None:
    @shop.road.subscribe(shop.orders, group="thread")
    def in_a_thread(order: Order) -> object:
        time.sleep(0.02)
        yield shop.invoices.message(Invoice(order.id))

    @shop.road.subscribe(shop.orders, group="io")
    async def on_io(order: Order) -> None:
        await asyncio.sleep(0.02)
        shop.seen.append(order.id)

    async with TestRoad(shop.road) as test:
        await test.publish(shop.orders, Order(1))
        assert test.published(shop.invoices) == [Invoice(1)]
        assert shop.seen == [1]


async def test_a_handler_that_hangs_fails_the_test_by_name(shop: Shop) -> None:
    hanging = asyncio.Event()

    @shop.road.subscribe(shop.orders, group="g")
    async def hang(order: Order) -> None:
        await hanging.wait()

    async with TestRoad(shop.road, patience=timedelta(milliseconds=50)) as test:
        with pytest.raises(AssertionError, match=r"still running after 0\.05 s: .*hang"):
            await test.publish(shop.orders, Order(1))
        hanging.set()


async def test_retries_delays_and_schedules_happen_when_time_is_advanced(shop: Shop) -> None:
    at: list[timedelta] = []

    @shop.road.subscribe(
        shop.orders, group="g", retry=Retry(attempts=3, backoff="fixed", first=HOUR, longest=HOUR)
    )
    async def fail(order: Order) -> None:
        at.append(test.clock.now() - began)
        raise ValueError("no luck")

    @shop.road.every(timedelta(hours=4))
    def remind() -> object:
        return shop.invoices.message(Invoice(0))

    async with TestRoad(shop.road) as test:
        began = test.clock.now()
        assert began == datetime(2024, 1, 1, tzinfo=UTC)
        await test.publish(shop.orders, Order(1), delay=timedelta(minutes=30))
        assert at == []
        await test.advance(3 * HOUR)
        half = timedelta(minutes=30)
        # The virtual clock's monotonic side gains a nanosecond whenever it moves.
        assert [round(after / half, 6) for after in at] == [1, 3, 5]
        [letter] = await test.dead_letters(shop.orders)
        assert letter.failures[-1].detail == "no luck"
        assert test.published(shop.invoices) == []
        await test.advance(HOUR)
        assert test.published(shop.invoices) == [Invoice(0)]


async def test_a_batch_does_not_wait_to_fill(shop: Shop) -> None:
    sizes = []

    @shop.road.subscribe(shop.orders, group="g", batch=Batch(100, HOUR))
    async def handle(orders: list[Order]) -> None:
        sizes.append(len(orders))

    async with TestRoad(shop.road) as test:
        await test.publish(shop.orders, *(Order(n) for n in range(5)))
        assert sum(sizes) == 5


async def test_a_duplicate_is_handled_again_and_counted(shop: Shop) -> None:
    shop.count()
    async with TestRoad(shop.road) as test:
        test.duplicate(shop.orders, times=2)
        await test.publish(shop.orders, Order(1), Order(2))
        assert sorted(shop.seen) == [1, 1, 1, 2]
        [entry] = (await test.audit()).entries
        assert entry.verdict == "balanced"
        assert entry.account is not None
        assert (entry.account.accepted, entry.account.duplicates) == (2, 2)


async def test_a_transaction_has_its_effect_once(shop: Shop) -> None:
    calls = []

    @shop.road.subscribe(shop.orders, group="charge", delivery="effectively-once", order="key")
    async def charge(order: Order, tx: Transaction) -> None:
        calls.append(order.id)
        await tx.execute("INSERT INTO charges VALUES (?)", (order.id,))
        await tx.publish(shop.invoices, Invoice(order.id))

    async with TestRoad(shop.road) as test:
        test.database.execute("CREATE TABLE charges (id INTEGER)")
        test.duplicate(shop.orders)
        await test.publish(shop.orders, Order(1))
        assert calls == [1, 1]
        assert test.database.execute("SELECT id FROM charges").fetchall() == [(1,)]
        assert test.published(shop.invoices) == [Invoice(1)]
        test.crash("charge")
        await test.publish(shop.orders, Order(2))
        assert test.database.execute("SELECT count(*) FROM charges").fetchone() == (1,)
        await test.advance(HOUR)
        assert calls == [1, 1, 2, 2]
        assert test.database.execute("SELECT id FROM charges").fetchall() == [(1,), (2,)]


async def test_reordering_keeps_what_the_subscription_was_promised(shop: Shop) -> None:
    orders = [Order(n, f"c{n % 3}") for n in range(12)]
    shop.count()
    by_key: list[Order] = []

    @shop.road.subscribe(shop.orders, group="key", order="key")
    async def keyed(order: Order) -> None:
        by_key.append(order)

    async with TestRoad(shop.road) as test:
        test.reorder(shop.orders, seed=3)
        await test.publish(shop.orders, *orders)
        assert sorted(shop.seen) == list(range(12))
        assert shop.seen != list(range(12))
        assert by_key != orders
        for customer in ("c0", "c1", "c2"):
            mine = [order.id for order in by_key if order.customer == customer]
            assert mine == sorted(mine)
            assert len(mine) == 4


@pytest.mark.parametrize("order", ["none", "key"])
async def test_a_crash_brings_the_message_again_after_its_lease(shop: Shop, order: str) -> None:
    starts = []

    @shop.road.subscribe(shop.orders, group="g", order=order, lease=timedelta(seconds=30))  # type: ignore[arg-type]
    async def handle(order: Order, delivery: Delivery) -> None:
        starts.append((order.id, delivery.starts))

    async with TestRoad(shop.road) as test:
        test.crash("g")
        await test.publish(shop.orders, Order(1))
        await test.advance(timedelta(seconds=29))
        assert starts == [(1, 0)]
        await test.advance(timedelta(seconds=2))
        assert starts == [(1, 0), (1, 1)]
        await test.publish(shop.orders, Order(2))
        assert starts[2:] == [(2, 0)]
        audit = await test.audit()
        assert audit.verdict == "balanced"
        assert audit.entries[0].pending == 0


async def test_guarantees_are_checked_against_the_real_road() -> None:
    road = Postroad("memory://")

    @road.subscribe(_orders(), group="g", start="earliest")
    async def handle(order: Order) -> None: ...

    with pytest.raises(GuaranteeError, match="history"):
        async with TestRoad(road):
            pass


async def test_the_app_is_itself_again_after_the_block(shop: Shop) -> None:
    shop.count()
    async with TestRoad(shop.road) as test:
        await test.publish(shop.orders, Order(1))
    async with TestRoad(shop.road) as test:
        assert test.published(shop.orders) == []
    async with shop.road as road, road.consuming():
        assert road.capabilities.durable
    assert shop.file.exists()


async def test_misuse_is_told(shop: Shop) -> None:
    shop.count()
    unused = TestRoad(lambda: shop.road)
    with pytest.raises(ClosedError, match="async with TestRoad"):
        unused.published(shop.orders)
    async with TestRoad(shop.road) as test:
        with pytest.raises(NotFoundError, match="nobody"):
            test.crash("nobody")
        with pytest.raises(DeclarationError, match="entered once"):
            await test.__aenter__()
    async with shop.road:
        with pytest.raises(DeclarationError, match="is open"):
            async with TestRoad(shop.road):
                pass
