"""Idempotency keys: what was done under a key is done once, and its result given again."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Coroutine
from datetime import timedelta
from hashlib import sha256
from types import TracebackType
from typing import Any, TypeVar

from postroad.core.clock import Clock, SystemClock, duration_us
from postroad.errors import (
    ClosedError,
    KeyInProgressError,
    KeyLostError,
    KeyReusedError,
    StorageError,
)
from postroad.idempotency import records
from postroad.idempotency.records import Asked, Done, Held, InProgress
from postroad.idempotency.steps import Steps, run
from postroad.storage.connection import Connection
from postroad.storage.database import Database
from postroad.storage.opening import place_of

R = TypeVar("R")
_TIDY_EVERY = 60.0
"""Seconds between two looks for expired records, while claims come in."""
_TIDY_AT_ONCE = 500


class Keys:
    """The records of idempotency keys in one database. Belongs to one event loop.

    A key is claimed in a short transaction of its own, and held by a lease that is renewed while
    the claim is open. A process that dies holding it leaves it to the next claim after `lease`.
    Opened at the first claim, or with `async with`. Expired records are removed in small portions
    while claims come in.

    Args:
        url: a database, as `sqlite:///shop.db`, `postgresql://…` or `mysql://…`.
        window: how long a result is kept, from when it was there. A duplicate that comes later
            is done again; publish it in your documentation.
        lease: how long a claim outlives its process.
        clock: the time to go by; the database's own if it is None.

    Raises:
        InvalidURLError: the URL names no database.
    """

    def __init__(
        self,
        url: str,
        *,
        window: timedelta = timedelta(hours=24),
        lease: timedelta = timedelta(seconds=30),
        clock: Clock | None = None,
    ) -> None:
        if min(window, lease) <= timedelta(0):
            raise ValueError("a window and a lease are longer than nothing")
        self._place = place_of(url)
        self._window_us, self._lease_us = duration_us(window), duration_us(lease)
        self._clock = clock
        self._local: Clock = clock or SystemClock()
        self._opening = asyncio.Lock()
        self._database: Database | None = None
        self._held: dict[bytes, bytes] = {}
        self._renewing: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[None]] = set()
        self._tidy_at = 0.0

    async def __aenter__(self) -> Keys:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Connect, and create the tables where they are missing. Idempotent.

        Raises:
            StorageError: the database cannot be used.
        """
        async with self._opening:
            if self._database is None:
                self._database = await Database.open(self._place, lambda _: None)

    async def close(self) -> None:
        """Let go of the database. Claims that are open are left to their leases. Idempotent."""
        if self._renewing is not None:
            self._renewing.cancel()
        tasks = filter(None, (self._renewing, *self._background))
        await asyncio.gather(*tasks, return_exceptions=True)
        self._renewing = None
        self._held.clear()
        async with self._opening:
            database, self._database = self._database, None
        if database is not None:
            await database.close()

    def claim(self, scope: str, key: str, payload: bytes = b"") -> Claim:
        """Claim a key for a block of `async with`; see `Claim`.

        Args:
            scope: whose key it is, and for what: `charges/tenant-7`. The same key in another scope
                is another key. It is kept readable, so it holds no secret.
            key: what the client made up for this one operation.
            payload: what was asked. The same key with another payload is refused. Only its hash
                is kept.
        """
        return Claim(self, scope, key, payload)

    async def purge(self, limit: int = 1000) -> int:
        """Remove up to `limit` records whose window is over, in one short transaction.

        Returns how many it were: call again while it is `limit`. Nobody has to call it at all.
        """
        return await self._write(lambda c, now: records.purge(c, now, limit))

    async def _write(self, operation: Callable[[Connection, int], R]) -> R:
        await self.open()
        database = self._database
        if database is None:
            raise ClosedError("the idempotency keys were closed")

        def run(connection: Connection) -> R:
            return operation(connection, self._now_us(connection))

        return await asyncio.shield(database.write(run))

    async def _read(self, function: Callable[[Connection], R]) -> R:
        await self.open()
        if self._database is None:
            raise ClosedError("the idempotency keys were closed")
        return await self._database.read(function)

    def _now_us(self, connection: Connection) -> int:
        return records.clock(connection) if self._clock is None else self._clock.now_us()

    # ------------------------------------------------------------ leases

    def _hold(self, id_: bytes, owner: bytes) -> None:
        self._held[owner] = id_
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.create_task(self._renew(), name="postroad-keys")

    def _let_go(self, owner: bytes) -> None:
        self._held.pop(owner, None)

    async def _renew(self) -> None:
        """Renew what is held, all in one transaction, three times a lease."""
        while self._held:
            await self._local.sleep(self._lease_us / 3e6)
            held = [(id_, owner) for owner, id_ in self._held.items()]
            if not held:
                continue
            try:
                await self._write(lambda c, now: records.renew(c, held, now + self._lease_us))  # noqa: B023 - awaited here
            except StorageError:
                pass  # tried again; a lease that is lost meanwhile is found out when it ends

    def _tidy(self) -> None:
        if self._local.monotonic() < self._tidy_at:
            return
        self._tidy_at = self._local.monotonic() + _TIDY_EVERY
        self._in_background(self.purge(_TIDY_AT_ONCE))

    def _in_background(self, work: Coroutine[Any, Any, object]) -> None:
        task = asyncio.create_task(_tried(work), name="postroad-keys")
        self._background.add(task)
        task.add_done_callback(self._background.discard)


async def _tried(work: Coroutine[Any, Any, object]) -> None:
    try:
        await work
    except (StorageError, ClosedError):
        pass  # an expired record, or one whose lease ends, counts for nothing anyway


