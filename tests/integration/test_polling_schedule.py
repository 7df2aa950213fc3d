"""When a table is looked at: intervals, cron lines, what was missed, what an idle hour costs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from postroad.core.clock import SystemClock
from postroad.core.subscription import Subscription
from postroad.core.transport import Plan
from postroad.transports.polling import PollingSource
from postroad.transports.polling.consumer import PollingConsumer
from postroad.transports.polling.transport import PollingTransport
from tests.integration.idempotency_databases import Kind, prepared
from tests.integration.polling_shop import (
    ORDERS,
    answer,
    fill,
    fill_from,
    join,
    nothing,
    polling,
    source,
    take,
    update,
)
from tests.services.harness.sql import Database

_BYTES = 1 << 20
_HOUR = timedelta(hours=1)


class Leaping(SystemClock):
    """A clock on which a sleep is over at once, having taken its time.

    Attributes:
        ahead: seconds that it has leapt.
    """

    def __init__(self) -> None:
        self.ahead = 0.0

    def now_us(self) -> int:
        return super().now_us() + int(self.ahead * 1e6)

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead

    async def sleep(self, seconds: float) -> None:
        self.ahead += seconds
        await asyncio.sleep(0)


class Asked:
    """What a database was asked.

    Attributes:
        looks: reads of the table or of our claims.
        statements: all that its connections ran, and the transactions that they began.
        writes: transactions that take locks.
    """

    def __init__(self) -> None:
        self.looks = self.statements = self.writes = 0


@contextmanager
def asked(transport: PollingTransport, monkeypatch: pytest.MonkeyPatch) -> Iterator[Asked]:
    """Count inside the block."""
    count = Asked()
    desk = transport._desk
    probe = desk._place.connect()
    kind: Any = type(probe)
    probe.close()

    def counting(method: Any, field: str) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            setattr(count, field, getattr(count, field) + 1)
            return method(*arguments, **named)

        return call

    with monkeypatch.context() as patch:
        for name in ("execute", "control"):
            if hasattr(kind, name):
                patch.setattr(kind, name, counting(vars(kind)[name], "statements"))
        patch.setattr(desk, "read", counting(desk.read, "looks"))
        patch.setattr(desk, "write", counting(desk.write, "writes"))
        yield count


async def consumer_of(polled: PollingSource, kind: Kind, clock: Any) -> Any:
    """A transport and a consumer on it, by this clock."""
    transport = PollingTransport(polled, kind.url, clock=clock)
    wanted = polled.subscription(Subscription(source=polled.topic, group="shipping"))
    await transport.open([], [wanted])
    return transport, await transport.subscribe(wanted, Plan())


class Suite:
    """What holds on every database."""

    @pytest.fixture
    def kind(self) -> Kind:
        raise NotImplementedError  # a base class: each database below names itself

    @pytest.fixture(autouse=True)
    def _tables(self, kind: Kind) -> None:
        kind.script(ORDERS)

    @pytest.mark.parametrize(
        ("every", "fewest", "most"),
        [
            (timedelta(seconds=10), 350, 375),
            (timedelta(minutes=5), 11, 26),
            (timedelta(hours=6), 12, 14),
            ("0 4 * * *", 12, 14),
        ],
        ids=str,
    )
    async def test_what_an_idle_hour_asks_of_the_database(
        self,
        kind: Kind,
        monkeypatch: pytest.MonkeyPatch,
        every: timedelta | str,
        fewest: int,
        most: int,
    ) -> None:
        """Claims are looked at every five minutes, however seldom the table is."""
        clock = Leaping()
        transport, consumer = await consumer_of(source(every=every, jitter=None), kind, clock)
        if isinstance(every, str):
            # Whenever the test runs: that hour of the day is elsewhere.
            assert isinstance(consumer, PollingConsumer)
            consumer._timetable._tick_us = clock.now_us() + 4 * 3600 * 1_000_000
        with asked(transport, monkeypatch) as count:
            for _ in range(360):
                assert not await consumer.receive(10, _BYTES, _HOUR / 360)
        await transport.close()
        assert fewest <= count.looks <= most
        # One question, and what beginning and ending a transaction takes on this database.
        assert count.statements <= 4 * count.looks + 3
        assert count.writes == 0, "an idle look takes no lock"

    async def test_a_full_batch_is_followed_by_the_next_at_once(
        self, kind: Kind, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fill(kind, 95)
        async with polling(kind, source(batch=10, every=timedelta(hours=1))) as transport:
            consumer = await join(transport)
            began = time.monotonic()
            with asked(transport, monkeypatch) as count:
                await answer(consumer, await take(consumer, 95))
            assert time.monotonic() - began < 10, "no interval was waited for"
            assert count.looks == 1, "only the first look asks before it claims"
            assert count.writes == 11, "ten claims and an answer"
            assert await nothing(consumer), "the batch that was not full ends the round"
            fill_from(kind, 100, 3)
            assert await nothing(consumer, 0.3), "what comes then waits for its turn"

    async def test_one_look_catches_up_with_what_was_missed(self, kind: Kind) -> None:
        every = timedelta(hours=1)
        async with polling(kind, source(every=every)) as transport:
            await nothing(await join(transport), 0.05)
        fill(kind, 3)
        async with polling(kind, source(every=every)) as transport:
            assert len(await take(await join(transport), 3)) == 3, "the first look is at once"

    async def test_a_cron_line_waits_for_its_tick_unless_one_was_missed(self, kind: Kind) -> None:
        fill(kind, 3)
        yearly = source(every="0 0 29 2 *")
        async with polling(kind, yearly) as transport:
            assert await nothing(await join(transport), 0.3), "it was never missed"
        async with polling(kind, yearly) as transport:
            assert await nothing(await join(transport), 0.3), "nor since"
        years = 4 * 366 * 24 * 3600 * 1_000_000
        long_ago = time.time_ns() // 1000 - 3 * years
        update(kind, "UPDATE postroad_polls SET ran_us = ?", long_ago)
        async with polling(kind, yearly) as transport:
            consumer = await join(transport)
            await answer(consumer, await take(consumer, 3))  # several ticks, one catch-up
            assert await nothing(consumer, 0.1)
            fill_from(kind, 100, 1)
            assert await nothing(consumer, 0.3), "and no other"
        async with polling(kind, yearly) as transport:
            assert await nothing(await join(transport), 0.3), "the catch-up is remembered"

    async def test_a_cron_tick_brings_what_is_ready(self, kind: Kind) -> None:
        clock = Leaping()
        polled = source(every="0 * * * *", jitter=timedelta(0))
        transport, consumer = await consumer_of(polled, kind, clock)
        fill(kind, 2)
        until = (3600_000_000 - clock.now_us() % 3600_000_000) / 1e6
        if until < 120:  # not across the hour before it is looked at
            clock.ahead += 240
            until = 3600 - 240 + until
        assert not await consumer.receive(10, _BYTES, timedelta(seconds=until - 60))
        held = await consumer.receive(10, _BYTES, timedelta(seconds=120))
        assert len(held) == 2
        await transport.close()

    async def test_a_retry_and_a_lease_do_not_wait_for_the_interval(self, kind: Kind) -> None:
        fill(kind, 2)
        async with polling(kind, source(every=timedelta(hours=1))) as transport:
            dying = await join(transport, lease=0.5)
            held = await take(dying, 2)
            await answer(dying, held[:1], "nack", delay=timedelta(seconds=0.2))
            began = time.monotonic()
            heir = await join(transport)
            assert len(await take(heir, 2)) == 2
            assert time.monotonic() - began < 5


class TestSqlite(Suite):
    @pytest.fixture
    def kind(self, tmp_path: Path) -> Kind:
        return prepared(f"sqlite:///{tmp_path}/shop.db")


class TestPostgresql(Suite):
    @pytest.fixture
    def kind(self, postgresql_database: Database) -> Kind:
        return prepared(postgresql_database.url)


class TestMariadb(Suite):
    @pytest.fixture
    def kind(self, mariadb_database: Database) -> Kind:
        return prepared(mariadb_database.url)
