"""A database on a MySQL or MariaDB server."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pymysql
from pymysql.constants import CLIENT

from postroad.errors import StorageBusyError, StorageError
from postroad.storage.clock import ServerClock
from postroad.storage.connection import Connection
from postroad.storage.migrations import (
    check,
    known_version,
    may_not_migrate,
    migrate,
    newer,
)
from postroad.storage.mysql.connection import MysqlConnection, Raw
from postroad.storage.mysql.errors import MAY_NOT, is_lost, is_victim, mapped, number
from postroad.storage.place import Changed, Connected
from postroad.storage.poller import Poller
from postroad.storage.settings import Settings
from postroad.storage.statements import Dialect

_NOW = (
    "SELECT CAST(UNIX_TIMESTAMP(SYSDATE(6)) * 1000000 AS SIGNED), "
    "(SELECT value FROM postroad_meta WHERE name = 'version')"
)
_CONNECT_SECONDS = 5


class MysqlPlace:
    """A `Place`.

    Args:
        login: for the driver.
        name: what errors call it; holds no secret.
    """

    dialect: Dialect = "mysql"
    one_writer: bool = False
    failure: type[Exception] = pymysql.MySQLError

    def __init__(self, login: Mapping[str, Any], name: str, settings: Settings) -> None:
        self._login = login
        self._settings = settings
        self.name = name
        self.clock = ServerClock()
        self.busy = settings.busy
        self.pool = settings.pool
        self.risk = (
            "a crash of the server loses nothing acknowledged while its "
            "innodb_flush_log_at_trx_commit is 1; the loss of its disk loses everything that is "
            "not replicated"
        )

    def prepare(self) -> None:
        """See `Place.prepare`."""
        connection = self.connect()
        try:
            if check(connection, self.name):
                self._migrate(connection)
            self.begin_reading(connection)
        except pymysql.MySQLError as error:
            raise self.mapped(error) from error
        finally:
            connection.abandon()
            connection.close()

    def _migrate(self, connection: MysqlConnection) -> None:
        """Each statement of a migration commits by itself here, so this lock is no transaction's,
        and a migration that was broken off is taken up where it ended."""
        name = f"postroad {self._login['database']}"[:64]
        seconds = math.ceil(self.busy)
        held = connection.execute("SELECT GET_LOCK(%s, %s)", (name, seconds)).fetchone()
        if held is None or held[0] != 1:
            raise StorageBusyError(f"{self.name} is being migrated by another process; try again")
        try:
            if connection.is_mariadb:  # a migration of large tables takes as long as it takes
                connection.execute("SET max_statement_time = 0")
            migrate(connection, self.name)
        except pymysql.MySQLError as error:
            if number(error) in MAY_NOT:
                raise may_not_migrate(self.name, str(self.mapped(error))) from error
            raise
        finally:
            if not connection.broken:
                connection.execute("SELECT RELEASE_LOCK(%s)", (name,))

    def connect(self, *, read_only: bool = False) -> MysqlConnection:
        """See `Place.connect`."""
        try:
            raw = Raw(
                **self._login,
                charset="utf8mb4",
                autocommit=True,
                connect_timeout=_CONNECT_SECONDS,
                read_timeout=self._settings.silence_ms // 1000,
                write_timeout=self._settings.silence_ms // 1000,
                client_flag=CLIENT.FOUND_ROWS,
            )
            connection = MysqlConnection(raw)
            for statement in self._session_settings(mariadb=connection.is_mariadb):
                connection.execute(statement)
        except pymysql.MySQLError as error:
            raise self.mapped(error) from error
        return connection

    def _session_settings(self, *, mariadb: bool) -> list[str]:
        timeout = self._settings.statement_timeout
        settings = [
            "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
            "SET time_zone = '+00:00'",
            "SET sql_mode = 'STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION'",
            f"SET innodb_lock_wait_timeout = {max(1, math.ceil(self.busy))}",
        ]
        if mariadb:
            settings.append(f"SET max_statement_time = {timeout:f}")
            idle = max(1, math.ceil(self._settings.idle_transaction))
            settings.append(f"SET idle_transaction_timeout = {idle}")
        else:
            settings.append(f"SET max_execution_time = {int(timeout * 1000)}")
        return settings

    def begin(self, connection: Connection, scope: str, *, durable: bool) -> None:
        """See `Place.begin`. How durable a commit is, is the server's business here."""
        assert isinstance(connection, MysqlConnection)
        connection.begin()
        if scope:
            connection.lock(scope)
        self._told(connection)

    def begin_reading(self, connection: Connection) -> None:
        """See `Place.begin_reading`."""
        assert isinstance(connection, MysqlConnection)
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        connection.begin("WITH CONSISTENT SNAPSHOT, READ ONLY")
        self._told(connection)

    def _told(self, connection: MysqlConnection) -> None:
        now_us, version = connection.execute(_NOW).fetchone() or (0, 0)
        self.clock.told(int(now_us))
        if int(version or 0) != known_version(self.dialect):
            raise newer(self.name, int(version or 0), self.dialect)

    def mapped(self, error: Exception, *, committing: bool = False) -> StorageError:
        """See `Place.mapped`."""
        return mapped(error, self.name, committing=committing)

    def again(self, error: Exception) -> bool:
        """See `Place.again`."""
        return is_victim(error) or is_lost(error)

    def watch(self, changed: Changed, connected: Connected) -> Poller:
        """See `Place.watch`."""
        return Poller(changed, poll=self._settings.poll)

    def last(self, connection: Connection) -> None:
        """See `Place.last`."""
        connection.close()
