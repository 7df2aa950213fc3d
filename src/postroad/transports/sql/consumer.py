"""One member of a group: leases, ownership, receiving and settling."""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from datetime import timedelta
from typing import Any, TypeVar

from postroad.core.clock import duration_us
from postroad.core.delivery import Delivery, Partition, Settled, Settlement
from postroad.core.message import Message
from postroad.core.notices import Assigned, Lost, Notice, NoticeQueue, Revoking
from postroad.core.subscription import Subscription
from postroad.core.topic import Topic
from postroad.core.transport import Plan, Transaction
from postroad.errors import ClosedError, PostroadError, StorageError, StorageUnavailableError
from postroad.storage.connection import Connection
from postroad.storage.inbox import Records
from postroad.transports.sql import groups, sessions
from postroad.transports.sql.claim import claim, due_for
from postroad.transports.sql.handing import deliveries
from postroad.transports.sql.handler import HandlerTransaction
from postroad.transports.sql.log import Listener, Log
from postroad.transports.sql.sessions import Changes, Glance, Session, revocation_us
from postroad.transports.sql.settle import Answers, Settling, begin, give_back, sort
from postroad.transports.sql.tokens import Claim, Claimed, Held, Lane, Numbers, Request

R = TypeVar("R")
_SECOND_US = 1_000_000
_BALANCE_EVERY = 0.2
_SWEEP_EVERY = 0.5
_RESOLVE_EVERY = 1.0


