"""Joining a transaction that the caller opened, on a connection that the caller owns.

Nothing here commits, rolls back or closes. Drivers are told by the names of their classes, so that
none is imported that the caller does not use.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Literal, NamedTuple, TypeAlias

from postroad.errors import DeclarationError, TransactionRequiredError
from postroad.storage.statements import Dialect, Statement, Style

ACCEPTED = (
    "sqlite3, aiosqlite, psycopg (sync and async), asyncpg, PyMySQL, asyncmy and aiomysql "
    "connections; SQLAlchemy's Session, AsyncSession, Connection and AsyncConnection; "
    "django.db.connection, one of django.db.connections, or an alias of Django's"
)
"""What can be joined, for people."""


class Result(NamedTuple):
    """What a statement brought: how many rows it changed, and the rows that it returned."""

    rowcount: int
    rows: list[tuple[Any, ...]]


class Joined:
    """A synchronous connection of the caller's, inside the caller's transaction.

    Use it at once and let it go: the transaction that it joined ends without a word.
    """

    is_async: Literal[False] = False

    def __init__(self, connection: Any, dialect: Dialect, style: Style) -> None:
        self.connection = connection
        self.dialect = dialect
        self.style = style

    def open(self) -> None:
        """Before a savepoint of the caller's library: see that a transaction is open around it.
        SQLite's driver opens none for a savepoint, and the end of an outermost one commits."""

    def run(self, statement: Statement, parameters: Sequence[Any] = ()) -> Result:
        """Run one statement in the caller's transaction. One that writes begins with INSERT,
        UPDATE or DELETE: before any other, SQLite's driver opens no transaction.

        Raises:
            Exception: the driver's own, untouched: the caller's code retries by them.
        """
        text = statement.text(self.dialect, self.style)
        return self._run(text.sql, tuple(text.arranged(parameters)))

    def insert_new(self, statement: Statement, parameters: Sequence[Any] = ()) -> bool:
        """Insert one row unless it is there already; whether it was inserted. The transaction
        stays usable either way.

        The statement says ON CONFLICT DO NOTHING on SQLite and PostgreSQL. On MySQL it is a plain
        INSERT, or one that really changes a column ON DUPLICATE KEY UPDATE, which spares waiters
        the deadlock of several shared locks.
        """
        try:
            return self.run(statement, parameters).rowcount == 1
        except Exception as error:
            if self.dialect == "mysql" and _is_duplicate(error):
                return False
            raise

    def _run(self, sql: str, parameters: tuple[Any, ...]) -> Result:
        raise NotImplementedError  # a base class: every kind of connection below says how


class AsyncJoined:
    """As `Joined`, for a connection whose calls are awaited."""

    is_async: Literal[True] = True

    def __init__(self, connection: Any, dialect: Dialect, style: Style) -> None:
        self.connection = connection
        self.dialect = dialect
        self.style = style

    async def open(self) -> None:
        """See `Joined.open`."""

    async def run(self, statement: Statement, parameters: Sequence[Any] = ()) -> Result:
        """See `Joined.run`."""
        text = statement.text(self.dialect, self.style)
        return await self._run(text.sql, tuple(text.arranged(parameters)))

    async def insert_new(self, statement: Statement, parameters: Sequence[Any] = ()) -> bool:
        """See `Joined.insert_new`."""
        try:
            return (await self.run(statement, parameters)).rowcount == 1
        except Exception as error:
            if self.dialect == "mysql" and _is_duplicate(error):
                return False
            raise

    async def _run(self, sql: str, parameters: tuple[Any, ...]) -> Result:
        raise NotImplementedError  # a base class: every kind of connection below says how


def join(connection: Any) -> Joined | AsyncJoined:
    """Join the transaction that is open on the caller's connection, or that its driver or
    SQLAlchemy opens by itself at the next statement.

    Raises:
        TransactionRequiredError: it would commit each statement by itself.
        DeclarationError: the object is none of `ACCEPTED`, or of another kind of database.
    """
    if isinstance(connection, str):
        return _django(_of_alias(connection))
    kind: type = type(connection)
    found = _joiner(kind)
    if found is None:
        raise DeclarationError(
            f"a {kind.__module__}.{kind.__qualname__} is no connection that can be joined; "
            f"these can: {ACCEPTED}"
        )
    return found(connection)


