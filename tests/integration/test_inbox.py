"""The inbox on real databases, beside roads that are none: effect and record are one commit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from postroad import Delivery, Hooks, Message, Postroad, Retry, Subscription, Topic, Transaction
from postroad.core.clock import SystemClock
from postroad.core.message import new_id
from postroad.delivery.inbox import GroupInbox, Inbox
from postroad.errors import (
    ClosedError,
    DuplicateError,
    GuaranteeError,
    NotSupportedError,
    PostroadError,
    StorageError,
)
from postroad.storage.connection import Connection
from postroad.storage.opening import place_of
from postroad.testing.clock import VirtualClock
from postroad.testing.conformance.waiting import eventually
from postroad.testing.faulty import FaultyTransport
from postroad.testing.models import Broker, PushModel
from tests.integration.business import Business, File, Served, number
from tests.services.harness.sql import Database

GROUP = "books"


class Entry(Struct):
    n: int


ENTRIES = Topic("entries", Entry)
COPIES = Topic("copies", Entry)
SOON = Retry(attempts=3, backoff="immediate")
WRITE = "INSERT INTO effects VALUES (?)"


class Told(Hooks):
    """Counts the duplicates that are told."""

    def __init__(self) -> None:
        self.duplicates = 0

    def duplicate(self, subscription: Subscription, delivery: Delivery) -> None:
        self.duplicates += 1


class Slip:
    """An outbox: what is published is a row of the same database."""

    def add(self, connection: Connection, messages: Sequence[tuple[Topic[Any], Message]]) -> None:
        for topic, message in messages:
            note = f"{topic.name} {message.data.decode()} {message.source}"
            connection.execute(f"INSERT INTO slips VALUES ('{note}')")


def message(n: int, id_: str = "") -> Message:
    made = ENTRIES.envelope(Entry(n), 0, "tests")
    return Message(
        id=id_ or new_id(),
        type=made.type,
        source="tests",
        data=made.data,
        time_us=made.time_us,
    )


Body = Callable[[Any], Awaitable[None]]


async def within(log: GroupInbox, sent: Message, body: Body) -> None:
    """Handle a message in a transaction of its own."""
    async with log.transaction(delivery(sent), "tests") as tx:
        await body(tx)


def delivery(sent: Message, topic: str = "entries") -> Delivery:
    return Delivery(message=sent, topic=topic, group=GROUP)


class InboxTests:
    """What holds on every database."""

    business: Business

    @pytest.fixture(autouse=True)
    def _tables(self, place: Business) -> None:
        self.business = business = place
        business.query("CREATE TABLE effects (n INTEGER NOT NULL)")
        business.query("CREATE TABLE slips (note VARCHAR(200))")

    def road(self, **options: Any) -> Postroad:
        """An app on a road that is no database."""
        return Postroad("memory://", database=self.business.url, **options)

    def effects(self) -> list[int]:
        return sorted(int(n) for (n,) in self.business.query("SELECT n FROM effects"))

    def records(self) -> int:
        return number(self.business, "SELECT count(*) FROM postroad_inbox")

    @asynccontextmanager
    async def inbox(self) -> AsyncIterator[Inbox]:
        """The inbox as one process has it."""
        inbox = Inbox(place_of(self.business.url), SystemClock())
        await inbox.open()
        try:
            yield inbox
        finally:
            await inbox.close()

    def wish(self, **options: Any) -> Subscription:
        return Subscription(source=ENTRIES, group=GROUP, delivery="effectively-once", **options)

    # ------------------------------------------------ through the engine

    async def test_a_message_that_comes_twice_has_one_effect(self) -> None:
        told = Told()
        road = self.road(hooks=told)
        calls = []

        @road.subscribe(ENTRIES, group=GROUP, delivery="effectively-once")
        async def book(entry: Entry, tx: Transaction) -> None:
            calls.append(entry.n)
            await tx.execute(WRITE, (entry.n,))

        async with road.consuming():
            twice = [(ENTRIES, message(1)), (ENTRIES, message(2))]
            await road._publish_entries([*twice, *twice, twice[0]])
            await road.settled()
        assert self.effects() == [1, 2]
        assert (told.duplicates, self.records()) == (3, 2)
        assert number(self.business, "SELECT sum(duplicates) FROM postroad_readers") == 3

    async def test_another_group_another_topic_and_another_source_are_no_duplicates(self) -> None:
        road = self.road()
        handled = []

        async def book(entry: Entry, tx: Transaction) -> None:
            handled.append(entry.n)

        for group in ("one", "two"):
            for topic in (ENTRIES, COPIES):
                road.subscribe(topic, group=group, delivery="effectively-once")(book)
        async with road.consuming():
            same = message(1)
            other = Message(id=same.id, type=same.type, source="others", data=same.data, time_us=0)
            await road._publish_entries([(ENTRIES, same), (COPIES, same), (ENTRIES, other)])
            await road.settled()
        assert (len(handled), self.records()) == (6, 6)

    async def test_a_failure_leaves_neither_effect_nor_record(self) -> None:
        road = self.road()
        attempts = []

        @road.subscribe(ENTRIES, group=GROUP, delivery="effectively-once", retry=SOON)
        async def book(entry: Entry, tx: Transaction) -> None:
            await tx.execute(WRITE, (entry.n,))
            attempts.append((await tx.fetch("SELECT count(*) FROM effects"))[0][0])
            if len(attempts) < 3:
                raise ValueError("not yet")

        async with road.consuming():
            await road.publish(ENTRIES, Entry(1))
            await road.settled()
        assert (self.effects(), attempts, self.records()) == ([1], [1, 1, 1], 1)

    async def test_what_was_moved_to_the_store_is_remembered_as_of_its_own_road(
        self, tmp_path: Path
    ) -> None:
        """The first copy fails and waits in the store; the second comes by the road."""
        road = self.road(store=f"sqlite:///{tmp_path}/store.db")
        road._transport = PushModel(Broker())
        retry = Retry(attempts=3, backoff="fixed", first=timedelta(milliseconds=300))
        calls: list[int] = []

        @road.subscribe(ENTRIES, group=GROUP, delivery="effectively-once", retry=retry)
        async def book(entry: Entry, tx: Transaction) -> None:
            calls.append(entry.n)
            await tx.execute(WRITE, (entry.n,))
            if len(calls) == 1:
                raise ValueError("not yet")

        async with road.consuming():
            copy = (ENTRIES, message(1))
            await road._publish_entries([copy])
            await eventually(lambda: calls == [1], "the first copy fails")
            await road._publish_entries([copy])
            await eventually(lambda: self.effects() == [1], "the second one has its effect")

            async def all_settled() -> bool:
                found = [one for one in (await road.audit()).entries if one.account is not None]
                return all(one.verdict == "balanced" and not one.pending for one in found)

            await eventually(all_settled, "nothing waits in the store")
        assert (self.effects(), calls, self.records()) == ([1], [1, 1], 1)

    async def test_an_answer_that_is_lost_repeats_no_effect(self) -> None:
        """The consumer dies between its commit and its answer, again and again."""
        clock = SystemClock()
        told = Told()
        road = Postroad("memory://", database=self.business.url, hooks=told)
        road._transport = faulty = FaultyTransport(clock)
        lease = timedelta(milliseconds=200)

        @road.subscribe(ENTRIES, group=GROUP, delivery="effectively-once", lease=lease)
        async def book(entry: Entry, tx: Transaction) -> None:
            await tx.execute(WRITE, (entry.n,))

        async with road.consuming():
            for n in range(4):
                faulty.faults.repeats["entries", GROUP] = 2
                if n % 2:
                    faulty.faults.crashes.add(GROUP)
                await road.publish(ENTRIES, Entry(n))
                await asyncio.wait_for(road.settled(), 10)
        faulty.database.close()
        assert self.effects() == [0, 1, 2, 3]
        assert told.duplicates >= 8

    async def test_an_untouched_transaction_is_remembered_too(self) -> None:
        road = self.road()
        calls = []

        @road.subscribe(ENTRIES, group=GROUP, delivery="effectively-once")
        async def look(entry: Entry, tx: Transaction) -> None:
            calls.append(entry.n)

        async with road.consuming():
            twice = (ENTRIES, message(1))
            await road._publish_entries([twice])
            await road.settled()
            await road._publish_entries([twice])
            await road.settled()
        assert (calls, self.records()) == ([1], 1)

    async def test_what_tx_publishes_is_in_the_commit_of_the_outbox(self) -> None:
        road = self.road(name="bookkeeper")
        assert road._inbox is not None
        road._inbox.outbox = Slip()
        tries = []

        @road.subscribe(ENTRIES, group=GROUP, delivery="effectively-once", retry=SOON)
        async def book(entry: Entry, tx: Transaction) -> Any:
            tries.append(entry.n)
            await tx.publish(COPIES, Entry(entry.n * 10))
            if len(tries) == 1:
                raise ValueError("rolled back with what it published")
            return COPIES.message(Entry(entry.n * 100))

        async with road.consuming():
            await road._publish_entries([(ENTRIES, sent := message(1))])
            await road.settled()
            await road._publish_entries([(ENTRIES, sent)])
            await road.settled()
        found = sorted(note for (note,) in self.business.query("SELECT note FROM slips"))
        assert found == ['copies {"n":100} bookkeeper', 'copies {"n":10} bookkeeper']
        assert tries == [1, 1]

    async def test_what_tx_publishes_comes_to_the_road_once(self) -> None:
        """Through the outbox of the database, whose relay runs with the handlers."""
        road = self.road(name="bookkeeper")
        copied: list[tuple[int, str, str | None]] = []

        @road.subscribe(ENTRIES, group=GROUP, delivery="effectively-once")
        async def book(entry: Entry, tx: Transaction) -> Any:
            await tx.publish(COPIES, Entry(entry.n * 10))
            return COPIES.message(Entry(entry.n * 100))

        @road.subscribe(COPIES, group="copyist")
        async def copy(entry: Entry, message: Message) -> None:
            copied.append((entry.n, message.source, message.causation_id))

        async with road.consuming():
            sent = [message(n, f"m{n}") for n in (1, 2)]
            for _ in range(2):
                await road._publish_entries([(ENTRIES, one) for one in sent])
            await eventually(lambda: len(copied) == 4, "all are published")
            await road.settled()
        pending = "SELECT count(*) FROM postroad_outbox WHERE processed_at IS NULL"
        assert number(self.business, pending) == 0
        expected = [(n * by, "bookkeeper", f"m{n}") for n in (1, 2) for by in (10, 100)]
        assert sorted(copied) == sorted(expected)

    async def test_without_an_outbox_publishing_in_tx_is_refused(self) -> None:
        async def body(tx: Transaction) -> None:
            await tx.execute(WRITE, (1,))
            await tx.publish(COPIES, Entry(1))

        async with self.inbox() as inbox:
            inbox.outbox = None
            with pytest.raises(NotSupportedError, match="needs an outbox in"):
                await within(inbox.of(self.wish()), message(1), body)
        assert (self.effects(), self.records()) == ([], 0)

    async def test_a_group_that_is_moved_handles_again(self, tmp_path: Path) -> None:
        road = Postroad(f"sqlite:///{tmp_path}/road.db", database=self.business.url)

        @road.subscribe(ENTRIES, group=GROUP, delivery="effectively-once")
        async def book(entry: Entry, tx: Transaction) -> None:
            await tx.execute(WRITE, (entry.n,))

        async with road:
            async with road.consuming():
                await road.publish(ENTRIES, Entry(1))
                await road.settled()
            assert (self.effects(), self.records()) == ([1], 1)
            await road.seek("entries", GROUP, "earliest")
            assert self.records() == 0
            async with road.consuming():
                await road.settled()
        assert self.effects() == [1, 1]

    # ------------------------------------------------ two processes hold the message

    async def test_the_second_waits_and_turns_out_to_be_a_duplicate(self) -> None:
        sent = message(1)
        async with self.inbox() as one, self.inbox() as two:
            inside, go = asyncio.Event(), asyncio.Event()

            async def handle(inbox: Inbox, first: bool) -> None:
                async with inbox.of(self.wish()).transaction(delivery(sent), "tests") as tx:
                    await tx.execute(WRITE, (1,))
                    if first:
                        inside.set()
                        await go.wait()

            holder = asyncio.create_task(handle(one, True))
            await inside.wait()
            second = asyncio.create_task(handle(two, False))
            await asyncio.sleep(0.2)
            assert not second.done()
            go.set()
            await holder
            with pytest.raises(DuplicateError, match="handled before by group 'books'"):
                await second
        assert (self.effects(), self.records()) == ([1], 1)

    async def test_the_second_goes_on_if_the_first_fails(self) -> None:
        sent = message(1)
        async with self.inbox() as one, self.inbox() as two:
            inside, go = asyncio.Event(), asyncio.Event()

            async def fail() -> None:
                async with one.of(self.wish()).transaction(delivery(sent), "tests") as tx:
                    await tx.execute(WRITE, (1,))
                    inside.set()
                    await go.wait()
                    raise ValueError

            async def handle() -> None:
                async with two.of(self.wish()).transaction(delivery(sent), "tests") as tx:
                    await tx.execute(WRITE, (2,))

            failing = asyncio.create_task(fail())
            await inside.wait()
            second = asyncio.create_task(handle())
            await asyncio.sleep(0.1)
            go.set()
            await asyncio.gather(failing, return_exceptions=True)
            await second
        assert (self.effects(), self.records()) == ([2], 1)

    async def test_many_at_once_have_one_effect(self) -> None:
        sent = message(1)
        async with self.inbox() as one, self.inbox() as two, self.inbox() as three:
            logs = [inbox.of(self.wish()) for inbox in (one, two, three)]

            async def handle(n: int) -> str:
                try:
                    async with logs[n % 3].transaction(delivery(sent), "tests") as tx:
                        await tx.execute(WRITE, (n,))
                        await asyncio.sleep(0.001)
                except DuplicateError:
                    return "duplicate"
                return "done"

            ended = await asyncio.gather(*(handle(n) for n in range(40)))
        assert (ended.count("done"), ended.count("duplicate")) == (1, 39)
        assert (len(self.effects()), self.records()) == (1, 1)

    # ------------------------------------------------ a handler's ways

    async def test_a_handler_cannot_swallow_that_it_is_a_duplicate(self) -> None:
        sent = message(1)
        refused = []

        async with self.inbox() as one:
            log = one.of(self.wish())
            reader = await log.records.reader("entries")
            insert = f"INSERT INTO postroad_inbox VALUES ({reader}, '{sent.id} tests', 0)"
            late = one.place.one_writer

            async def body(tx: Transaction) -> None:
                if late:  # another one's record may come in between
                    self.business.query(insert)
                for _ in range(3):
                    try:
                        await tx.execute(WRITE, (1,))
                    except Exception as error:
                        refused.append(type(error))

            if not late:
                self.business.query(insert)
            with pytest.raises(DuplicateError):
                await within(log, sent, body)
        assert self.effects() == []
        assert refused == ([DuplicateError] * 3 if late else [])

    async def test_what_a_handler_makes_of_it_is_no_failure(self) -> None:
        sent = message(1)
        async with self.inbox() as one:
            log = one.of(self.wish())
            reader = await log.records.reader("entries")
            insert = f"INSERT INTO postroad_inbox VALUES ({reader}, '{sent.id} tests', 0)"
            late = one.place.one_writer

            async def body(tx: Transaction) -> None:
                if late:
                    self.business.query(insert)
                try:
                    await tx.execute(WRITE, (1,))
                except PostroadError as error:
                    raise RuntimeError("the database is down") from error

            if not late:
                self.business.query(insert)
            with pytest.raises(DuplicateError):
                await within(log, sent, body)
        assert self.effects() == []

    async def test_tasks_of_a_handler_share_its_transaction(self) -> None:
        async with self.inbox() as inbox:
            log = inbox.of(self.wish())
            async with log.transaction(delivery(message(1)), "tests") as tx:
                await asyncio.wait_for(
                    asyncio.gather(*(tx.execute(WRITE, (n,)) for n in range(5))), 5
                )
        assert (self.effects(), self.records()) == ([0, 1, 2, 3, 4], 1)

    async def test_a_task_that_outlives_its_handler_writes_nothing(self) -> None:
        async with self.inbox() as inbox:
            log = inbox.of(self.wish())
            async with log.transaction(delivery(message(1)), "tests") as tx:
                late = [asyncio.create_task(tx.execute(WRITE, (n,))) for n in range(3)]
            ended = await asyncio.gather(*late, return_exceptions=True)
            for error in ended:
                assert error == 1 or isinstance(error, ClosedError)
            async with log.transaction(delivery(message(2)), "tests") as tx:
                await asyncio.wait_for(tx.execute(WRITE, (9,)), 5)
        assert self.effects() == [9]

    async def test_a_cancelled_handler_leaves_nothing_behind(self) -> None:
        async with self.inbox() as inbox:
            log = inbox.of(self.wish())
            sent = message(1)
            started = asyncio.Event()

            async def hang() -> None:
                async with log.transaction(delivery(sent), "tests") as tx:
                    await tx.execute(WRITE, (1,))
                    started.set()
                    await asyncio.Event().wait()

            hanging = asyncio.create_task(hang())
            await started.wait()
            hanging.cancel()
            with suppress(asyncio.CancelledError):
                await hanging
            async with log.transaction(delivery(sent), "tests") as tx:
                await asyncio.wait_for(tx.execute(WRITE, (2,)), 5)
        assert (self.effects(), self.records()) == ([2], 1)

    @pytest.mark.parametrize("word", ["COMMIT", " rollback work", "-- why\nBEGIN", "End"])
    async def test_a_handler_cannot_end_its_transaction(self, word: str) -> None:
        async def body(tx: Transaction) -> None:
            await tx.execute(WRITE, (1,))
            await tx.execute(word)

        async with self.inbox() as inbox:
            with pytest.raises(StorageError, match="leave it to `tx`"):
                await within(inbox.of(self.wish()), message(1), body)
        assert (self.effects(), self.records()) == ([], 0)

    async def test_a_savepoint_undoes_a_part(self) -> None:
        async def body(tx: Transaction) -> None:
            await tx.execute(WRITE, (1,))
            await tx.execute("SAVEPOINT part")
            with suppress(StorageError):
                await tx.execute("INSERT INTO effects VALUES (NULL)")
            await tx.execute("ROLLBACK TO SAVEPOINT part")
            await tx.execute(WRITE, (2,))

        async with self.inbox() as inbox:
            await within(inbox.of(self.wish()), message(1), body)
        assert (self.effects(), self.records()) == ([1, 2], 1)

    async def test_a_statement_that_is_wrong_is_our_error_and_undoes_all(self) -> None:
        async def body(tx: Transaction) -> None:
            await tx.execute(WRITE, (1,))
            await tx.execute("INSERT INTO nowhere VALUES (1)")

        async with self.inbox() as inbox:
            with pytest.raises(StorageError):
                await within(inbox.of(self.wish()), message(1), body)
        assert (self.effects(), self.records()) == ([], 0)

    # ------------------------------------------------ the window

    async def test_what_is_older_than_the_window_goes_a_few_at_a_time(self) -> None:
        clock = VirtualClock()
        async with self.inbox() as inbox:
            log = inbox.of(self.wish(inbox_window=timedelta(hours=1)))
            log.records._clock = clock
            reader = await log.records.reader("entries")
            self._fill(reader, 1200, clock.now_us())
            await clock.advance(timedelta(minutes=59))
            await self._note_all_the_time(log.records, clock)
            await log.records.tidy()
            assert self.records() == 1200
            await clock.advance(timedelta(minutes=2))
            before = inbox.database.commits
            await log.records.tidy()
            assert self.records() == 0
            assert inbox.database.commits - before == 4  # three chunks, and that it was there

    async def _note_all_the_time(self, records: Any, clock: VirtualClock) -> None:
        """As if the group had consumed all the while."""
        self.business.query(f"UPDATE postroad_readers SET cleaned_us = {clock.now_us()}")

    def _fill(self, reader: int, count: int, at_us: int) -> None:
        for first in range(0, count, 300):
            rows = ", ".join(f"({reader}, 'm{n}', {at_us})" for n in range(first, first + 300))
            self.business.query(f"INSERT INTO postroad_inbox VALUES {rows}")

    async def test_while_the_group_is_away_nothing_is_forgotten(self) -> None:
        """What it handled before it went, and could not acknowledge, comes when it is back."""
        clock = VirtualClock()
        async with self.inbox() as inbox:
            wish = self.wish(inbox_window=timedelta(hours=1))
            before = inbox.of(wish)
            before.records._clock = clock
            self._fill(await before.records.reader("entries"), 300, clock.now_us())
            await clock.advance(timedelta(days=3))
            back = inbox.of(wish)
            back.records._clock = clock
            await back.records.reader("entries")
            for _ in range(50):
                await back.records.tidy()
                await clock.advance(timedelta(minutes=1))
            assert self.records() == 300
            for _ in range(15):
                await back.records.tidy()
                await clock.advance(timedelta(minutes=1))
            assert self.records() == 0

    async def test_the_runner_tidies_while_it_runs(self) -> None:
        road = self.road()
        lease = timedelta(milliseconds=100)

        @road.subscribe(
            ENTRIES,
            group=GROUP,
            delivery="effectively-once",
            lease=lease,
            inbox_window=timedelta(milliseconds=800),
        )
        async def book(entry: Entry, tx: Transaction) -> None:
            await tx.execute(WRITE, (entry.n,))

        async with road.consuming():
            await road.publish(ENTRIES, Entry(1))
            await road.settled()
            assert self.records() == 1
            await eventually(lambda: self.records() == 0, "the record is older than the window")

    def test_a_window_below_what_a_crash_repeats_is_refused(self) -> None:
        road = self.road()

        @road.subscribe(
            ENTRIES,
            group=GROUP,
            delivery="effectively-once",
            inbox_window=timedelta(seconds=60),
        )
        async def book(entry: Entry, tx: Transaction) -> None: ...

        with pytest.raises(GuaranteeError, match="inbox_window must be at least 2 min"):
            road.check()

    def test_explain_says_where_it_lives(self) -> None:
        road = self.road()

        @road.subscribe(ENTRIES, group=GROUP, delivery="effectively-once")
        async def book(entry: Entry, tx: Transaction) -> None: ...

        terms = {term.subject: term for term in road.explain()[0].terms}
        name = place_of(self.business.url).name
        assert (terms["inbox"].asked, terms["inbox"].keeper) == ("7 days", "database")
        assert name in terms["inbox"].detail
        assert name in terms["delivery"].detail
        assert self.takes_turns in terms["delivery"].detail

    takes_turns: str


class TestSqlite(InboxTests):
    takes_turns = "opens at the first statement and transactional handlers take turns"

    @pytest.fixture
    def place(self, tmp_path: Path) -> Business:
        return File(tmp_path / "business.db")

    async def test_what_is_known_neither_calls_the_handler_nor_opens_a_transaction(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def untouched(tx: Transaction) -> None: ...

        async def called(tx: Transaction) -> None:
            raise AssertionError("the handler was called")

        async with self.inbox() as inbox:
            log = inbox.of(self.wish())
            sent = message(1)
            await within(log, sent, untouched)
            monkeypatch.setattr(inbox.database.transactions, "open", None)
            with pytest.raises(DuplicateError):
                await within(log, sent, called)

    async def test_a_statement_that_waits_to_begin_as_its_handler_ends_is_undone(self) -> None:
        async with self.inbox() as inbox:
            log = inbox.of(self.wish())
            pool = inbox.database.transactions
            await log.records.reader("entries")
            late: list[asyncio.Task[int]] = []
            ending = asyncio.Event()

            async def body(tx: Transaction) -> None:
                late.append(asyncio.create_task(tx.execute(WRITE, (1,))))
                await asyncio.sleep(0.05)
                assert not late[0].done()
                ending.set()

            holder = await pool.open(lambda c: None)
            handling = asyncio.create_task(within(log, message(1), body))
            await asyncio.wait_for(ending.wait(), 5)
            await asyncio.sleep(0)
            await holder.rollback()
            await handling
            with pytest.raises(ClosedError):
                await late[0]
            assert self.effects() == []
            await (await asyncio.wait_for(pool.open(lambda c: None), 5)).rollback()


class TestPostgresql(InboxTests):
    takes_turns = "up to 10 transactions at once"

    @pytest.fixture
    def place(self, postgresql_database: Database) -> Business:
        return Served(postgresql_database)

    async def test_transactions_run_side_by_side_up_to_the_pool(self) -> None:
        url = self.business.url
        inbox = Inbox(place_of(f"{url}?pool=3"), SystemClock())
        await inbox.open()
        log = inbox.of(self.wish())
        inside, most = 0, 0

        async def handle(n: int) -> None:
            nonlocal inside, most
            async with log.transaction(delivery(message(n)), "tests") as tx:
                inside += 1
                most = max(most, inside)
                await tx.execute(WRITE, (n,))
                await tx.fetch("SELECT pg_sleep(0.05)")
                inside -= 1

        await asyncio.gather(*(handle(n) for n in range(9)))
        await inbox.close()
        assert (most, len(self.effects())) == (3, 9)

    async def test_what_a_lost_connection_did_is_undone_and_nothing_follows_it(self) -> None:
        async with self.inbox() as inbox:
            log = inbox.of(self.wish())
            sent = message(1)

            async def body(tx: Transaction) -> None:
                await tx.execute(WRITE, (1,))
                [(backend,)] = await tx.fetch("SELECT pg_backend_pid()")
                self.business.query(f"SELECT pg_terminate_backend({backend})")
                for n in (2, 3):
                    with suppress(StorageError):
                        await tx.execute(WRITE, (n,))

            with pytest.raises(StorageError) as caught:
                await within(log, sent, body)
            assert caught.value.transient
            assert (self.effects(), self.records()) == ([], 0)
            async with log.transaction(delivery(sent), "tests") as tx:
                await tx.execute(WRITE, (4,))
        assert (self.effects(), self.records()) == ([4], 1)

    async def test_an_idle_connection_that_was_lost_is_replaced(self) -> None:
        async with self.inbox() as inbox:
            log = inbox.of(self.wish())
            async with log.transaction(delivery(message(1)), "tests") as tx:
                [(backend,)] = await tx.fetch("SELECT pg_backend_pid()")
            self.business.query(f"SELECT pg_terminate_backend({backend})")
            async with log.transaction(delivery(message(2)), "tests") as tx:
                await tx.execute(WRITE, (2,))
        assert self.effects() == [2]


class TestMariadb(InboxTests):
    takes_turns = "up to 10 transactions at once"

    @pytest.fixture
    def place(self, mariadb_database: Database) -> Business:
        return Served(mariadb_database)

    async def test_the_victim_of_a_deadlock_begins_anew_and_leaves_nothing(self) -> None:
        """The server undoes all of its transaction, and would commit what follows by itself."""
        self.business.query("CREATE TABLE pair (id INTEGER PRIMARY KEY, n INTEGER NOT NULL)")
        self.business.query("INSERT INTO pair VALUES (1, 0), (2, 0)")
        add = "UPDATE pair SET n = n + 1 WHERE id = ?"
        failed = []
        async with self.inbox() as inbox:
            log = inbox.of(self.wish())
            inside = asyncio.Barrier(2)

            async def cross(n: int) -> None:
                async def body(tx: Transaction) -> None:
                    await tx.execute(add, (n,))
                    await inside.wait()
                    try:
                        await tx.execute(add, (3 - n,))
                    except StorageError as error:
                        failed.append(error)
                        with suppress(StorageError):
                            await tx.execute(WRITE, (n,))

                await within(log, message(n), body)

            ended = await asyncio.gather(cross(1), cross(2), return_exceptions=True)
        [error] = [one for one in ended if one is not None]
        assert isinstance(error, StorageError)
        assert error.transient
        assert (len(failed), self.effects(), self.records()) == (1, [], 1)
        pair = self.business.query("SELECT n FROM pair")
        assert [int(n or 0) for (n,) in pair] == [1, 1]
