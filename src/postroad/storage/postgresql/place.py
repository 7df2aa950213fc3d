"""A database on a PostgreSQL server."""

from __future__ import annotations

from typing import Any

import psycopg

from postroad.errors import StorageError
from postroad.storage.clock import ServerClock
from postroad.storage.connection import Connection
from postroad.storage.migrations import (
    check,
    known_version,
    may_not_migrate,
    migrate,
    newer,
)
from postroad.storage.place import Changed, Connected
from postroad.storage.poller import Poller
from postroad.storage.postgresql.connection import PostgresqlConnection, lock_key
from postroad.storage.postgresql.errors import is_lost, is_victim, mapped
from postroad.storage.postgresql.listener import Listener
from postroad.storage.settings import Settings
from postroad.storage.statements import Dialect

_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED; "
_RELAXED = "SET LOCAL synchronous_commit TO off; "
_UNLIMITED = "SET LOCAL statement_timeout TO 0; "
"""A migration of large tables takes as long as it takes."""
_SCHEMA = "SELECT to_regnamespace($1) IS NOT NULL"
_READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; "
_NOW = (
    "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, "
    "(SELECT value FROM postroad_meta WHERE name = 'version')"
)


class PostgresqlPlace:
    """A `Place`.

    Args:
        conninfo: for libpq.
        name: what errors call it; holds no secret.
        schema: where our tables are; empty is the role's own search path.
        notify: listen for notifications, beside looking now and then.
    """

    dialect: Dialect = "postgresql"
    one_writer: bool = False
    failure: type[Exception] = psycopg.Error

    def __init__(
        self, conninfo: str, name: str, settings: Settings, *, schema: str = "", notify: bool = True
    ) -> None:
        self._conninfo = conninfo
        self._settings = settings
        self.schema = schema
        self._notify = notify
        self._backends: set[int] = set()
        self.name = name
        self.clock = ServerClock()
        self.busy = settings.busy
        self.pool = settings.pool
        self.risk = (
            "a crash of the server loses nothing acknowledged, unless its synchronous_commit is "
            "off; the loss of its disk loses everything that is not replicated"
        )

    def prepare(self) -> None:
        """See `Place.prepare`."""
        connection = self.connect()
        try:
            if check(connection, self.name):
                self._migrate(connection)
            self.begin_reading(connection)
        except psycopg.Error as error:
            raise self.mapped(error) from error
        finally:
            connection.abandon()
            connection.close()

    def _migrate(self, connection: PostgresqlConnection) -> None:
        connection.control(f"{_BEGIN}{_UNLIMITED}{_lock('migrations')}")
        try:
            self._make_schema(connection)
            migrate(connection, self.name)
            connection.commit()
        except BaseException as error:
            connection.abandon()
            if isinstance(error, psycopg.errors.InsufficientPrivilege):
                raise may_not_migrate(self.name, str(self.mapped(error))) from error
            raise

    def _make_schema(self, connection: PostgresqlConnection) -> None:
        name = f'"{self.schema}"'
        if self.schema and connection.execute(_SCHEMA, (name,)).fetchone() == (False,):
            connection.execute(f"CREATE SCHEMA {name}")

    def connect(self, *, read_only: bool = False) -> PostgresqlConnection:
        """See `Place.connect`."""
        try:
            raw = psycopg.connect(
                self._conninfo,
                autocommit=True,
                cursor_factory=psycopg.RawCursor,
                **_defaults(self._conninfo, self._settings.silence_ms),
            )
            raw.prepared_max = 500
            raw.execute(self._session_settings())
        except psycopg.Error as error:
            raise self.mapped(error) from error
        connection = PostgresqlConnection(raw)
        self._backends.add(connection.backend)
        return connection

    def _session_settings(self) -> Any:
        settings = {
            "statement_timeout": int(self._settings.statement_timeout * 1000),
            "lock_timeout": int(self._settings.busy * 1000),
            "idle_in_transaction_session_timeout": int(self._settings.idle_transaction * 1000),
        }
        words = [f"SET {name} = {value}" for name, value in settings.items()]
        if self.schema:
            words.append(f'SET search_path = "{self.schema}", "$user", public')
            words.append(f"SET postroad.schema = '\"{self.schema}\"'")
        return "; ".join(words)

    def begin(self, connection: Connection, scope: str, *, durable: bool) -> None:
        """See `Place.begin`: one round trip, which also tells the server's time."""
        assert isinstance(connection, PostgresqlConnection)
        relaxed = "" if durable else _RELAXED
        lock = _lock(scope) if scope else ""
        self._told(connection.control(f"{_BEGIN}{relaxed}{lock}{_NOW}"))

    def begin_reading(self, connection: Connection) -> None:
        """See `Place.begin_reading`."""
        assert isinstance(connection, PostgresqlConnection)
        self._told(connection.control(f"{_READ}{_NOW}"))

    def _told(self, result: Any) -> None:
        self.clock.told(int(result.get_value(0, 0)))
        version = int(result.get_value(0, 1) or 0)
        if version != known_version(self.dialect):
            raise newer(self.name, version, self.dialect)

    def mapped(self, error: Exception, *, committing: bool = False) -> StorageError:
        """See `Place.mapped`."""
        return mapped(error, self.name, committing=committing)

    def again(self, error: Exception) -> bool:
        """See `Place.again`."""
        return is_victim(error) or is_lost(error)

    def watch(self, changed: Changed, connected: Connected) -> Poller:
        """See `Place.watch`."""
        poll = self._settings.poll
        if not self._notify:
            return Poller(changed, poll=poll)
        ours = self._backends.__contains__
        return Listener(self.connect, changed, connected, poll=poll, is_ours=ours)

    def last(self, connection: Connection) -> None:
        """See `Place.last`."""
        connection.close()


def _lock(name: str) -> str:
    return f"SELECT pg_advisory_xact_lock({lock_key(name)}); "


def _defaults(conninfo: str, silence_ms: int) -> dict[str, Any]:
    """What a URL need not say; a server that does not even acknowledge for so long is lost."""
    given = psycopg.conninfo.conninfo_to_dict(conninfo)
    wanted = {"application_name": "postroad", "connect_timeout": 5, "keepalives_idle": 30}
    wanted |= {"keepalives_interval": 10, "keepalives_count": 3, "tcp_user_timeout": silence_ms}
    return {name: value for name, value in wanted.items() if name not in given}