def is_missing_table(error: BaseException | None) -> bool:
    """Whether a driver's error, also as SQLAlchemy or Django wraps it, says that a table does not
    exist."""
    return any(
        getattr(one, "sqlstate", None) == "42P01"
        or getattr(one, "pgcode", None) == "42P01"
        or _number(one) == 1146
        or str(one).startswith("no such table")
        for one in causes(error)
    )


def _is_duplicate(error: BaseException) -> bool:
    return any(_number(one) == 1062 for one in causes(error))


def _number(error: BaseException) -> object:
    """MySQL's number of an error, which its drivers give as the first argument."""
    return error.args[0] if error.args else None


def causes(error: BaseException | None) -> list[BaseException]:
    """An error and what it wraps, outermost first: SQLAlchemy and Django wrap the driver's."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = getattr(error, "orig", None) or error.__cause__
    return found


def _refused(what: str, remedy: str) -> TransactionRequiredError:
    return TransactionRequiredError(
        f"{what} has no transaction open and commits each statement by itself: what is added now "
        f"would not share the fate of your business data; {remedy}"
    )


# ------------------------------------------------------------ SQLite


class _Sqlite(Joined):
    def _run(self, sql: str, parameters: tuple[Any, ...]) -> Result:
        begin = _sqlite_begin(self.connection)
        if begin:
            self.connection.execute(begin)
        cursor = self.connection.cursor()
        cursor.row_factory = None
        cursor.execute(sql, parameters)
        return _all_of(cursor)


class _Aiosqlite(AsyncJoined):
    async def _run(self, sql: str, parameters: tuple[Any, ...]) -> Result:
        begin = _sqlite_begin(self.connection._conn)
        if begin:
            await self.connection.execute(begin)
        cursor = await self.connection.execute(sql, parameters)
        cursor.row_factory = None
        rows = [] if cursor.description is None else await cursor.fetchall()
        return Result(cursor.rowcount, list(rows))


def _sqlite(connection: Any) -> Joined:
    _sqlite_begin(connection)
    return _Sqlite(connection, "sqlite", "qmark")


def _aiosqlite(connection: Any) -> AsyncJoined:
    _sqlite_begin(connection._conn)
    return _Aiosqlite(connection, "sqlite", "qmark")


def _sqlite_begin(connection: Any) -> str | None:
    """What has to be run first: the driver itself opens a transaction before some statements
    only."""
    if connection.in_transaction:
        return None
    legacy = getattr(connection, "autocommit", -1) == -1
    if not legacy or connection.isolation_level is None:
        raise _refused(
            "this SQLite connection",
            "run BEGIN on it first, or open it without isolation_level=None or autocommit=True",
        )
    return f"BEGIN {connection.isolation_level}"


# ------------------------------------------------------------ PostgreSQL


class _Psycopg(Joined):
    def _run(self, sql: str, parameters: tuple[Any, ...]) -> Result:
        psycopg = sys.modules["psycopg"]
        cursor = psycopg.Cursor(self.connection, row_factory=psycopg.rows.tuple_row)
        return _all_of(cursor.execute(sql, parameters))


class _AsyncPsycopg(AsyncJoined):
    async def _run(self, sql: str, parameters: tuple[Any, ...]) -> Result:
        psycopg = sys.modules["psycopg"]
        cursor = psycopg.AsyncCursor(self.connection, row_factory=psycopg.rows.tuple_row)
        await cursor.execute(sql, parameters)
        rows = [] if cursor.description is None else await cursor.fetchall()
        return Result(cursor.rowcount, rows)


def _psycopg(connection: Any) -> Joined:
    _check_psycopg(connection)
    return _Psycopg(connection, "postgresql", "format")


def _async_psycopg(connection: Any) -> AsyncJoined:
    _check_psycopg(connection)
    return _AsyncPsycopg(connection, "postgresql", "format")


def _check_psycopg(connection: Any) -> None:
    if connection.autocommit and connection.info.transaction_status.name == "IDLE":
        raise _refused(
            "this psycopg connection",
            "use it inside `with connection.transaction()`, or connect without autocommit=True",
        )


_RETURNS_ROWS = re.compile(r"\s*SELECT\b|.*\bRETURNING\b", re.IGNORECASE | re.DOTALL)


@cache
def _returns_rows(sql: str) -> bool:
    return _RETURNS_ROWS.match(sql) is not None


class _Asyncpg(AsyncJoined):
    async def _run(self, sql: str, parameters: tuple[Any, ...]) -> Result:
        if _returns_rows(sql):
            rows = [tuple(row) for row in await self.connection.fetch(sql, *parameters)]
            return Result(len(rows), rows)
        status: str = await self.connection.execute(sql, *parameters)
        count = status.rpartition(" ")[2]
        return Result(int(count) if count.isdecimal() else -1, [])


def _asyncpg(connection: Any) -> AsyncJoined:
    if not connection.is_in_transaction():
        raise _refused(
            "this asyncpg connection", "use it inside `async with connection.transaction()`"
        )
    return _Asyncpg(connection, "postgresql", "dollar")


# ------------------------------------------------------------ MySQL and MariaDB


class _Pymysql(Joined):
    def _run(self, sql: str, parameters: tuple[Any, ...]) -> Result:
        with self.connection.cursor(sys.modules["pymysql.cursors"].Cursor) as cursor:
            cursor.execute(sql, parameters)
            return _all_of(cursor)


class _AsyncMysql(AsyncJoined):
    async def _run(self, sql: str, parameters: tuple[Any, ...]) -> Result:
        package = type(self.connection).__module__.partition(".")[0]
        async with self.connection.cursor(sys.modules[f"{package}.cursors"].Cursor) as cursor:
            await cursor.execute(sql, parameters)
            rows = [] if cursor.description is None else await cursor.fetchall()
            return Result(cursor.rowcount, list(rows))


_IN_TRANSACTION = 1
"""SERVER_STATUS_IN_TRANS, which the server reports with every answer."""


def _pymysql(connection: Any) -> Joined:
    if connection.get_autocommit() and not connection.server_status & _IN_TRANSACTION:
        raise _mysql_refused("PyMySQL", "connection.begin()")
    return _Pymysql(connection, "mysql", "format")


def _async_mysql(connection: Any) -> AsyncJoined:
    if connection.get_autocommit() and not connection.get_transaction_status():
        driver = type(connection).__module__.partition(".")[0]
        raise _mysql_refused(driver, "await connection.begin()")
    return _AsyncMysql(connection, "mysql", "format")


def _mysql_refused(driver: str, begin: str) -> TransactionRequiredError:
    return _refused(
        f"this {driver} connection", f"call `{begin}` first, or connect without autocommit=True"
    )


# ------------------------------------------------------------ SQLAlchemy

_STYLES: dict[str, Style] = {
    "qmark": "qmark",
    "format": "format",
    "pyformat": "format",
    "numeric_dollar": "dollar",
}
_DIALECTS: dict[str, Dialect] = {
    "sqlite": "sqlite",
    "postgresql": "postgresql",
    "mysql": "mysql",
    "mariadb": "mysql",
}


class _Sqlalchemy(Joined):
    def open(self) -> None:
        _alchemy_open(self.connection)

    def _run(self, sql: str, parameters: tuple[Any, ...]) -> Result:
        return _alchemy_run(self.connection, sql, parameters)


class _AsyncSqlalchemy(AsyncJoined):
    """`connection` is an AsyncSession or an AsyncConnection."""

    async def open(self) -> None:
        await self.connection.run_sync(lambda owner: _alchemy_open(_alchemy_connection(owner)))

    async def _run(self, sql: str, parameters: tuple[Any, ...]) -> Result:
        def within(owner: Any) -> Result:
            return _alchemy_run(_alchemy_connection(owner), sql, parameters)

        result: Result = await self.connection.run_sync(within)
        return result


def _alchemy_open(connection: Any) -> None:
    if connection.dialect.name == "sqlite":
        driver = connection.connection.driver_connection
        if not driver.in_transaction:
            connection.exec_driver_sql("BEGIN")


def _alchemy_run(connection: Any, sql: str, parameters: tuple[Any, ...]) -> Result:
    result = connection.exec_driver_sql(sql, parameters)
    if not result.returns_rows:
        return Result(result.rowcount, [])
    return Result(result.rowcount, [tuple(row) for row in result])


def _alchemy_connection(owner: Any) -> Any:
    """The connection of a session, which begins at this, or the connection itself."""
    connection = owner if hasattr(owner, "exec_driver_sql") else owner.connection()
    level = connection.get_execution_options().get("isolation_level")
    if level is None:
        level = getattr(connection.engine.dialect, "_on_connect_isolation_level", None)
    if level == "AUTOCOMMIT":
        raise _refused(
            "this SQLAlchemy connection", 'use an engine without isolation_level="AUTOCOMMIT"'
        )
    return connection


def _alchemy_kind(dialect: Any) -> tuple[Dialect, Style]:
    name, style = _DIALECTS.get(dialect.name), _STYLES.get(dialect.paramstyle)
    if name is None or style is None:
        raise DeclarationError(
            f"SQLAlchemy's {dialect.name}+{dialect.driver} cannot be joined; SQLite, PostgreSQL, "
            "MySQL and MariaDB can"
        )
    return name, style


def _sqlalchemy(owner: Any) -> Joined:
    connection = _alchemy_connection(owner)
    return _Sqlalchemy(connection, *_alchemy_kind(connection.dialect))


def _async_sqlalchemy(owner: Any) -> AsyncJoined:
    bind = owner if hasattr(owner, "exec_driver_sql") else owner.get_bind()
    return _AsyncSqlalchemy(owner, *_alchemy_kind(bind.dialect))


# ------------------------------------------------------------ Django


class _Django(Joined):
    def _run(self, sql: str, parameters: tuple[Any, ...]) -> Result:
        with self.connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            return _all_of(cursor)


def _django(connection: Any) -> Joined:
    dialect = _DIALECTS.get(connection.vendor)
    if dialect is None:
        raise DeclarationError(
            f"Django's {connection.vendor} cannot be joined; SQLite, PostgreSQL, MySQL and "
            "MariaDB can"
        )
    if not connection.in_atomic_block and connection.get_autocommit():
        alias = connection.alias
        raise _refused(
            f"Django's connection {alias!r}", f"use it inside `transaction.atomic(using={alias!r})`"
        )
    return _Django(connection, dialect, "format")


def _of_alias(alias: str) -> Any:
    django = sys.modules.get("django.db")
    if django is None:
        raise DeclarationError(
            f"{alias!r} would be an alias of Django's, and Django is not in use here; what can be "
            f"joined: {ACCEPTED}"
        )
    if alias not in django.connections:
        known = ", ".join(django.connections)
        raise DeclarationError(f"Django has no database {alias!r}; it has {known}")
    return django.connections[alias]


# ------------------------------------------------------------ our own


class _Own(Joined):
    def run(self, statement: Statement, parameters: Sequence[Any] = ()) -> Result:
        return _all_of(self.connection.execute(statement, parameters))


def _own(connection: Any) -> Joined:
    if not connection.in_transaction:
        raise _refused("this connection of Postroad's", "use it inside the transaction")
    return _Own(connection, connection.dialect, "qmark")


def _all_of(cursor: Any) -> Result:
    rows = [] if cursor.description is None else cursor.fetchall()
    return Result(cursor.rowcount, list(rows))


_Joiner: TypeAlias = Callable[[Any], Joined | AsyncJoined]
_JOINERS: dict[str, _Joiner] = {
    "sqlite3.Connection": _sqlite,
    "aiosqlite.core.Connection": _aiosqlite,
    "psycopg.Connection": _psycopg,
    "psycopg.AsyncConnection": _async_psycopg,
    "asyncpg.connection.Connection": _asyncpg,
    "asyncpg.pool.PoolConnectionProxy": _asyncpg,
    "pymysql.connections.Connection": _pymysql,
    "asyncmy.connection.Connection": _async_mysql,
    "aiomysql.connection.Connection": _async_mysql,
    "sqlalchemy.engine.base.Connection": _sqlalchemy,
    "sqlalchemy.orm.session.Session": _sqlalchemy,
    "sqlalchemy.orm.scoping.scoped_session": _sqlalchemy,
    "sqlalchemy.ext.asyncio.engine.AsyncConnection": _async_sqlalchemy,
    "sqlalchemy.ext.asyncio.session.AsyncSession": _async_sqlalchemy,
    "sqlalchemy.ext.asyncio.scoping.async_scoped_session": _async_sqlalchemy,
    "django.db.backends.base.base.BaseDatabaseWrapper": _django,
    "django.utils.connection.ConnectionProxy": _django,
}


@cache
def _joiner(kind: type) -> _Joiner | None:
    for base in kind.__mro__:
        if base.__module__.startswith("postroad.storage.") and hasattr(base, "abandon"):
            return _own
        found = _JOINERS.get(f"{base.__module__}.{base.__qualname__}")
        if found is not None:
            return found
    return None
