"""One connection to a PostgreSQL server."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from hashlib import blake2b
from typing import Any

import psycopg
from psycopg.pq import ConnStatus, ExecStatus, TransactionStatus

from postroad.storage.postgresql.errors import is_lost
from postroad.storage.statements import Dialect, Statement

_NOTIFY = "SELECT pg_notify($1, $2)"
CHANNEL = "postroad"
"""What is notified; its payload names topics, one a line, or nothing for anything else."""
_PAYLOAD = 7900
"""Bytes; a payload must be shorter than 8,000 (PostgreSQL's documentation of NOTIFY)."""
_COPIES_FROM = 12
"""Rows from which COPY is faster than single inserts in a pipeline."""
_INSERT = re.compile(r"INSERT INTO (\w+)\s*(\([^)]+\))\s*VALUES\s*\(\?(?:, \?)*\)")


class PostgresqlConnection:
    """A `Connection`. Transactions are begun by its place; outside of them each statement is its
    own."""

    dialect: Dialect = "postgresql"

    def __init__(self, raw: psycopg.Connection[Any]) -> None:
        self.memo: dict[Any, Any] = {}
        self._raw = raw
        self._lost = False
        self._news: set[str] = set()
        self._deferred: list[tuple[str, Sequence[Any]]] = []

    @property
    def in_transaction(self) -> bool:
        """See `Connection.in_transaction`."""
        return self._raw.pgconn.transaction_status != TransactionStatus.IDLE

    @property
    def broken(self) -> bool:
        """See `Connection.broken`."""
        return self._lost or self._raw.closed

    @property
    def backend(self) -> int:
        """The number of the server's process for this connection."""
        return self._raw.info.backend_pid

    def execute(
        self, statement: Statement | str, parameters: Sequence[Any] = (), /
    ) -> psycopg.Cursor[Any]:
        """See `Connection.execute`; text in our own hand has its parameters as `$1`, `$2`, …."""
        sql = statement if isinstance(statement, str) else statement.postgresql
        try:
            if self._deferred:
                with self._raw.pipeline():
                    self._send_deferred()
                    return self._raw.execute(sql, parameters, binary=True)
            return self._raw.execute(sql, parameters, binary=True)
        except psycopg.Error as error:
            self._note(error)
            raise

    def defer(self, statement: Statement, parameters: Sequence[Any] = (), /) -> None:
        """See `Connection.defer`."""
        self._deferred.append((statement.postgresql, parameters))

    def _send_deferred(self) -> None:
        """Inside a pipeline."""
        deferred, self._deferred = self._deferred, []
        for sql, parameters in deferred:
            self._raw.execute(sql, parameters)

    def _flush(self) -> None:
        if self._deferred:
            with self._raw.pipeline():
                self._send_deferred()

    def executemany(
        self, statement: Statement | str, rows: Iterable[Sequence[Any]], /
    ) -> psycopg.Cursor[Any]:
        """See `Connection.executemany`; one round trip for all."""
        sql = statement if isinstance(statement, str) else statement.postgresql
        cursor = self._raw.cursor()
        try:
            self._flush()
            cursor.executemany(sql, rows)
        except psycopg.Error as error:
            self._note(error)
            raise
        return cursor

    def insert(self, statement: Statement, parameters: Sequence[Any], /) -> int:
        """See `Connection.insert`."""
        return self._number(f"{statement.postgresql} RETURNING *", parameters)

    def insert_many(self, statement: Statement, rows: Sequence[Sequence[Any]], /) -> None:
        """See `Connection.insert_many`: many rows are copied."""
        if len(rows) < _COPIES_FROM:
            self.executemany(statement, rows)
            return
        table, types = _copying(self._raw, statement.text("postgresql", "qmark").sql)
        try:
            self._flush()
            with self._raw.cursor() as cursor, cursor.copy(table) as copy:
                copy.set_types(types)
                for row in rows:
                    copy.write_row(row)
        except psycopg.Error as error:
            self._note(error)
            raise

    def control(self, sql: str) -> Any:
        """Run statements without parameters in one round trip; returns the last one's result.

        Raises:
            psycopg.Error: one of them failed, and those after it were not run.
        """
        result = self._raw.pgconn.exec_(sql.encode())
        if result.status in (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK):
            return result
        if self._raw.pgconn.status != ConnStatus.OK:
            self._lost = True
            raise psycopg.OperationalError("the server closed the connection")
        if result.status == ExecStatus.FATAL_ERROR:
            error = psycopg.errors.error_from_result(result)
            self._note(error)
            raise error
        self._lost = True
        raise psycopg.OperationalError(f"unexpected answer {result.status} of the server")

    def notifications(self, seconds: float, is_ours: Callable[[int], bool]) -> list[str]:
        """The payloads of notifications that arrive within so many seconds, as soon as there is
        one; those of our own processes are left out."""
        found = self._raw.notifies(timeout=seconds, stop_after=1)
        return [one.payload for one in found if not is_ours(one.pid)]

    def spelled(self, statement: str, /) -> str:
        """See `Connection.spelled`."""
        return statement

    def define(self, statement: str, /) -> None:
        """See `Connection.define`."""
        self.execute(statement)

    def next_fence(self) -> int:
        """See `Connection.next_fence`."""
        return self._number("SELECT nextval('postroad_fence')")

    def lock(self, name: str, /) -> None:
        """See `Connection.lock`."""
        self.execute("SELECT pg_advisory_xact_lock($1)", (lock_key(name),))

    def announce(self, topic: str, /) -> None:
        """See `Connection.announce`."""
        self._news.add(topic)

    def commit(self) -> None:
        """See `Connection.commit`. What was announced goes out with it."""
        if self._news:
            self._deferred.append((_NOTIFY, (CHANNEL, _payload(self._news))))
            self._news.clear()
        try:
            with self._raw.pipeline():
                self._send_deferred()
                # Never a prepared one: if what goes before it fails, the server does not parse it.
                status = self._raw.execute("COMMIT", prepare=False)
        except psycopg.Error as error:
            self._note(error)
            raise
        if status.statusmessage != "COMMIT":
            raise psycopg.InternalError("the transaction had failed and was rolled back")

    def abandon(self) -> None:
        """See `Connection.abandon`."""
        self.memo.clear()
        self._news.clear()
        self._deferred.clear()
        if not self.broken and self.in_transaction:
            try:
                # By psycopg, which then forgets the statements that it has prepared: those of a
                # pipeline that failed half-way do not exist.
                self._raw.execute("ROLLBACK", prepare=False)
            except psycopg.Error:
                self._lost = True
        if self._lost:
            self._raw.close()

    def close(self) -> None:
        """See `Connection.close`."""
        self._raw.close()

    def _number(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        row = self.execute(sql, parameters).fetchone()
        assert row is not None
        return int(row[0])

    def _note(self, error: psycopg.Error) -> None:
        if is_lost(error):
            self._lost = True


def lock_key(name: str) -> int:
    """The number of an advisory lock; the same name is the same lock in every process."""
    return int.from_bytes(blake2b(f"postroad {name}".encode(), digest_size=8).digest(), signed=True)


@cache
def _insert_parts(sql: str) -> tuple[str, str]:
    found = _INSERT.fullmatch(sql)
    if found is None:
        raise ValueError(f"not a plain insert: {sql}")
    return found[1], found[2]


_types: dict[str, list[str]] = {}


def _copying(raw: psycopg.Connection[Any], sql: str) -> tuple[str, list[str]]:
    """(COPY statement, the types of its columns) of an insert."""
    table, columns = _insert_parts(sql)
    if sql not in _types:
        found = raw.execute(
            "SELECT attname, format_type(atttypid, NULL) FROM pg_attribute "
            "WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped",
            (table,),
        ).fetchall()
        of_column = dict(found)
        names = [name.strip() for name in columns.strip("()").split(",")]
        _types[sql] = [of_column[name] for name in names]
    return f"COPY {table} {columns} FROM STDIN (FORMAT BINARY)", _types[sql]


def _payload(topics: set[str]) -> str:
    text = "\n".join(sorted(topics))
    return text if "" not in topics and len(text.encode()) < _PAYLOAD else ""
