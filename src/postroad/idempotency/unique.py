"""A unique constraint as the guard: the second insert of the same thing was done already.

The oldest kind, and the cheapest: no table and no window of ours. What is unique about the
business row (an order's number, a transfer's reference) is a constraint, and the database lets it
in once.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, AbstractContextManager
from types import TracebackType
from typing import Any

from postroad.errors import DeclarationError
from postroad.idempotency.savepoint import async_savepoint, savepoint
from postroad.idempotency.steps import Steps, run
from postroad.idempotency.violations import Violation, is_one_of, violation
from postroad.storage.joining import join


def once(connection: Any, *constraints: str) -> Once:
    """A block of `with`, or of `async with`, that inserts something which may be there already::

        with unique.once(connection, "payments_reference") as attempt:
            connection.execute("INSERT INTO payments (reference, …) VALUES (?, …)", …)
        if attempt.repeated:
            return

    Args:
        connection: the caller's, with a transaction open; see `postroad.storage.joining`.
        constraints: the names of the unique constraint or index that says so: one, or what each
            database calls it. On SQLite, which does not name constraints in its errors, it is a
            unique index, a named constraint of the table, or `table.column` (all of them, as
            `payments.bank, payments.reference`). MySQL calls the primary key `PRIMARY`.
    """
    if not constraints:
        raise DeclarationError(
            "name the unique constraint whose violation means that it was done already; any other "
            "violation is an error that must not pass for a duplicate"
        )
    return Once(connection, constraints)


class Once:
    """What `once` gives. The block runs in a savepoint: if the constraint says that it was done
    already, what the block wrote is undone, and the transaction goes on as before it.

    Any other error passes on as the driver's own, with the block undone as well. A constraint
    that is checked at the commit (DEFERRABLE INITIALLY DEFERRED) is seen too late.

    Attributes:
        repeated: after the block, whether it was done already.
    """

    def __init__(self, connection: Any, constraints: tuple[str, ...]) -> None:
        self._connection = connection
        self._names = frozenset(constraints)
        self._sync: AbstractContextManager[Any] | None = None
        self._async: AbstractAsyncContextManager[Any] | None = None
        self._found: Violation | None = None
        self.repeated = False

    def __enter__(self) -> Once:
        joined = join(self._connection)
        if joined.is_async:
            raise DeclarationError("the connection is asynchronous; use `async with`")
        self._sync = savepoint(self._connection, joined)
        self._sync.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        assert self._sync is not None
        try:
            self._sync.__exit__(kind, error, traceback)
        except Exception as failed:
            # An ORM may write at the end of its savepoint only.
            if failed is error or not self._may_tell(failed):
                raise
            if not run(self._connection, self._tells()):
                raise
            return True
        return self._may_tell(error) and bool(run(self._connection, self._tells()))

    async def __aenter__(self) -> Once:
        joined = join(self._connection)
        if not joined.is_async:
            raise DeclarationError("the connection is synchronous; use `with`")
        self._async = async_savepoint(self._connection, joined)
        await self._async.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        assert self._async is not None
        try:
            await self._async.__aexit__(kind, error, traceback)
        except Exception as failed:
            if failed is error or not self._may_tell(failed):
                raise
            if not await run(self._connection, self._tells()):
                raise
            return True
        return self._may_tell(error) and bool(await run(self._connection, self._tells()))

    def _may_tell(self, error: BaseException | None) -> bool:
        self._found = violation(error)
        return self._found is not None

    def _tells(self) -> Steps[bool]:
        """Whether the violation says that it was done already; the savepoint is undone."""
        assert self._found is not None
        self.repeated = yield from is_one_of(self._found, self._names)
        return self.repeated
