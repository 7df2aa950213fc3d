"""One member of a group that works off a polled table."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar
from uuid import uuid4

from postroad.core.clock import duration_us
from postroad.core.delivery import Delivery, Partition, Settled, Settlement
from postroad.core.notices import Notice, NoticeQueue
from postroad.core.subscription import Subscription
from postroad.core.transport import Plan
from postroad.errors import ClosedError, PostroadError, StorageError
from postroad.storage.connection import Connection
from postroad.storage.statements import load
from postroad.transports.polling import settling
from postroad.transports.polling.claims import Claimed, Claims, Token, Want
from postroad.transports.polling.desk import Desk
from postroad.transports.polling.timetable import Look, Timetable

R = TypeVar("R")
_SQL = load("polling")
_SHORTEST_PAUSE = 0.2
"""Seconds before something that could not be had (its row is locked) is looked at again."""


class PollingConsumer:
    """A `Consumer` over one table. Its claims are leased row by row and fenced."""

    def __init__(
        self,
        desk: Desk,
        claims: Claims,
        timetable: Timetable,
        subscription: Subscription,
        plan: Plan,
    ) -> None:
        self._desk = desk
        self._claims = claims
        self._timetable = timetable
        self._topic = subscription.source_name
        self._group = subscription.group or ""
        self._lease = plan.lease
        self._session = str(uuid4())
        self._ends: dict[Token, float] = {}
        self._paused = False
        self._full = False
        self._wake = asyncio.Event()
        self._notices = NoticeQueue()
        self._background: set[asyncio.Future[Any]] = set()
        self._closing: asyncio.Future[None] | None = None

    async def join(self) -> None:
        """Find out whether a tick of the schedule was missed."""
        if not self._timetable.is_cron:
            return
        place, now = (self._topic, self._group), self._desk.clock.now_us()

        def last(connection: Connection) -> int:
            connection.execute(_SQL["ran_insert"], (*place, now))
            return int(connection.execute(_SQL["ran"], place).fetchone()[0])

        self._timetable.missed(await self._desk.write(last))

    # ------------------------------------------------ receiving

    async def receive(self, limit: int, max_bytes: int, wait: timedelta) -> Sequence[Delivery]:
        """See `Consumer.receive`."""
        clock = self._desk.clock
        deadline = clock.monotonic() + wait.total_seconds()
        while True:
            self._usable()
            self._wake.clear()
            look = None if self._paused else self._timetable.due()
            if look is not None:
                found = await self._look(look, limit, max_bytes)
                if found:
                    return found
            remaining = deadline - clock.monotonic()
            if remaining <= 0:
                return ()
            pause = remaining if self._paused else min(remaining, self._timetable.pause())
            if pause > 0:
                await self._pause(pause)
            if self._closing is not None:
                return ()

    async def _look(self, look: Look, limit: int, max_bytes: int) -> Sequence[Delivery]:
        """Look without a lock whether there is anything, and claim it if there is."""
        everything = look == "table"
        # After the last of several batches: what comes back, and when, is asked for at once.
        back_in: float | None = 0.0
        if not self._full:
            back_in = None
            table, place = self._desk.table, (self._topic, self._group, self._session)
            until_us, any_ready = await self._desk.read(
                lambda c: table.look(c, *place, everything=everything)
            )
            if until_us is not None:
                back_in = max(0.0, (until_us - self._desk.now_us()) / 1e6)
            if not any_ready and back_in != 0.0:
                await self._looked(look, Claimed([], full=False), back_in)
                return ()
            # Others are at it too. What they may leave behind is looked for after one lease.
            lease = self._lease.total_seconds()
            back_in = lease if back_in is None else min(max(back_in, _SHORTEST_PAUSE), lease)
        claimed = await self._claim(everything, limit, max_bytes)
        self._full = claimed.full
        await self._looked(look, claimed, back_in)
        return claimed.deliveries

    async def _looked(self, look: Look, claimed: Claimed, back_in: float | None) -> None:
        self._timetable.looked(look, full=claimed.full, back_in=back_in)
        if look == "table" and not claimed.full and self._timetable.is_cron:
            now, place = self._desk.clock.now_us(), (self._topic, self._group)
            with suppress(StorageError):  # a missed mark is one look more than needed
                await asyncio.shield(
                    self._desk.write(
                        lambda c: c.execute(_SQL["ran_update"], (now, *place, now)).rowcount
                    )
                )

    async def _claim(self, everything: bool, limit: int, max_bytes: int) -> Claimed:
        desk, claims = self._desk, self._claims
        want = Want(self._session, duration_us(self._lease), limit, max_bytes, everything)
        before = desk.clock.monotonic()
        future = desk.write(lambda c: claims.claim(c, want, desk.now_us()), durable=False)
        try:
            claimed = await asyncio.shield(future)
        except asyncio.CancelledError:
            self._keep(future, self._give_back)
            raise
        end = before + self._lease.total_seconds()
        self._ends.update((delivery.token, end) for delivery in claimed.deliveries)
        return claimed

    def _keep(self, future: asyncio.Future[R], done: Callable[[asyncio.Future[R]], None]) -> None:
        self._background.add(future)
        future.add_done_callback(self._background.discard)
        future.add_done_callback(done)

    def _give_back(self, done: asyncio.Future[Claimed]) -> None:
        """A receive was cancelled: what it would have brought goes back."""
        if done.cancelled() or done.exception() is not None or self._closing is not None:
            return  # nothing was claimed, or closing hands it back
        deliveries, table = done.result().deliveries, self._desk.table
        self._full = self._full and bool(deliveries)
        if deliveries:
            session = self._session

            def back(connection: Connection) -> None:
                held = settling.held_of(connection, session, deliveries)
                settling.hand_back(connection, table, held)

            with suppress(PostroadError):  # else their lease returns them
                self._keep(self._desk.write(back), self._given_back)

    def _given_back(self, done: asyncio.Future[None]) -> None:
        if not done.cancelled():
            done.exception()  # if it failed, the lease returns them
        self.look_again()

    def look_again(self) -> None:
        """Something has come back: look for it at once."""
        self._timetable.comes_back(0.0)
        self._wake.set()

    async def _pause(self, seconds: float) -> None:
        waking = asyncio.ensure_future(self._wake.wait())
        sleeping = asyncio.ensure_future(self._desk.clock.sleep(seconds))
        try:
            await asyncio.wait([waking, sleeping], return_when=asyncio.FIRST_COMPLETED)
        finally:
            waking.cancel()
            sleeping.cancel()

    # ------------------------------------------------ what is held

    async def begin(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """See `Consumer.begin`. The claim is the mark already: only suspects are written."""
        self._usable()
        now, session = self._desk.clock.monotonic(), self._session
        sure = {one.token for one in deliveries if self._ends.get(one.token, now) > now}
        suspects = [one.token for one in deliveries if one.starts]
        late = [one.token for one in deliveries if one.token not in sure and not one.starts]
        if suspects:
            sure.difference_update(suspects)
            sure |= await self._desk.write(lambda c: settling.begin(c, session, suspects))
        if late:
            sure |= await self._desk.read(lambda c: settling.owned(c, session, late))
        return [delivery for delivery in deliveries if delivery.token in sure]

    async def extend(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """See `Consumer.extend`. There is no membership: a consumer is its claims."""
        self._usable()
        if not deliveries:
            return ()
        tokens, desk, session = [one.token for one in deliveries], self._desk, self._session
        lease_us, before = duration_us(self._lease), desk.clock.monotonic()
        kept = await desk.write(
            lambda c: settling.renew(c, session, tokens, desk.now_us() + lease_us), durable=False
        )
        end = before + self._lease.total_seconds()
        for token in tokens:
            if token in kept:
                self._ends[token] = end
            else:
                self._ends.pop(token, None)
        return [delivery for delivery in deliveries if delivery.token in kept]

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        """See `Consumer.settle`. `stale` also where somebody has changed the row since it was
        claimed: it stays as it is."""
        self._usable()
        if not settlements:
            return ()
        desk, session = self._desk, self._session
        try:
            results = await asyncio.shield(
                desk.write(
                    lambda c: settling.settle(c, desk.table, session, settlements, desk.now_us())
                )
            )
        except StorageError as error:
            if type(error) is StorageError:
                return ["unknown"] * len(settlements)
            raise
        for settlement in settlements:
            self._ends.pop(settlement.delivery.token, None)
            if settlement.action == "nack":
                self._timetable.comes_back(settlement.delay.total_seconds())
                self._wake.set()
        return results

    async def pause(self, partitions: Sequence[Partition]) -> None:
        """See `Consumer.pause`. A table is one partition."""
        self._paused = self._paused or (self._topic, 0) in partitions

    async def resume(self, partitions: Sequence[Partition]) -> None:
        """See `Consumer.resume`."""
        if (self._topic, 0) in partitions:
            self._paused = False
            self._wake.set()

    async def release(self, partitions: Sequence[Partition]) -> None:
        """See `Consumer.release`. Nothing is ever revoked."""

    def notices(self) -> AsyncIterator[Notice]:
        """See `Consumer.notices`: there are none; this only ends."""
        return aiter(self._notices)

    # ------------------------------------------------ the end

    def _usable(self) -> None:
        if self._closing is not None:
            raise ClosedError(f"the consumer of {self._topic!r} is closed")
        self._desk.usable()

    async def close(self) -> None:
        """See `Consumer.close`."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        self._wake.set()
        self._notices.close()
        if self._background:
            await asyncio.wait(set(self._background))
        with suppress(PostroadError):  # what cannot be handed back now, the lease returns
            while await self._desk.write(self._hand_back):
                pass

    def _hand_back(self, connection: Connection) -> bool:
        held = settling.held_by(connection, self._session)
        settling.hand_back(connection, self._desk.table, held)
        return bool(held)
