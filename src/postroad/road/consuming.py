"""Consuming: a runner for each subscription, a ticker for each schedule, and the drain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any, Self, get_args

from postroad.core.contract import NOTHING_STORED, Contract
from postroad.core.message import Message
from postroad.core.subscription import Subscription
from postroad.core.topic import Topic
from postroad.delivery.execution import Decode
from postroad.delivery.handler import Handler, accepts
from postroad.delivery.inbox import GroupInbox
from postroad.delivery.moving import Moving, prefix_of
from postroad.delivery.outbox import OutboxTable, Relay, RelayHooks, RelaySettings
from postroad.delivery.outbox.settings import USUAL
from postroad.delivery.outbox.table import OWN
from postroad.delivery.quarantine import Quarantine
from postroad.delivery.rate import make_limiter
from postroad.delivery.resequencing import Standings
from postroad.delivery.runner import Runner, Work
from postroad.delivery.schedule import Every, Ticker
from postroad.errors import DeclarationError, WrongTypeError
from postroad.road.connection import Connection
from postroad.road.declarations import Bound
from postroad.storage.database import Database
from postroad.storage.place import Place

DRAIN = timedelta(seconds=30)


class Consuming(Connection):
    """A road's consuming side."""

    _consumes = False
    _wake_relay: Callable[[frozenset[str] | None], None] = staticmethod(lambda topics: None)

    async def run(self, *, stop: asyncio.Event | None = None, drain: timedelta = DRAIN) -> None:
        """Consume every subscription and tick every schedule until `stop` is set, then drain:
        what runs has so long to finish, the rest is handed back. Opens the road if it is not, and
        then closes it too.

        Raises:
            DeclarationError: it consumes already.
            PostroadError: a subscription failed for good; the others are drained first.
        """
        with self._consuming_once():
            await self._consume(stop or asyncio.Event(), drain)

    @contextmanager
    def _consuming_once(self) -> Iterator[None]:
        # Two at once would share one transport, and the first to end would close it for both.
        if self._consumes:
            raise DeclarationError(
                f"{self!r} consumes already; raise concurrency, or run another process"
            )
        self._consumes = True
        try:
            yield
        finally:
            self._consumes = False

    async def _consume(self, stop: asyncio.Event, drain: timedelta) -> None:
        mine = self._publisher is None
        await self.open()
        stopping = asyncio.Event()
        runners: list[asyncio.Task[None]] = []
        tickers: list[asyncio.Task[None]] = []
        relays: list[asyncio.Task[None]] = []
        own = None if self._outbox is None else await self._own_outbox(self._outbox)
        working = self._relays(own)
        waiting = asyncio.create_task(stop.wait())
        try:
            together = Quarantine()
            made = [
                one for bound in self.subscriptions for one in await self._runners(bound, together)
            ]
            if self._delaying is not None:
                made.append(self._delaying.runner(self.hooks))
            runners += [asyncio.create_task(runner.run(stopping, drain)) for runner in made]
            tickers += [asyncio.create_task(self._ticker(one).run()) for one in self._schedules]
            relays += [asyncio.create_task(relay.run()) for relay in working]
            everybody = [*runners, *tickers, *relays, waiting]
            await asyncio.wait(everybody, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in [waiting, *tickers]:
                task.cancel()
            stopping.set()
            ended = await asyncio.gather(*runners, *tickers, waiting, return_exceptions=True)
            # Handlers that end now publish, too.
            await asyncio.gather(*(relay.close() for relay in working), return_exceptions=True)
            ended += await asyncio.gather(*relays, return_exceptions=True)
            if own is not None:
                await own.close()
            if mine:
                await self.close()
        for error in ended:
            if isinstance(error, Exception):
                raise error

    @asynccontextmanager
    async def consuming(self, *, drain: timedelta = DRAIN) -> AsyncIterator[Self]:
        """Consume in the background of the block, and drain at its end; for web applications'
        lifespans and for tests. A subscription that fails for good cancels the block. Opens the
        road if it is not, and then closes it too.

        Raises:
            DeclarationError: it consumes already.
        """
        with self._consuming_once():
            async with self._in_background(drain):
                yield self

    @asynccontextmanager
    async def _in_background(self, drain: timedelta) -> AsyncIterator[None]:
        mine = self._publisher is None
        await self.open()
        stop = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._consume(stop, drain))
                try:
                    yield
                finally:
                    stop.set()
        except* Exception as errors:
            if len(errors.exceptions) == 1:
                raise errors.exceptions[0] from None
            raise
        finally:
            if mine:
                await self.close()

    async def _runners(self, bound: Bound, together: Quarantine) -> list[Runner]:
        """One on the road, and one on the store if anything of it goes there."""
        sub, contract = bound.subscription, self._contract(bound)
        work = self._work(bound, contract, together)
        store, transport = self._store, self._transport_of(bound)
        if store is None or contract.stored == NOTHING_STORED:
            return [Runner(work, transport, self.hooks, self.clock)]
        prefix = prefix_of(sub.group or "", self._place)
        moving = Moving(
            store,
            sub,
            self.clock,
            prefix=prefix,
            retries=contract.stored.retries,
            parks=contract.plan.parks and sub.order == "key",
        )
        await moving.open()
        # What was filtered or shed on the way in is not moved.
        again = replace(work, stored=prefix, subscription=replace(sub, filter=None, shed=None))
        return [
            Runner(replace(work, moving=moving), transport, self.hooks, self.clock),
            Runner(again, store, self.hooks, self.clock),
        ]

    def _work(self, bound: Bound, contract: Contract, together: Quarantine) -> Work:
        return Work(
            subscription=bound.subscription,
            contract=contract,
            handler=bound.handler,
            decode_for=lambda name: self._decoder(name, bound.handler, bound.subscription),
            max_payload=lambda name: self._max_payload(name, bound.subscription),
            publish=self._publish_entries,
            source=self.name,
            quarantine=together,
            inbox=self._inbox_of(bound.subscription),
            standings=self._standings_of(bound.subscription),
            limiter=make_limiter(bound.subscription, self._transport_of(bound), self.clock),
        )

    def _inbox_of(self, subscription: Subscription) -> GroupInbox | None:
        inbox = self._inbox
        return (
            inbox.of(subscription) if inbox is not None and subscription.effectively_once else None
        )

    def _standings_of(self, subscription: Subscription) -> Standings | None:
        if subscription.sequence is None:
            return None
        return self._standings(subscription.group or "")

    @property
    def database_url(self) -> str | None:
        """The URL of the business database, with its secrets; None if there is none."""
        return self._database

    def relay(
        self,
        database: Database,
        *,
        table: OutboxTable = OWN,
        settings: RelaySettings = USUAL,
        hooks: RelayHooks | None = None,
    ) -> Relay:
        """What publishes an outbox in this database to this road, which has to be open."""
        return Relay(
            database,
            self._publish_relayed,
            _Outgoing(self.topics),
            table=table,
            settings=settings,
            hooks=hooks,
            source=self.name,
        )

    async def _own_outbox(self, place: Place) -> Database:
        """The road's database once more, for the relay: what looks for rows to publish shares no
        thread with what consumes."""
        return await Database.open(place, lambda topics: self._wake_relay(topics))

    def _relays(self, own: Database | None) -> list[Relay]:
        """What publishes the outbox of the business database: another one than the road's, or the
        road's own where it was named."""
        inbox = self._inbox
        database = own if inbox is None else inbox.database
        if database is None:
            return []
        relay = self.relay(database)
        self._wake_relay = relay.wake
        if inbox is not None:
            inbox.changed = relay.wake
        return [relay]

    async def _publish_relayed(self, entries: Sequence[tuple[Topic[Any], Message]]) -> object:
        for topic, _ in entries:
            if topic not in self._prepared and self.topics.get(topic.name) is topic:
                await self._prepare(topic)
        return await (self._delaying or self._transport).publish(entries)

    def _ticker(self, every: Every) -> Ticker:
        return Ticker(every, self._transport, self.clock, source=self.name, prepare=self._prepare)

    def _decoder(self, name: str, handler: Handler, subscription: Subscription) -> Decode:
        wanted = handler.payload_type
        if subscription.batch is not None and wanted is not None:
            wanted = next(iter(get_args(wanted)), None)
        topic = self._topic(name, subscription)
        if topic is not None and accepts(wanted, topic.type):
            return topic.decode
        try:
            return Topic(name, Any if accepts(wanted, object) else wanted).decode
        except DeclarationError as error:
            raise WrongTypeError(f"{name!r} cannot be read as {wanted}: {error}") from None

    def _max_payload(self, name: str, subscription: Subscription) -> int | None:
        topic = self._topic(name, subscription)
        return None if topic is None else topic.max_payload

    def _topic(self, name: str, subscription: Subscription) -> Topic[Any] | None:
        """A topic by its name, as this subscription means it."""
        source = subscription.source
        return source if isinstance(source, Topic) else self.topics.get(name)


class _Outgoing(dict[str, Topic[Any]]):
    """The topics of an outbox: what this app declares, and whatever another process has made sure
    of before it published to it through `tx`."""

    def __init__(self, declared: Mapping[str, Topic[Any]]) -> None:
        super().__init__()
        self._declared = declared

    def get(self, name: str, default: Any = None) -> Any:
        """The topic of this name; the messages are encoded already, so its type does not matter."""
        known = self._declared.get(name) or super().get(name)
        if known is None:
            try:
                known = self[name] = Topic(name, Any)
            except DeclarationError:  # somebody else writes to the table, anything
                return default
        return known