class Claim:
    """One operation under one key, while its block runs::

        async with keys.claim("charges", key, payload) as claim:
            if not claim.done:
                await claim.store(await charge(payload))
        return claim.result

    The block is entered by one claim at a time. It ends in one of three ways:

    - `store` was called, or nothing was: done. Every later claim finds `done` and the result, until
      the window is over.
    - It raised, was cancelled, or called `release`: the key is free and the next claim runs again.
      What the block has done by then is not undone: keep its writes in one transaction.
    - Its process died: as if it had raised, once the lease is over. `earlier` counts these, so
      that the next one can ask whether the effect is there before it makes it again. Between an
      effect and `store` there is such a moment; with `store_in` there is none.

    Attributes:
        done: it was done before; there is nothing to do.
        result: what was stored.
        earlier: how many claims of it ended with their process.

    Raises:
        KeyReusedError: on entering; the key was used with another payload.
        KeyInProgressError: on entering; somebody holds it now.
        KeyLostError: on leaving or storing; the lease was lost and somebody else holds it. That a
            process stood still for longer than its lease is the one way to do something twice.
        StorageError: on entering, nothing was claimed; on leaving or storing, it may be that the
            result was not kept, and the next claim runs again after the lease.
    """

    def __init__(self, keys: Keys, scope: str, key: str, payload: bytes) -> None:
        self._keys = keys
        self._asked = Asked(
            id=records.identity(scope, key),
            scope=records.readable(scope),
            fingerprint=sha256(payload).digest(),
            owner=secrets.token_bytes(16),
            lease_us=keys._lease_us,
            window_us=keys._window_us,
        )
        self._ended = False
        self._joined = False
        self.done = False
        self.result = b""
        self.earlier = 0

    async def __aenter__(self) -> Claim:
        asked = self._asked
        try:
            answer = await self._keys._write(lambda c, now: records.claim(c, asked, now))
        except asyncio.CancelledError:
            # It may be claimed all the same, and nobody would hold it.
            self._keys._in_background(self._free())
            raise
        self._keys._tidy()
        if isinstance(answer, Held):
            self.earlier = answer.earlier
            self._keys._hold(asked.id, asked.owner)
        elif isinstance(answer, Done):
            self._ended = self.done = True
            self.result = answer.result
        elif isinstance(answer, InProgress):
            seconds = answer.left_us / 1e6
            raise KeyInProgressError(
                "what this idempotency key stands for is being done right now; try again in a "
                f"moment (its lease is over in {seconds:.0f} s, if it is not renewed)",
                seconds,
            )
        else:
            raise KeyReusedError(
                "this idempotency key was used before with another payload; nothing was done. Use "
                "a new key for a new operation"
            )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._ended:
            return
        self._keys._let_go(self._asked.owner)
        if self._joined and kind is None:
            await self._verify()
        elif kind is None:
            await self.store(self.result)
        else:
            try:
                await self._free()
            except (StorageError, ClosedError):
                pass  # what the block raised matters more, and the lease frees the key

    async def store(self, result: bytes = b"") -> None:
        """Keep the result, durably; from then on the key is done, whatever becomes of the block.

        Raises:
            KeyLostError: the lease was lost. What the block did may be done again.
        """
        if self._ended:
            raise ClosedError("this claim has ended; a result is stored once")
        asked, window_us = self._asked, self._asked.window_us
        self._ended = True
        self._keys._let_go(asked.owner)
        kept = await self._keys._write(
            lambda c, now: records.finish(c, asked.id, asked.owner, result, now + window_us)
        )
        if not kept:
            raise _lost()
        self.done, self.result = True, result

    def store_in(self, connection: Any, result: bytes = b"") -> Any:
        """Keep the result in the caller's own open transaction, in the database of the keys: it
        commits with the caller's writes or not at all, so that no crash falls between them. The
        caller commits inside the block. `await` it where the connection is asynchronous.

        Raises:
            KeyLostError: the lease was lost; roll back. Also on leaving, if nothing was committed.
        """
        if self._ended or self._joined:
            raise ClosedError("this claim has ended; a result is stored once")
        # A renewal would wait for the caller's transaction, and with it everything else.
        self._keys._let_go(self._asked.owner)
        self._joined, self.result = True, result
        return run(connection, self._keep(result))

    def _keep(self, result: bytes) -> Steps[None]:
        asked = self._asked
        now = yield records.SQL["now"], ()
        expires = now.rows[0][0] + asked.window_us
        kept = yield records.SQL["key_finish"], (result, expires, asked.id, asked.owner)
        if kept.rowcount != 1:
            raise _lost()

    async def release(self) -> None:
        """Free the key: nothing was done, and the next claim runs again."""
        if self._ended:
            raise ClosedError("this claim has ended; what is done cannot be released")
        self._keys._let_go(self._asked.owner)
        await self._free()

    async def _free(self) -> None:
        self._ended = True
        id_, owner = self._asked.id, self._asked.owner
        await self._keys._write(lambda c, _: records.release(c, id_, owner))

    async def _verify(self) -> None:
        self._ended = True
        id_, owner = self._asked.id, self._asked.owner
        # A read: a transaction that is still open would keep a write waiting.
        if not await self._keys._read(lambda c: records.finished(c, id_, owner)):
            raise _lost()
        self.done = True


def _lost() -> KeyLostError:
    return KeyLostError(
        "the claim of this idempotency key is lost: it was held past its lease and somebody else "
        "has it, or the transaction that keeps its result was not committed inside its block"
    )