class GroupConsumer:
    """A `Consumer` of a named group, and its `AtomicSettle` and `SqlLog`.

    Its session is one row with one lease. What a delivery's token says was received in a session
    cannot be settled once that session is over.
    """

    def __init__(self, log: Log, subscription: Subscription, plan: Plan) -> None:
        self._log = log
        self._subscription = subscription
        self._name = subscription.group or ""
        self._scope = groups.scope(self._name)
        window = subscription.inbox_window
        self._records = Records(lambda: log.database, log.clock, self._name, window)
        self._lease_us = duration_us(plan.lease)
        self._ordered = plan.ordered
        self._lane: Lane = "none"
        if plan.ordered:
            self._lane = "total" if subscription.order == "total" else "key"
        self._parks = plan.parks
        self._paused: frozenset[Partition] = frozenset()
        self._owned: set[Partition] = set()
        self._notices = NoticeQueue()
        self._listener = Listener(subscription.reads)
        self._background: set[asyncio.Future[Any]] = set()
        self._keeper: asyncio.Task[None] | None = None
        self._closing: asyncio.Future[None] | None = None
        self._memberships: list[groups.Membership] = []
        self._lease_until_us = 0
        self._over_us = 0
        self._turn = 0
        self._over = True
        self._fresh = True
        self._astray: list[Claim | Held] = []
        self._quiet = False
        self._due_at = 0.0
        self._calm: Glance | None = None
        self._glanced: Glance | None = None
        self._joining = asyncio.Lock()

    # ------------------------------------------------ membership

    async def join(self) -> None:
        """Become a member and start looking after the membership."""
        await self._join()
        self._log.listeners.add(self._listener)
        self._log.wake()  # the others here have to share; elsewhere they are told
        watcher = self._log.database.watcher
        watcher.enter()  # from now on a lost server is noticed, also by one who is busy
        watcher.leave()
        self._keeper = asyncio.ensure_future(self._keep())

    async def _join(self) -> None:
        async with self._joining:
            if not self._over:
                return
            session, memberships, changes = await self._repeatable(self._write(self._join_in))
            self._session: Session = session
            self._numbers = Numbers(session)
            self._settling = Settling(session.id, self._numbers, self._lane, parks=self._parks)
            self._memberships = memberships
            self._lease_until_us = self._log.clock.now_us() + self._lease_us
            self._over = self._quiet = False
            self._astray = []  # of the session before; they came back with its end
            self._calm = None
            self._apply(changes)

    def _join_in(self, connection: Connection) -> tuple[Session, list[groups.Membership], Changes]:
        now = self._log.clock.now_us()
        memberships = self._resolve_in(connection)
        sessions.sweep(connection, self._name, now)
        owner = f"{socket.gethostname()}:{os.getpid()}"
        source = self._subscription.source_name
        session = sessions.join(connection, self._name, source, owner, self._lease_us, now)
        changes = Changes()
        if self._ordered:
            changes = sessions.balance(connection, session, memberships, now)
        return session, memberships, changes

    def _resolve_in(self, connection: Connection) -> list[groups.Membership]:
        subscription, now = self._subscription, self._log.clock.now_us()
        return groups.subscribe(
            connection, self._name, subscription.source_name, subscription.start, now
        )

    async def _keep(self) -> None:
        """Sweep, rebalance and find new topics until the consumer is closed."""
        interval = _BALANCE_EVERY if self._ordered else _SWEEP_EVERY
        interval = min(interval, self._lease_us / _SECOND_US / 3)
        resolved = self._log.clock.monotonic()
        while True:
            await self._rest(interval)
            now = self._log.clock.monotonic()
            # A database that is locked or full now may be well again at the next round.
            with suppress(PostroadError):
                if not self._over:
                    await self._return_astray()
                if not await self._is_calm():
                    due = now - resolved >= _RESOLVE_EVERY or not self._log.place.one_writer
                    if due and not self._over:
                        resolved = now
                        await self._resolve()
                    await self._tidy()
                await self._records.tidy()

    async def _is_calm(self) -> bool:
        """Whether nothing is to be done for the membership, as far as one statement tells. Where
        there is one writer at a time nobody is asked over a network, and it is always looked."""
        if self._over or self._log.place.one_writer:
            return False
        now = self._log.clock.now_us()
        seen = await self._log.peek(lambda c: sessions.glance(c, self._name, now))
        self._over_us = seen.over_us
        if seen.far or seen.over_us <= now:
            self._calm = None
        elif self._calm is not None and self._calm.signs == seen.signs:
            return True
        else:
            # What is read after this may be newer: then the next glance differs.
            self._glanced = seen
        return False

    async def _rest(self, interval: float) -> None:
        """Until it is time to look again. A server that is asked every moment by everybody has
        nothing else to do, so there it is when somebody says so, and now and then."""
        clock = self._log.clock
        await clock.sleep(interval)
        if not self._log.place.one_writer:
            longest = self._lease_us / _SECOND_US / 3 - interval
            over = (self._over_us - self._log.clock.now_us()) / _SECOND_US
            seconds = min(random.uniform(longest / 2, longest), max(over, 0))
            await self._log.pause(self._listener.tidy, seconds)
            self._listener.tidy.clear()

    async def _resolve(self) -> None:
        topics = await self._log.peek(self._fitting)
        known = [(member.topic_id, member.partitions) for member in self._memberships]
        if topics != known:
            self._memberships = await self._write(self._resolve_in)
            self._listener.tell()

    def _fitting(self, connection: Connection) -> list[tuple[int, int]]:
        return groups.fitting(connection, self._subscription.source_name)

    async def _tidy(self) -> None:
        if self._over:
            return
        self._calm = None
        untidy, calm = await self._log.read(self._untidy)
        if not untidy:
            self._calm = self._glanced if calm else None
            return
        changes = await self._write(self._tidy_in)
        self._apply(changes)
        self._log.wake()

    def _untidy(self, connection: Connection) -> tuple[bool, bool]:
        """(whether there is something to do, whether there will be nothing either)."""
        now = self._log.clock.now_us()
        self._over_us = sessions.next_over(connection, self._name)
        if not self._ordered:
            return sessions.needs_sweep(connection, self._name, now), True
        session, memberships = self._session, self._memberships
        if sessions.would_change(connection, session, memberships, now):
            return True, False
        return False, sessions.is_calm(connection, session, memberships)

    def _tidy_in(self, connection: Connection) -> Changes | None:
        now = self._log.clock.now_us()
        sessions.sweep(connection, self._name, now)
        if not sessions.exists(connection, self._session.id):
            return None
        if not self._ordered:
            return Changes()
        return sessions.balance(connection, self._session, self._memberships, now)

    def _apply(self, changes: Changes | None) -> None:
        if changes is None:
            self._session_over()
            return
        if changes.lost:
            self._owned.difference_update(changes.lost)
            self._notices.put(Lost(changes.lost))
        if changes.revoking:
            deadline = self._log.clock.monotonic() + revocation_us(self._lease_us) / _SECOND_US
            self._notices.put(Revoking(changes.revoking, deadline))
        if changes.assigned:
            self._owned.update(changes.assigned)
            self._notices.put(Assigned(changes.assigned))
            self._listener.tell()

    def _session_over(self) -> None:
        if self._over:
            return
        self._over = True
        lost = sorted(self._owned) if self._ordered else self._everything()
        self._owned.clear()
        self._notices.put(Lost(lost))
        self._listener.tell()

    def _everything(self) -> list[Partition]:
        return [(m.topic, part) for m in self._memberships for part in range(m.partitions)]

    # ------------------------------------------------ receiving

    async def receive(self, limit: int, max_bytes: int, wait: timedelta) -> Sequence[Delivery]:
        """See `Consumer.receive`."""
        clock = self._log.clock
        deadline = clock.monotonic() + wait.total_seconds()
        while True:
            self._usable()
            if self._over:
                await self._join()
            if wait and (quiet := self._quiet_for()) > 0:
                remaining = deadline - clock.monotonic()
                if remaining <= 0:
                    return ()
                self._quiet = not await self._idle(min(remaining, quiet))
                continue
            self._listener.clear()
            session = self._session
            claimed = await self._claim(limit, max_bytes)
            if claimed.lease_until_us is None:
                if session is self._session:
                    self._session_over()
                continue
            self._lease_until_us = claimed.lease_until_us
            if claimed.chunks:
                self._fresh = True
                return deliveries(
                    claimed.chunks,
                    self._log.origins.by_id,
                    self._name,
                    claimed.lease_until_us,
                    in_order=self._ordered,
                )
            remaining = deadline - clock.monotonic()
            if remaining <= 0:
                return ()
            if not claimed.busy:
                patience = self._patience(claimed)
                if self._log.place.one_writer:
                    await self._idle(min(remaining, patience))
                else:
                    self._due_at = clock.monotonic() + patience
                    self._quiet = True

    def _quiet_for(self) -> float:
        """Seconds for which nothing has to be claimed, as far as is known: a server is not asked
        again by every call, and not for the lease as long as that is renewed by others."""
        if not self._quiet or self._listener.sure:
            return 0
        half = (self._lease_until_us - self._log.clock.now_us()) / _SECOND_US
        half -= self._lease_us / _SECOND_US / 2
        return min(self._due_at - self._log.clock.monotonic(), half)

    async def _idle(self, seconds: float) -> bool:
        """Wait for news; whether there is any. What other processes commit may be anything:
        whether it is a message for us is read first, so that idle consumers stay away from the
        write lock."""
        end = self._log.clock.monotonic() + seconds
        while (left := end - self._log.clock.monotonic()) > 0:
            fresh, self._fresh = self._fresh, False
            heard = await self._log.pause(self._listener.event, left, fresh=fresh)
            if self._listener.sure or self._over or self._closing is not None:
                return True
            self._listener.clear()
            if heard:
                soon = await self._log.peek(self._soonest)
                if soon <= 0:
                    return True
                self._due_at = min(self._due_at, self._log.clock.monotonic() + soon)
                end = min(end, self._log.clock.monotonic() + soon)
        return False

    def _soonest(self, connection: Connection) -> float:
        """In how many seconds there is something to claim, as far as is known; 0 is now."""
        now = self._log.clock.now_us()
        return (due_for(connection, self._request(1, 1), now) - now) / _SECOND_US

    def _patience(self, claimed: Claimed) -> float:
        # On a server the lease is seen to by `_quiet_for`.
        longest = self._lease_us / _SECOND_US / (3 if self._log.place.one_writer else 1)
        if claimed.next_due_us is None:
            return longest
        due = (claimed.next_due_us - self._log.clock.now_us()) / _SECOND_US
        # Something due that cannot be had (its partition is paused or elsewhere) is no news.
        return min(longest, due if due > 0 else _SWEEP_EVERY)

    async def _claim(self, limit: int, max_bytes: int) -> Claimed:
        request, log = self._request(limit, max_bytes), self._log
        await self._return_astray()
        attempt: list[Claimed] = []

        def operation(connection: Connection) -> Claimed:
            now = log.clock.now_us()
            attempt[:] = [claim(connection, request, log.appender, log.origins, now)]
            return attempt[0]

        future = log.write(operation, scope=self._scope, durable=False)
        try:
            return await self._repeatable(asyncio.shield(future))
        except StorageUnavailableError:
            self._astray += [chunk.token for one in attempt for chunk in one.chunks]
            raise
        except asyncio.CancelledError:
            self._background.add(future)
            future.add_done_callback(
                lambda done: self._give_back(done, attempt, request.session.id)
            )
            raise

    async def _return_astray(self) -> None:
        """Give back what may have been claimed by a commit of which nobody knows: it would be
        leased to us, and handled by nobody."""
        if not self._astray:
            return
        session, tokens = self._session.id, self._astray
        self._astray = []
        try:
            await self._repeatable(self._write(lambda c: give_back(c, session, tokens, lost=False)))
        except BaseException:
            self._astray += tokens
            raise

    def _request(self, limit: int, max_bytes: int) -> Request:
        return Request(
            session=self._session,
            numbers=self._numbers,
            memberships=self._in_turn(),
            limit=limit,
            max_bytes=max_bytes,
            ordered=self._ordered,
            lane=self._lane,
            paused=self._paused,
        )

    def _in_turn(self) -> list[groups.Membership]:
        """The topics, each time another one first: a long backlog of one starves no other."""
        members = self._memberships
        if len(members) < 2:
            return members
        self._turn = (self._turn + 1) % len(members)
        return members[self._turn :] + members[: self._turn]

    def _give_back(
        self, done: asyncio.Future[Claimed], attempt: list[Claimed], session: int
    ) -> None:
        self._background.discard(done)
        if done.cancelled() or self._closing is not None:
            return  # nothing was claimed, or leaving hands it back
        if done.exception() is not None:
            # Nobody knows whether that was committed.
            self._strand(attempt, session)
            return
        tokens = [chunk.token for chunk in done.result().chunks]
        if not tokens:
            return
        with suppress(PostroadError):
            write = self._write(lambda c: give_back(c, session, tokens, lost=False))
            self._background.add(write)
            write.add_done_callback(lambda done: self._given_back(done, attempt, session))

    def _given_back(self, done: asyncio.Future[None], attempt: list[Claimed], session: int) -> None:
        self._background.discard(done)
        if not done.cancelled() and done.exception() is not None:
            self._strand(attempt, session)
        self._log.wake()

    def _strand(self, attempt: list[Claimed], session: int) -> None:
        """What may be leased to us though nobody has it: it is given back as soon as can be."""
        if session == self._session.id:
            self._astray += [chunk.token for one in attempt for chunk in one.chunks]
            self._quiet = False
            self._listener.tell()

    async def begin(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """See `Consumer.begin`. The claim is the mark already: only suspects are written."""
        if self._log.clock.now_us() >= self._lease_until_us:
            return ()
        ours = [delivery for delivery in deliveries if self._ours(delivery)]
        suspects = {delivery.token for delivery in ours if delivery.starts}
        if suspects:
            session = self._session.id
            await self._repeatable(
                self._write(lambda c: begin(c, session, suspects), durable=False)
            )
        return ours

    def _ours(self, delivery: Delivery) -> bool:
        if self._over or delivery.token.session != self._session.id:
            return False
        return not self._ordered or (delivery.topic, delivery.partition) in self._owned

    # ------------------------------------------------ settling

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        """See `Consumer.settle`."""
        if not settlements:
            return ()
        answers = sort(settlements, self._session.id)
        clock, settling = self._log.clock, self._settling
        try:
            results = await self._write(lambda c: settling.settle(c, answers, clock.now_us()))
        except StorageError as error:
            if type(error) is StorageError:
                return ["unknown"] * len(settlements)
            raise
        self._after(answers)
        return results

    async def settle_and_publish(
        self, settlements: Sequence[Settlement], messages: Sequence[tuple[Topic[Any], Message]]
    ) -> Sequence[Settled]:
        """See `AtomicSettle.settle_and_publish`."""
        answers = sort(settlements, self._session.id)
        log, settling = self._log, self._settling

        def both(connection: Connection) -> list[Settled]:
            now = log.clock.now_us()
            connection.execute("SAVEPOINT postroad_settle")
            results = settling.settle(connection, answers, now)
            if "stale" in results:
                connection.execute("ROLLBACK TO SAVEPOINT postroad_settle")
                results = ["stale" if one == "stale" else "unknown" for one in results]
            else:
                log.appender.append(connection, messages, now)
            connection.execute("RELEASE SAVEPOINT postroad_settle")
            return results

        results = await self._write(both)
        self._after(answers)
        log.arrived({topic.name for topic, _ in messages})
        return results

    @property
    def settles(self) -> bool:
        """See `SqlLog.settles`."""
        return self._log.place.one_writer

    def transaction(
        self, delivery: Delivery, source: str
    ) -> AbstractAsyncContextManager[Transaction]:
        """See `SqlLog.transaction`."""
        return HandlerTransaction(self._log, self._settling, self, self._records, delivery, source)

    def _after(self, answers: Answers) -> None:
        # What is given back may go out again, and so may what stood behind one that waited.
        if answers.held or any(one.action == "nack" for one in answers.settlements):
            self._log.wake()

    def _write(
        self, operation: Callable[[Connection], R], *, durable: bool = True
    ) -> asyncio.Future[R]:
        return self._log.write(operation, scope=self._scope, durable=durable)

    async def _repeatable(self, writing: asyncio.Future[R]) -> R:
        """Await a write that can be run again. That nobody knows whether a server kept it, since
        the connection was lost during its commit, is then no more than one more try."""
        try:
            return await writing
        except StorageError as error:
            if type(error) is not StorageError or self._log.place.one_writer:
                raise
            raise StorageUnavailableError(f"{error}; to be tried again") from error

    async def extend(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """See `Consumer.extend`."""
        self._usable()
        if self._over:
            return ()
        session, clock = self._session, self._log.clock
        until = await self._repeatable(
            self._write(lambda c: sessions.renew(c, session, clock.now_us()), durable=False)
        )
        if until is None:
            if session is self._session:
                self._session_over()
            return ()
        self._lease_until_us = until
        return [delivery for delivery in deliveries if self._ours(delivery)]

    # ------------------------------------------------ partitions

    async def pause(self, partitions: Sequence[Partition]) -> None:
        """See `Consumer.pause`."""
        self._paused |= frozenset(partitions)

    async def resume(self, partitions: Sequence[Partition]) -> None:
        """See `Consumer.resume`."""
        self._paused -= frozenset(partitions)
        self._listener.tell()

    async def release(self, partitions: Sequence[Partition]) -> None:
        """See `Consumer.release`."""
        wanted = [part for part in partitions if part in self._owned]
        if self._over or not wanted:
            return
        session = self._session
        by_topic = {member.topic: member for member in self._memberships}

        def operation(connection: Connection) -> None:
            for topic, part in wanted:
                sessions.release(connection, session, by_topic[topic], part, lost=True)

        await self._repeatable(self._write(operation))
        self._owned.difference_update(wanted)
        self._log.wake()

    def notices(self) -> AsyncIterator[Notice]:
        """See `Consumer.notices`."""
        return aiter(self._notices)

    # ------------------------------------------------ leaving

    async def close(self) -> None:
        """See `Consumer.close`."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        self._log.listeners.discard(self._listener)
        self._listener.tell()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        self._notices.close()
        # Whatever fails here (closed, locked, full): the lease ends and hands back what we hold.
        with suppress(PostroadError):
            if self._background:
                await asyncio.wait(self._background)
            if not self._over:
                session = self._session.id
                self._over = True
                await self._write(lambda c: sessions.end(c, session, crashed=False))
                self._log.wake()

    def _usable(self) -> None:
        if self._closing is not None:
            raise ClosedError(f"the consumer of {self._subscription} was closed")
        self._log.database.usable()
