"""One connection to a MySQL or MariaDB server."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pymysql
from pymysql.constants import SERVER_STATUS

from postroad.storage.connection import Cursor
from postroad.storage.mysql.errors import THERE_ALREADY, is_lost, number, too_large
from postroad.storage.statements import Dialect, Statement

_PACKET = 64
"""Bytes that a packet has beside the statement, and some more."""
_LOCK = "INSERT INTO postroad_locks (name) VALUES (%s) ON DUPLICATE KEY UPDATE name = VALUES(name)"


class Raw(pymysql.Connection):
    """The driver's, which sends no statement that the server would not take.

    Attributes:
        largest: what the server takes, in bytes: it answers more by closing the connection, which
            would look like a lost server.
    """

    largest = 0
    server_status: int

    def query(self, sql: str | bytes, unbuffered: bool = False) -> int:
        """Run a statement."""
        if 0 < self.largest < 4 * len(sql) + _PACKET:  # a character has up to four bytes
            size = len(sql.encode("utf-8", "surrogateescape") if isinstance(sql, str) else sql)
            if size + _PACKET > self.largest:
                raise too_large(size, self.largest)
        return int(super().query(sql, unbuffered))


class MysqlConnection:
    """A `Connection`. Transactions are begun by its place; outside of them each statement is its
    own.

    Attributes:
        is_mariadb: whether the server is a MariaDB.
    """

    dialect: Dialect = "mysql"

    def __init__(self, raw: Raw) -> None:
        self.memo: dict[Any, Any] = {}
        self._begun = False
        self._raw = raw
        self._lost = False
        found = self.execute("SELECT version(), @@max_allowed_packet").fetchone()
        raw.largest = int(found[1])
        self.is_mariadb = "mariadb" in str(found[0]).lower()

    @property
    def in_transaction(self) -> bool:
        """See `Connection.in_transaction`; whoever has ended it."""
        return self._begun and bool(self._raw.server_status & SERVER_STATUS.SERVER_STATUS_IN_TRANS)

    @property
    def broken(self) -> bool:
        """See `Connection.broken`."""
        return self._lost or not self._raw.open

    def execute(self, statement: Statement | str, parameters: Sequence[Any] = (), /) -> Cursor:
        """See `Connection.execute`; text in our own hand has its parameters as `%s`."""
        cursor: Any = self._raw.cursor()
        found: Cursor = cursor
        try:
            if isinstance(statement, str):
                cursor.execute(statement, parameters or None)
            else:
                sql, order = statement.mysql
                if order is not None:
                    parameters = [parameters[index] for index in order]
                cursor.execute(sql, parameters)
        except pymysql.MySQLError as error:
            self._note(error)
            raise
        return found

    def executemany(self, statement: Statement | str, rows: Iterable[Sequence[Any]], /) -> Cursor:
        """See `Connection.executemany`; many rows of an insert go in one statement."""
        cursor: Any = self._raw.cursor()
        found: Cursor = cursor
        sql = statement if isinstance(statement, str) else statement.mysql.sql
        if isinstance(statement, Statement):
            rows = [statement.mysql.arranged(row) for row in rows]
        try:
            cursor.executemany(sql, rows)
        except pymysql.MySQLError as error:
            self._note(error)
            raise
        return found

    def defer(self, statement: Statement, parameters: Sequence[Any] = (), /) -> None:
        """See `Connection.defer`: the protocol has no pipeline."""
        self.execute(statement, parameters)

    def insert(self, statement: Statement, parameters: Sequence[Any], /) -> int:
        """See `Connection.insert`."""
        return self._numbered(self.execute(statement, parameters))

    def insert_many(self, statement: Statement, rows: Sequence[Sequence[Any]], /) -> None:
        """See `Connection.insert_many`."""
        if rows:
            self.executemany(statement, rows)

    def spelled(self, statement: str, /) -> str:
        """See `Connection.spelled`. To utf8mb4_bin `a` and `a ` are the same text; those by which
        they are two have other names on each kind of server."""
        exact = "utf8mb4_nopad_bin" if self.is_mariadb else "utf8mb4_0900_bin"
        return statement.replace("utf8mb4_bin", exact)

    def define(self, statement: str, /) -> None:
        """See `Connection.define`: here it commits by itself."""
        try:
            self.execute(self.spelled(statement))
        except pymysql.MySQLError as error:
            if number(error) not in THERE_ALREADY:
                raise

    def next_fence(self) -> int:
        """See `Connection.next_fence`. The rows that only count are removed now and then."""
        fence = self._numbered(self.execute("INSERT INTO postroad_fence () VALUES ()"))
        if fence % 1000 == 0:
            self.execute("DELETE FROM postroad_fence WHERE value < %s LIMIT 2000", (fence - 100,))
        return fence

    def lock(self, name: str, /) -> None:
        """See `Connection.lock`: a row's, since those of GET_LOCK outlive the transaction."""
        self.execute(_LOCK, (name,))

    def announce(self, topic: str, /) -> None:
        """Nobody can be told here: the others look now and then."""

    def begin(self, how: str = "") -> None:
        """Begin a transaction."""
        self.execute(f"START TRANSACTION {how}")
        self._begun = True

    def commit(self) -> None:
        """See `Connection.commit`."""
        try:
            self._raw.commit()
        except pymysql.MySQLError as error:
            self._note(error)
            raise
        self._begun = False

    def abandon(self) -> None:
        """See `Connection.abandon`."""
        self.memo.clear()
        if self._begun and not self.broken:
            try:
                self._raw.rollback()
            except pymysql.MySQLError:
                self._lost = True
        self._begun = False
        if self._lost and self._raw.open:
            self.close()

    def close(self) -> None:
        """See `Connection.close`."""
        try:
            self._raw.close()
        except pymysql.MySQLError:
            pass  # it is closed already, or its server is gone

    def _numbered(self, cursor: Any) -> int:
        return int(cursor.lastrowid or 0)

    def _note(self, error: pymysql.MySQLError) -> None:
        if is_lost(error):
            self._lost = True
