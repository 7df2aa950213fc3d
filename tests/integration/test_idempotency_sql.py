"""A hundred duplicates at once have one effect: what runs in the caller's own transaction.

Each caller has a connection and a thread of its own, as a process of its own would.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pymysql
import pytest

from postroad.errors import DeclarationError, StorageVersionError, TokenRefusedError
from postroad.idempotency import guard, processed, tokens, unique
from tests.integration.idempotency_databases import DUPLICATES, Kind, prepared
from tests.services.harness.sql import Database

TABLES = (
    """CREATE TABLE payments (
        id INTEGER NOT NULL PRIMARY KEY,
        reference VARCHAR(50) NOT NULL,
        CONSTRAINT payments_reference UNIQUE (reference)
    )""",
    "CREATE TABLE accounts (id INTEGER NOT NULL PRIMARY KEY, balance INTEGER NOT NULL)",
    "CREATE TABLE callers (number INTEGER NOT NULL PRIMARY KEY)",
    """CREATE TABLE orders (
        id INTEGER NOT NULL PRIMARY KEY,
        status VARCHAR(20),
        note VARCHAR(20),
        version INTEGER NOT NULL
    )""",
    """CREATE TABLE stock (
        order_id INTEGER NOT NULL PRIMARY KEY,
        quantity INTEGER NOT NULL,
        version INTEGER NOT NULL
    )""",
    "INSERT INTO accounts (id, balance) VALUES (1, 0)",
    "INSERT INTO orders (id, status, note, version) VALUES (7, 'placed', NULL, 3)",
    "INSERT INTO stock (order_id, quantity, version) VALUES (7, 10, 3)",
)
TEXTBOOK = "UPDATE stock SET quantity = quantity - 1 WHERE order_id = ? AND quantity > 0"


class Change:
    """What a caller does once it knows that it is the first."""

    def __init__(self, kind: Kind, connection: Any, number: int) -> None:
        self.kind, self.connection, self.number = kind, connection, number

    def effect(self) -> None:
        self.kind.execute(self.connection, "UPDATE accounts SET balance = balance + 1")

    def effect_and(self, statement: str) -> None:
        self.effect()
        self.kind.execute(self.connection, statement)

    def note(self) -> None:
        """The transaction goes on after the duplicate was found."""
        self.kind.execute(
            self.connection, "INSERT INTO callers (number) VALUES (?)", (self.number,)
        )


class Suite:
    """What holds on every database."""

    @pytest.fixture
    def kind(self) -> Kind:
        raise NotImplementedError  # a base class: each database below names itself

    @pytest.fixture(autouse=True)
    def _tables(self, kind: Kind) -> None:
        kind.script(*TABLES)

    # ------------------------------------------------------------ a unique constraint

    def test_a_unique_constraint_lets_one_in(self, kind: Kind) -> None:
        def pay(number: int) -> bool:
            with kind.transaction() as connection:
                change = Change(kind, connection, number)
                with unique.once(connection, "payments_reference") as attempt:
                    kind.execute(
                        connection, "INSERT INTO payments VALUES (?, ?)", (number, "invoice-1")
                    )
                    change.effect()
                change.note()
                return attempt.repeated

        assert kind.at_once(pay).count(False) == 1
        assert kind.value("SELECT count(*) FROM payments") == 1
        assert kind.value("SELECT balance FROM accounts") == 1
        assert kind.value("SELECT count(*) FROM callers") == DUPLICATES

    def test_another_violation_is_the_callers_error_and_only_its_block_is_undone(
        self, kind: Kind
    ) -> None:
        with kind.transaction() as connection:
            change = Change(kind, connection, 1)
            kind.execute(connection, "INSERT INTO payments VALUES (1, 'a')")
            with (
                pytest.raises(Exception, match=r"(?i)payments|PRIMARY"),
                unique.once(connection, "payments_reference"),
            ):
                change.effect_and("INSERT INTO payments VALUES (1, 'b')")
            change.note()
        assert kind.value("SELECT balance FROM accounts") == 0
        assert kind.value("SELECT count(*) FROM callers") == 1

    def test_blocks_may_be_nested(self, kind: Kind) -> None:
        with kind.transaction() as connection:
            with suppress(ZeroDivisionError), unique.once(connection, "payments_reference"):
                kind.execute(connection, "INSERT INTO payments VALUES (1, 'a')")
                for expected in (False, True):
                    with unique.once(connection, "payments_reference") as attempt:
                        kind.execute(
                            connection, "INSERT INTO payments VALUES (?, 'b')", (2 + expected,)
                        )
                    assert attempt.repeated is expected
                raise ZeroDivisionError
            Change(kind, connection, 1).note()
        assert kind.value("SELECT count(*) FROM payments") == 0
        assert kind.value("SELECT count(*) FROM callers") == 1

    def test_the_primary_key_has_a_name_in_each_database(self, kind: Kind) -> None:
        with kind.transaction() as connection:
            for expected in (False, True):
                names = ("PRIMARY", "payments_pkey", "payments.id")
                with unique.once(connection, *names) as attempt:
                    kind.execute(connection, "INSERT INTO payments VALUES (1, ?)", (f"{expected}",))
                assert attempt.repeated is expected

    # ------------------------------------------------------------ the processed-messages table

    def test_a_message_is_handled_once(self, kind: Kind) -> None:
        def handle(number: int) -> bool:
            with kind.transaction() as connection:
                change = Change(kind, connection, number)
                first: bool = processed.first_time(connection, "invoicing", "message-1")
                if first:
                    change.effect()
                change.note()
                return first

        with kind.transaction() as connection:
            assert processed.first_time(connection, "invoicing", "message-0")
        assert kind.at_once(handle).count(True) == 1
        assert kind.value("SELECT balance FROM accounts") == 1
        assert kind.value("SELECT count(*) FROM callers") == DUPLICATES

    @pytest.mark.parametrize("known", [True, False])
    @pytest.mark.parametrize("commits", [True, False])
    def test_those_that_wait_for_the_first_agree_with_it(
        self, kind: Kind, known: bool, commits: bool
    ) -> None:
        """It is the first message of its scope, or of its id only."""

        def handle(message: str) -> bool:
            with kind.transaction() as connection:
                first: bool = processed.first_time(connection, "invoicing", message)
                return first

        if known:
            handle("message-0")
        with closing(kind.connect()) as connection, ThreadPoolExecutor(12) as pool:
            assert processed.first_time(connection, "invoicing", "message-1")
            names = [f"message-{1 + n % 3}" for n in range(12)]
            waiting = [
                pool.submit(kind.patiently, lambda name=name: handle(name)) for name in names
            ]
            done, _ = wait(waiting[::3], timeout=0.3)
            assert not done, "they wait for what becomes of the first"
            connection.commit() if commits else connection.rollback()
            told = [one.result(timeout=60) for one in waiting]
        firsts = [told[n::3].count(True) for n in range(3)]
        assert firsts == [0 if commits else 1, 1, 1]
        assert kind.value("SELECT count(*) FROM postroad_readers WHERE name = 'invoicing'") == 1

    def test_a_handler_that_fails_leaves_the_message_to_the_next(self, kind: Kind) -> None:
        with suppress(ZeroDivisionError), kind.transaction() as connection:
            assert processed.first_time(connection, "invoicing", "message-1")
            raise ZeroDivisionError
        with kind.transaction() as connection:
            assert processed.first_time(connection, "invoicing", "message-1")
            assert not processed.first_time(connection, "invoicing", "message-1")
            assert processed.first_time(connection, "shipping", "message-1")

    def test_one_that_waits_is_the_first_if_the_first_fails(self, kind: Kind) -> None:
        def handle() -> tuple[bool, bool]:
            with kind.transaction() as connection:
                first: bool = processed.first_time(connection, "invoicing", "message-1")
                with unique.once(connection, "payments_reference") as attempt:
                    kind.execute(connection, "INSERT INTO payments VALUES (2, 'a')")
                return first, attempt.repeated

        with kind.transaction() as connection:
            assert processed.first_time(connection, "invoicing", "message-0")
        with ThreadPoolExecutor(1) as pool:
            with suppress(ZeroDivisionError), kind.transaction() as connection:
                assert processed.first_time(connection, "invoicing", "message-1")
                kind.execute(connection, "INSERT INTO payments VALUES (1, 'a')")
                waiting = pool.submit(handle)
                with pytest.raises(TimeoutError):
                    waiting.result(timeout=0.2)
                raise ZeroDivisionError
            assert waiting.result(timeout=60) == (True, False)

    def test_messages_are_told_apart_whatever_they_are_called(self, kind: Kind) -> None:
        names = ("a", "a ", "A", "ä", "x" * 300, "x" * 301, "nul\0", "#x", "")
        with kind.transaction() as connection:
            for expected in (True, False):
                for name in names:
                    assert processed.first_time(connection, "invoicing", name) is expected, name

    def test_old_records_are_removed_in_portions(self, kind: Kind) -> None:
        with kind.transaction() as connection:
            for number in range(5):
                processed.first_time(connection, "invoicing", f"message-{number}")
            processed.first_time(connection, "shipping", "message-1")
            assert processed.purge(connection, "invoicing") == 0
            kind.execute(connection, "UPDATE postroad_inbox SET at_us = 1")
            assert [processed.purge(connection, "invoicing", limit=3) for _ in range(3)] == [
                3,
                2,
                0,
            ]
            assert not processed.first_time(connection, "shipping", "message-1")
            assert processed.purge(connection, "unheard-of") == 0

    # ------------------------------------------------------------ conditional updates

    def test_the_textbook_update_decrements_again_under_redelivery(self, kind: Kind) -> None:
        for _ in range(2):
            with kind.transaction() as connection:
                kind.execute(connection, TEXTBOOK, (7,))
        assert kind.value("SELECT quantity FROM stock") == 8

    def test_a_guard_on_the_version_decrements_once(self, kind: Kind) -> None:
        """The message carries the version that its sender saw."""

        def reserve(_: int) -> bool:
            with kind.transaction() as connection:
                changed: bool = guard.by_version(
                    connection,
                    "stock",
                    {"quantity": guard.Plus(-1)},
                    where={"order_id": 7},
                    version=3,
                )
                return changed

        assert kind.at_once(reserve).count(True) == 1
        assert kind.value("SELECT quantity FROM stock") == 9
        assert kind.value("SELECT version FROM stock") == 4

    def test_a_guard_on_the_state_lets_the_textbook_update_run_once(self, kind: Kind) -> None:
        def reserve(number: int) -> bool:
            with kind.transaction() as connection:
                changed: bool = guard.by_state(
                    connection,
                    "orders",
                    {"status": "reserved"},
                    where={"id": 7},
                    state={"status": "placed", "note": None},
                )
                if changed:
                    kind.execute(connection, TEXTBOOK, (7,))
                Change(kind, connection, number).note()
                return changed

        assert kind.at_once(reserve).count(True) == 1
        assert kind.value("SELECT quantity FROM stock") == 9
        assert kind.value("SELECT count(*) FROM callers") == DUPLICATES

    def test_names_are_quoted_and_values_are_bound(self, kind: Kind) -> None:
        quote = '"' if kind.name == "postgresql" else "`"
        odd = 'or?der\'s "%s" -- `x`'
        kind.script(
            f"CREATE TABLE odd (id INTEGER PRIMARY KEY, {_quoted(odd, quote)} VARCHAR(90))",
            "INSERT INTO odd (id) VALUES (1)",
        )
        evil = "'; DROP TABLE odd; -- ? %s"
        with kind.transaction() as connection:
            table = ("main" if kind.name == "sqlite" else _schema(kind), "odd")
            for expected in (True, False):
                changed = guard.by_state(
                    connection, table, {odd: evil}, where={"id": 1}, state={odd: None}
                )
                assert changed is expected
            cursor = kind.execute(connection, "SELECT * FROM odd")
            assert cursor.fetchone() == (1, evil)

    def test_a_misspelled_guard_is_an_error_and_not_just_false(self, kind: Kind) -> None:
        with (
            pytest.raises(Exception, match="statsu"),
            kind.transaction() as connection,
        ):
            guard.by_state(
                connection,
                "orders",
                {"status": "reserved"},
                where={"id": 7},
                state={"status": "placed", "statsu": None},
            )

    # ------------------------------------------------------------ tokens

    def test_a_token_is_redeemed_once(self, kind: Kind) -> None:
        with kind.transaction() as connection:
            token = tokens.issue(
                connection, "voucher", valid=timedelta(hours=1), content=b"10 euros"
            )

        def redeem(number: int) -> str:
            with kind.transaction() as connection:
                change = Change(kind, connection, number)
                try:
                    content: bytes = tokens.redeem(connection, "voucher", token)
                    change.effect()
                except TokenRefusedError as error:
                    change.note()
                    return error.reason
                change.note()
                return content.decode()

        told = kind.at_once(redeem)
        assert sorted(set(told)) == ["10 euros", "redeemed"]
        assert told.count("10 euros") == 1
        assert kind.value("SELECT balance FROM accounts") == 1
        assert kind.value("SELECT count(*) FROM callers") == DUPLICATES

    def test_a_token_is_redeemed_with_the_transaction_or_not_at_all(self, kind: Kind) -> None:
        with kind.transaction() as connection:
            token = tokens.issue(connection, "voucher", valid=timedelta(hours=1))
        with suppress(ZeroDivisionError), kind.transaction() as connection:
            tokens.redeem(connection, "voucher", token)
            raise ZeroDivisionError
        with kind.transaction() as connection:
            assert tokens.redeem(connection, "voucher", token) == b""

    def test_expired_and_unknown_tokens_are_refused_and_removed_in_portions(
        self, kind: Kind
    ) -> None:
        hour = timedelta(hours=1)
        with kind.transaction() as connection:
            old = [tokens.issue(connection, "voucher", valid=hour) for _ in range(5)]
            kind.execute(connection, "UPDATE postroad_tokens SET expires_us = 1")
            new = tokens.issue(connection, "voucher", valid=hour)
            reasons = [
                _refusal(connection, purpose, token)
                for purpose, token in (("voucher", old[0]), ("reset", new), ("voucher", "guess"))
            ]
            assert reasons == ["expired", "unknown", "unknown"]
            assert [tokens.purge(connection, 3) for _ in range(3)] == [3, 2, 0]
            assert _refusal(connection, "voucher", old[0]) == "unknown"
            assert tokens.redeem(connection, "voucher", new) == b""

    def test_what_is_kept_does_not_redeem_a_token(self, kind: Kind) -> None:
        with kind.transaction() as connection:
            token = tokens.issue(connection, "voucher", valid=timedelta(hours=1))
            row = kind.execute(connection, "SELECT * FROM postroad_tokens").fetchone()
        assert token not in repr(row)

    # ------------------------------------------------------------ without our tables

    def test_a_database_without_our_tables_is_named_as_that(self, kind: Kind) -> None:
        kind.script("DROP TABLE postroad_tokens")
        with (
            pytest.raises(StorageVersionError, match="postroad migrate"),
            kind.transaction() as connection,
        ):
            tokens.issue(connection, "voucher", valid=timedelta(hours=1))


def _refusal(connection: Any, purpose: str, token: str) -> str:
    with pytest.raises(TokenRefusedError) as caught:
        tokens.redeem(connection, purpose, token)
    assert token not in str(caught.value)
    return caught.value.reason


def _quoted(name: str, quote: str) -> str:
    return quote + name.replace(quote, quote * 2) + quote


def _schema(kind: Kind) -> str:
    return "public" if kind.name == "postgresql" else kind.url.rpartition("/")[2]


class TestSqlite(Suite):
    @pytest.fixture
    def kind(self, tmp_path: Path) -> Kind:
        return prepared(f"sqlite:///{tmp_path}/shop.db")

    @pytest.mark.parametrize(
        ("declared", "name"),
        [
            ("CREATE UNIQUE INDEX by_pair ON pairs (bank, reference)", "by_pair"),
            (
                "CREATE UNIQUE INDEX by_pair ON pairs (bank, reference)",
                "pairs.bank, pairs.reference",
            ),
            ("CREATE UNIQUE INDEX by_pair ON pairs (lower(bank))", "by_pair"),
        ],
    )
    def test_sqlite_tells_only_columns_and_they_are_looked_up(
        self, kind: Kind, declared: str, name: str
    ) -> None:
        kind.script("CREATE TABLE pairs (bank TEXT, reference TEXT)", declared)
        with kind.transaction() as connection:
            for expected in (False, True):
                with unique.once(connection, name) as attempt:
                    connection.execute("INSERT INTO pairs VALUES ('b', 'r')")
                assert attempt.repeated is expected
            with pytest.raises(Exception, match="UNIQUE"), unique.once(connection, "another"):
                connection.execute("INSERT INTO pairs VALUES ('b', 'r')")


class TestPostgresql(Suite):
    @pytest.fixture
    def kind(self, postgresql_database: Database) -> Kind:
        return prepared(postgresql_database.url)


class TestMariadb(Suite):
    @pytest.fixture
    def kind(self, mariadb_database: Database) -> Kind:
        return prepared(mariadb_database.url)

    def test_a_deadlock_is_told_as_that_though_it_took_the_savepoint_along(
        self, kind: Kind
    ) -> None:
        kind.script("INSERT INTO accounts (id, balance) VALUES (2, 0)")
        barrier = threading.Barrier(2)

        def transfer(number: int) -> int:
            """Each locks its own account, and then wants the other's."""
            own, other = (1, 2) if number else (2, 1)
            update = "UPDATE accounts SET balance = balance + 1 WHERE id = ?"
            try:
                with (
                    kind.transaction() as connection,
                    unique.once(connection, "payments_reference"),
                ):
                    kind.execute(connection, update, (own,))
                    barrier.wait(timeout=60)
                    kind.execute(connection, update, (other,))
            except pymysql.OperationalError as error:
                return int(error.args[0])
            return 0

        assert sorted(kind.at_once(transfer, 2)) == [0, 1213]


def test_a_guard_that_guards_nothing_is_refused() -> None:
    for state in ({}, {"status": "placed"}, {"note": None}):
        with pytest.raises(DeclarationError, match="again and again"):
            guard.by_state(None, "orders", {"status": "placed"}, where={"id": 7}, state=state)
    with pytest.raises(DeclarationError, match="grows by itself"):
        guard.by_version(None, "orders", {"version": 4}, where={"id": 7}, version=3)
    with pytest.raises(DeclarationError, match="name the unique constraint"):
        unique.once(None)


@pytest.mark.parametrize("scope", ["", "a ", "x" * 256, "a\0"])
def test_a_scope_is_a_name(scope: str) -> None:
    with pytest.raises(DeclarationError, match="a scope is"):
        processed.first_time(None, scope, "message-1")
    with pytest.raises(DeclarationError, match="a scope is"):
        processed.purge(None, scope)
