"""Postroad: declare, check, wire. The only file that names concrete transports."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from importlib import import_module
from typing import Any, TypedDict, TypeVar, Unpack, get_args
from urllib.parse import unquote, urlsplit

from postroad.core.capabilities import Capabilities
from postroad.core.clock import Clock, SystemClock
from postroad.core.contract import (
    NOTHING_STORED,
    Contract,
    Setting,
    check,
    check_delay,
    check_topic,
    draft,
    draft_topic,
)
from postroad.core.delivery import Delivery, Receipt, Start
from postroad.core.filters import Filter
from postroad.core.flow import Breaker, Rate, Shed
from postroad.core.hooks import HookChain, Hooks
from postroad.core.message import Message
from postroad.core.reports import Lag, TopicInfo
from postroad.core.retry import Retry
from postroad.core.subscription import Batch, Guarantee, Order, Subscription
from postroad.core.topic import NO_OPTIONS, Options, PublishOptions, Topic
from postroad.core.transport import Audited, Cancels, DeadLetters, Keeps, Source, Transport
from postroad.delivery.audit import Audit, audit
from postroad.delivery.dead_letters import DeadLetterDesk
from postroad.delivery.execution import Decode, describe, inside_transaction
from postroad.delivery.handler import Handler, accepts, inspect_handler
from postroad.delivery.moving import Moving
from postroad.delivery.observers import Observers
from postroad.delivery.publisher import Publisher
from postroad.delivery.rate import make_limiter
from postroad.delivery.runner import Runner, Work
from postroad.delivery.schedule import Every, Ticker, ticks_of
from postroad.delivery.stored import StoredLetters, stored_groups
from postroad.delivery.sync import SyncRoad
from postroad.delivery.tail import tail
from postroad.errors import (
    ClosedError,
    DeclarationError,
    InvalidURLError,
    MissingExtraError,
    NotSupportedError,
    PayloadError,
    UnknownTransportError,
    WrongTypeError,
)

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

TRANSPORTS: Mapping[str, tuple[str, str, str | None]] = {
    "memory": ("postroad.transports.memory", "MemoryTransport", None),
    "sqlite": ("postroad.transports.sql", "SqliteTransport", None),
}
"""URL scheme → module, class, and the extra that brings its client library."""

_SAMPLES = {"sqlite": "sqlite:///sample.db"}
"""A URL of each scheme that needs more than the scheme, to ask for capabilities."""

_PASSWORD = re.compile(r"([^/:@?#]*):(?!//).*@")
_SECRET = re.compile(r"(?i)([^?&#=]*(?:password|passwd|pwd|secret|token|key)[^?&#=]*)=[^&#]*")

DRAIN = timedelta(seconds=30)


class SubscribeOptions(TypedDict, total=False):
    """The fields of `Subscription` beside source and group, under the same names."""

    delivery: Guarantee
    order: Order
    start: Start
    concurrency: int
    batch: Batch | None
    timeout: timedelta | None
    retry: Retry
    rate: Rate | float | None
    breaker: Breaker | None
    filter: Filter | None
    shed: Shed | None
    prefetch: int
    prefetch_bytes: int
    lease: timedelta


@dataclass(frozen=True)
class Bound:
    """A subscription with its handler."""

    subscription: Subscription
    handler: Handler


class Postroad:
    """One road: topics to publish to, subscriptions to run, and everything to ask about them.

    Declaring costs no I/O. `async with road` connects, creates what was declared and checks every
    guarantee; `run` consumes. One object belongs to one event loop.

    Args:
        url: which transport, e.g. `sqlite:///shop.db`, `memory://`.
        store: the URL of another road that keeps what this one cannot: retries that wait, parked
            keys, dead letters. What a road keeps itself stays there. It is written first, then
            the road is told. A file serves the workers of one host only.
        name: the CloudEvents source of what is published; the program's own name by default.
        hooks: where metrics, traces and logs attach.
        clock: time, for tests.

    Raises:
        InvalidURLError, UnknownTransportError, MissingExtraError: see there.
    """

    def __init__(
        self,
        url: str,
        *,
        store: str | None = None,
        name: str = "postroad",
        hooks: Hooks | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.name = name
        self.url = mask(url)
        self.hooks = HookChain(*([hooks] if hooks else []))
        self.clock: Clock = clock or SystemClock()
        self.topics: dict[str, Topic[Any]] = {}
        self.subscriptions: list[Bound] = []
        self.dead_letters = DeadLetterDesk(self._keepers)
        self._url = url
        self._transport: Transport = connect(url, self.clock)
        self._store_url = store
        self._store: Transport | None = None if store is None else connect_store(store, self.clock)
        self._observers = Observers(self.hooks)
        self._observed = False
        self._schedules: list[Every] = []
        self._publisher: Publisher | None = None
        self._prepared: set[Topic[Any]] = set()
        self._needs_road: dict[str, bool] = {}
        self._streams: list[str] = []
        self._opening = asyncio.Lock()
        self._consumes = False
        self._watching: asyncio.Task[None] | None = None
        self._sync: SyncRoad | None = None

    def __repr__(self) -> str:
        return f"Postroad({self.url!r})"

    @property
    def capabilities(self) -> Capabilities:
        """What the configured transport does natively."""
        return self._transport.capabilities

    # --- declaring ---------------------------------------------------------------------------

    def subscribe(
        self, source: Topic[Any] | str, *, group: str | None, **options: Unpack[SubscribeOptions]
    ) -> Callable[[F], F]:
        """Declare that the decorated function handles a topic (or a pattern) for a group.

        The options are the fields of `Subscription`. The function stays callable as it is.

        Raises:
            DeclarationError: the subscription or the handler cannot work; `HandlerTypeError` if
                the handler's type does not match its topic.
        """
        subscription = Subscription(source=source, group=group, **options)
        if isinstance(source, Topic):
            self._declare(source)

        def bind(function: F) -> F:
            handler = inspect_handler(function, subscription)
            self.subscriptions.append(Bound(subscription, handler))
            self._needs_road.clear()
            return function

        return bind

    def observe(self, source: Topic[Any] | str) -> Callable[[F], F]:
        """Declare that the decorated function observes a topic (or a pattern) in process.

        `publish` calls observers before it returns, `async def` or `def`, with the very object
        that was published. What one raises goes to `Hooks.observer_failed` and reaches neither
        the publisher nor the others. A bound method is held weakly and goes with its object.

        Raises:
            DeclarationError: the road is not `memory://`; subscribe with group=None there.
        """
        if self.capabilities.shared:
            raise DeclarationError(
                "observers run inside the publisher's process, on memory:// only; "
                f"on {self.url} subscribe with group=None"
            )
        name = source if isinstance(source, str) else source.name
        probe = Subscription(source=source, group=None)
        if isinstance(source, Topic):
            self._declare(source)

        def bind(function: F) -> F:
            handler = inspect_handler(function, probe)
            self._observers.add(name, function, not handler.wants_payload)
            self._observed = True
            return function

        return bind

    def every(self, when: timedelta | str, *, name: str | None = None) -> Callable[[F], F]:
        """Declare that the decorated function is called at each tick while the road runs, and
        what it returns (`topic.message(payload)`, a list of them, or None) is published: by one
        of all processes. `when` is an interval, or a cron line in UTC. The function may take the
        tick, an aware datetime.

        Raises:
            DeclarationError: not an interval or cron line, or the name is taken.
        """
        ticks = ticks_of(when)

        def bind(function: F) -> F:
            title = name or f"{function.__module__}.{function.__qualname__}"
            if any(every.name == title for every in self._schedules):
                raise DeclarationError(f"every: the name {title!r} is taken; give another name=")
            parameters = inspect.signature(function).parameters
            self._schedules.append(
                Every(
                    title,
                    ticks,
                    function,
                    wants_tick=bool(parameters),
                    is_async=inspect.iscoroutinefunction(function),
                )
            )
            return function

        return bind

    def explain(self) -> Sequence[Contract]:
        """The contract of every subscription, then of every topic's publishing side. A gap is a
        term that `nobody` keeps; nothing is raised."""
        contracts = [
            draft(bound.subscription, self.capabilities, self._setting(bound))
            for bound in self.subscriptions
        ]
        publishing = [draft_topic(topic, self.capabilities) for topic in self.topics.values()]
        return contracts + publishing

    def check(self) -> None:
        """Check every guarantee against the road.

        Raises:
            GuaranteeError: with all gaps of the first subscription or topic that has some.
        """
        for bound in self.subscriptions:
            self._contract(bound)
        for topic in self.topics.values():
            check_topic(topic, self.capabilities, catalog)

    def _contract(self, bound: Bound) -> Contract:
        return check(bound.subscription, self.capabilities, self._setting(bound), catalog)

    def _setting(self, bound: Bound) -> Setting:
        mine = bound.subscription
        peers = sum(
            1
            for other in self.subscriptions
            if other.subscription.group == mine.group
            and other.subscription.source_name == mine.source_name
        )
        return Setting(
            peers=peers,
            wants_tx=bound.handler.wants_tx,
            is_async=bound.handler.is_async,
            store=None if self._store is None else self._store.capabilities,
        )

    def _declare(self, topic: Topic[Any]) -> None:
        known = self.topics.setdefault(topic.name, topic)
        if known is not topic:
            raise DeclarationError(
                f"the topic {topic.name!r} is declared twice; declare it once and share the object"
            )

    # --- life --------------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect, check, and create what was declared: topics, and groups at their start.
        Idempotent.

        Raises:
            GuaranteeError: before anything is created.
            TransportError, StorageError: the road cannot be reached or used.
        """
        async with self._opening:
            if self._publisher is not None:
                return
            self.check()
            topics = list(self.topics.values())
            await self._transport.open(topics, [bound.subscription for bound in self.subscriptions])
            if self._store is not None:
                await self._store.open([], [])
            self._prepared.update(topics)
            self._publisher = Publisher(self._transport, self.hooks)
            self._watching = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Send what was given, let go of the road. Idempotent."""
        publisher, self._publisher = self._publisher, None
        if publisher is not None:
            await publisher.close()
        await self._transport.close()
        if self._store is not None:
            await self._store.close()
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        if self._sync is not None:
            await asyncio.to_thread(self._sync.close)

    async def __aenter__(self) -> Postroad:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

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
        made = [runner for bound in self.subscriptions for runner in await self._runners(bound)]
        runners = [asyncio.create_task(runner.run(stopping, drain)) for runner in made]
        tickers = [asyncio.create_task(self._ticker(every).run()) for every in self._schedules]
        waiting = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([*runners, *tickers, waiting], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in [waiting, *tickers]:
                task.cancel()
            stopping.set()
            ended = await asyncio.gather(*runners, *tickers, waiting, return_exceptions=True)
            if mine:
                await self.close()
        for error in ended:
            if isinstance(error, Exception):
                raise error

    @asynccontextmanager
    async def consuming(self, *, drain: timedelta = DRAIN) -> AsyncIterator[Postroad]:
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

    async def _runners(self, bound: Bound) -> list[Runner]:
        """One on the road, and one on the store if anything of it goes there."""
        sub, contract = bound.subscription, self._contract(bound)
        work = self._work(bound, contract)
        store = self._store
        if store is None or contract.stored == NOTHING_STORED:
            return [Runner(work, self._transport, self.hooks, self.clock)]
        moving = Moving(
            store,
            sub,
            self.clock,
            retries=contract.stored.retries,
            parks=contract.plan.parks and sub.order == "key",
        )
        await moving.open()
        # What was filtered or shed on the way in is not moved.
        again = replace(work, stored=True, subscription=replace(sub, filter=None, shed=None))
        return [
            Runner(replace(work, moving=moving), self._transport, self.hooks, self.clock),
            Runner(again, store, self.hooks, self.clock),
        ]

    def _work(self, bound: Bound, contract: Contract) -> Work:
        return Work(
            subscription=bound.subscription,
            contract=contract,
            handler=bound.handler,
            decode_for=lambda name: self._decoder(name, bound.handler, bound.subscription),
            max_payload=self._max_payload,
            publish=self._publish_entries,
            source=self.name,
            limiter=make_limiter(bound.subscription, self._transport, self.clock),
        )

    def _ticker(self, every: Every) -> Ticker:
        return Ticker(every, self._transport, self.clock, source=self.name, prepare=self._prepare)

    def _decoder(self, name: str, handler: Handler, subscription: Subscription) -> Decode:
        wanted = handler.payload_type
        if subscription.batch is not None and wanted is not None:
            wanted = next(iter(get_args(wanted)), None)
        topic = self.topics.get(name)
        if topic is not None and accepts(wanted, topic.type):
            return topic.decode
        try:
            return Topic(name, Any if accepts(wanted, object) else wanted).decode
        except DeclarationError as error:
            raise WrongTypeError(f"{name!r} cannot be read as {wanted}: {error}") from None

    def _max_payload(self, name: str) -> int | None:
        topic = self.topics.get(name)
        return None if topic is None else topic.max_payload

    async def _watch(self) -> None:
        async for notice in self._transport.notices():
            self.hooks.noticed(None, notice)

    @contextmanager
    def rebound(
        self, transport: Transport, clock: Clock, adapt: Callable[[Bound], Bound]
    ) -> Iterator[Postroad]:
        """Inside the block the same object, with all that was declared, is on another transport
        and another clock, its subscriptions adapted; `postroad.testing.TestRoad` is made of it.

        Raises:
            DeclarationError: the road is open.
        """
        if self._publisher is not None:
            raise DeclarationError(f"{self!r} is open; close it before it goes elsewhere")
        before = self._transport, self.clock, self.subscriptions
        self._transport, self.clock = transport, clock
        self.subscriptions = [adapt(bound) for bound in before[2]]
        try:
            yield self
        finally:
            self._transport, self.clock, self.subscriptions = before
            self._prepared.clear()

    # --- publishing --------------------------------------------------------------------------

    async def publish(
        self, topic: Topic[T], payload: T, **options: Unpack[PublishOptions]
    ) -> Receipt:
        """Publish one message; returns when the road has accepted it, as durable as it declares
        (or at once, for a fire-and-forget topic). Many tasks that publish at once share a commit.

        Raises:
            PayloadError: the payload does not fit the topic; nothing was sent.
            PublishError: not accepted, or of unknown fate.
            NotSupportedError: inside a `tx`, where only `tx.publish` commits with the rest.
        """
        if inside_transaction():
            raise _bare_publish()
        publisher = self._publisher
        if publisher is None or topic not in self._prepared:
            publisher = await self._prepare_to_publish(topic)
        chosen = Options(**options) if options else NO_OPTIONS
        if self._observed:
            await self._observe(topic, payload, chosen)
            if not self._is_needed(topic.name):
                return _ACCEPTED
        if options:
            message = self._envelope_with(topic, payload, chosen)
        else:
            message = topic.envelope(payload, self.clock.now_us(), self.name)
        if topic.publish == "fire-and-forget":
            await publisher.post(topic, message)
            return _ACCEPTED
        return await publisher.publish(topic, message)

    async def publish_many(
        self, topic: Topic[T], payloads: Iterable[T], **options: Unpack[PublishOptions]
    ) -> list[Receipt]:
        """Publish in order and in large batches; returns when all are accepted.

        Raises:
            PayloadError: one payload does not fit; the chunks before it are accepted.
            PublishError: indices count from the first payload; the chunks before are accepted,
                what follows was not sent.
            NotSupportedError: inside a `tx`, as for `publish`.
        """
        if inside_transaction():
            raise _bare_publish()
        publisher = await self._prepare_to_publish(topic)
        if self._observed:
            return [await self.publish(topic, payload, **options) for payload in payloads]
        if options:
            chosen = Options(**options)
            entries = ((topic, self._envelope_with(topic, one, chosen)) for one in payloads)
        else:
            now_us, name, envelope = self.clock.now_us, self.name, topic.envelope
            entries = ((topic, envelope(one, now_us(), name)) for one in payloads)
        return await publisher.publish_many(entries)

    async def cancel(self, message_id: str) -> bool:
        """Withdraw a message that was published with a delay which is not over. False: there is
        none such any more.

        Raises:
            NotSupportedError: the road cannot withdraw.
        """
        transport = await self._ready()
        if not isinstance(transport, Cancels):
            raise NotSupportedError(f"{self.url} cannot withdraw a scheduled message")
        return await transport.cancel(message_id)

    @property
    def sync(self) -> SyncRoad:
        """The same road for code without an event loop: `road.sync.publish(topic, payload)` from
        Flask, Django or a script. It keeps a connection and a thread of its own.

        Raises:
            NotSupportedError: on memory://, whose messages live in the loop that publishes them.
        """
        if self._sync is None:
            if not self.capabilities.shared:
                raise NotSupportedError(
                    f"{self.url} lives inside one event loop; use a road that processes share"
                )
            self._sync = SyncRoad(
                lambda: Postroad(self._url, store=self._store_url, name=self.name, hooks=self.hooks)
            )
        return self._sync

    def _envelope_with(self, topic: Topic[T], payload: T, options: Options) -> Message:
        now_us = self.clock.now_us()
        message = topic.envelope_with(payload, options, now_us, self.name)
        if message.deliver_at_us is not None:
            wait = timedelta(microseconds=message.deliver_at_us - now_us)
            check_delay(wait, self.capabilities)
        return message

    async def _publish_entries(self, entries: list[tuple[Topic[Any], Message]]) -> None:
        for topic, _ in entries:
            if topic not in self._prepared:
                await self._prepare(topic)
        await self._open_publisher().publish_many(iter(entries))

    async def _prepare_to_publish(self, topic: Topic[Any]) -> Publisher:
        publisher = self._open_publisher()
        if topic not in self._prepared:
            await self._prepare(topic)
        return publisher

    async def _prepare(self, topic: Topic[Any]) -> None:
        self._declare(topic)
        check_topic(topic, self.capabilities, catalog)
        await self._transport.open([topic], [])
        self._prepared.add(topic)

    def _open_publisher(self) -> Publisher:
        if self._publisher is None:
            raise ClosedError("the road is not open; use it inside `async with road:`")
        return self._publisher

    def _observe(self, topic: Topic[T], payload: T, options: Options) -> Awaitable[None]:
        now_us = self.clock.now_us()
        due = None if options is NO_OPTIONS else options.deliver_at_us(now_us)
        if due is not None and due > now_us:
            raise NotSupportedError(
                f"a delayed message on {topic.name!r}, which has observers: observers are called "
                "inside publish; subscribe with group=None instead"
            )

        def make_message() -> Message:
            return topic.envelope_with(payload, options, now_us, self.name)

        return self._observers.dispatch(topic.name, payload, make_message)

    def _is_needed(self, name: str) -> bool:
        """Whether anybody beside observers reads the topic; asked once for each."""
        known = self._needs_road.get(name)
        if known is None:
            known = name in self._streams or any(
                bound.subscription.reads(name) for bound in self.subscriptions
            )
            self._needs_road[name] = known
        return known

    # --- reading -----------------------------------------------------------------------------

    async def stream(self, topic: Topic[T], *, start: Start = "latest") -> AsyncGenerator[T, None]:
        """The topic's payloads as they come, to this iterator alone; nothing outlives it. A
        payload that cannot be decoded is skipped and told to `Hooks.failed`."""
        async with aclosing(self.stream_messages(topic, start=start)) as deliveries:
            async for delivery in deliveries:
                try:
                    payload = topic.decode(delivery.message.data)
                except PayloadError as error:
                    failure = describe(error, self.clock.now_us())
                    self.hooks.failed(Subscription(source=topic, group=None), delivery, failure)
                else:
                    yield payload

    async def stream_messages(
        self, source: Topic[Any] | str, *, start: Start = "latest"
    ) -> AsyncGenerator[Delivery, None]:
        """As `stream`, over a topic or a pattern, with whole deliveries."""
        if isinstance(source, Topic):
            await self._prepare_to_publish(source)
        transport = await self._source()
        subscription = Subscription(source=source, group=None, start=start)
        check(subscription, self.capabilities, catalog=catalog)
        self._streams.append(subscription.source_name)
        self._needs_road.clear()
        try:
            async with aclosing(tail(transport, subscription, self.clock)) as deliveries:
                async for delivery in deliveries:
                    yield delivery
        finally:
            self._streams.remove(subscription.source_name)
            self._needs_road.clear()

    async def browse(
        self, topic: str, start: Start = "earliest", limit: int = 100
    ) -> Sequence[Delivery]:
        """Read kept messages without a group and without effect; see `Source.browse`."""
        return await (await self._source()).browse(topic, start, limit)

    # --- asking ------------------------------------------------------------------------------

    async def topic_infos(self, pattern: str = "#") -> Sequence[TopicInfo]:
        """The topics on the road that fit."""
        return await (await self._source()).topics(pattern)

    async def lag(self, pattern: str = "#", group: str | None = None) -> Sequence[Lag]:
        """How far groups are behind, in messages and seconds. Needs no consumer. What waits in
        the store is told under the name of its topic there.

        Raises:
            NotSupportedError: the road cannot name its groups.
        """
        source = await self._source()
        if not isinstance(source, Audited):
            raise NotSupportedError(f"{self.url} cannot list its groups")
        pairs = await source.groups(pattern)
        found = [await source.lag(*pair) for pair in pairs if group in (None, pair[1])]
        store: Any = self._store
        if store is not None:
            moved = await stored_groups(store, pattern, group)
            found += [await store.lag(*pair) for pair in moved]
        return found

    async def settled(self, pattern: str = "#", group: str | None = None) -> None:
        """Return when these groups have settled all that is not scheduled for later; for scripts
        and tests. Bound it with `asyncio.timeout`: without consumers it never returns."""
        wait = 0.002
        while any(one.messages != 0 for one in await self.lag(pattern, group)):
            await self.clock.sleep(wait)
            wait = min(wait * 2, 0.1)

    async def audit(self, pattern: str = "#", group: str | None = None) -> Audit:
        """What became of every message accepted; see `Audit`. What was moved to the store is
        accounted for there, under the name of its topic there."""
        found = await audit(await self._ready(), pattern, group)
        store: Any = self._store
        if store is None:
            return found
        moved = await stored_groups(store, pattern, group)
        more = [entry for pair in moved for entry in (await audit(store, *pair)).entries]
        return Audit((*found.entries, *more))

    async def seek(self, topic: str, group: str, to: Start) -> None:
        """Move a group that is at rest; its audit starts anew.

        Raises:
            GroupActiveError: it has live consumers.
        """
        await (await self._source()).seek(topic, group, to)

    async def _ready(self) -> Transport:
        self._open_publisher()
        return self._transport

    async def _keepers(self) -> Sequence[DeadLetters]:
        """Who keeps dead letters: the road, the store, or both."""
        found: list[DeadLetters] = []
        transport = await self._ready()
        if isinstance(transport, DeadLetters):
            found.append(transport)
        store: object = self._store
        if isinstance(store, DeadLetters):
            found.append(StoredLetters(store))
        return found

    async def _source(self) -> Source:
        transport = await self._ready()
        if not isinstance(transport, Source):
            raise NotSupportedError(f"{self.url} can only be published to")
        return transport


_ACCEPTED = Receipt()


def _bare_publish() -> NotSupportedError:
    return NotSupportedError(
        "a bare publish inside a transaction would survive its rollback; "
        "use `await tx.publish(topic, payload)`"
    )


def mask(url: str) -> str:
    """The URL without its secrets, for people and logs: what stands between a user's name and
    an `@`, and the parameters whose names say that they are secret."""
    open_url = _PASSWORD.sub(r"\1:***@", url)
    return _SECRET.sub(r"\1=***", open_url)


def connect(url: str, clock: Clock) -> Transport:
    """The transport that a URL names, not yet opened.

    Raises:
        InvalidURLError: not a URL, or one that the transport cannot read.
        UnknownTransportError: no road answers to its scheme.
        MissingExtraError: its client library is not installed.
    """
    scheme, colon, _ = url.partition(":")
    if not colon or "//" not in url or not _is_readable(url):
        raise InvalidURLError(f"{mask(url)!r} is not a road's URL; they look like {_examples()}")
    if scheme not in TRANSPORTS:
        raise UnknownTransportError(
            f"no road answers to {scheme}://; this version has {_examples()}"
        )
    module, name, extra = TRANSPORTS[scheme]
    try:
        make = getattr(import_module(module), name)
    except ImportError as error:
        if extra is None:
            raise
        raise MissingExtraError(
            f"{scheme}:// needs {error.name}: pip install 'postroad[{extra}]'"
        ) from None
    transport: Transport = make(url, clock=clock)
    return transport


def connect_store(url: str, clock: Clock) -> Transport:
    """As `connect`, for a road that is to keep what another one cannot.

    Raises:
        DeclarationError: it cannot keep that either.
    """
    store = connect(url, clock)
    able = store.capabilities
    if not isinstance(store, Keeps) or not (able.parking and able.dead_letters and able.durable):
        raise DeclarationError(
            f"{mask(url)} cannot be a store: that takes a durable road that keeps retries, parked "
            "keys and dead letters, such as sqlite:///store.db"
        )
    return store


def _is_readable(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.port != 0 and "\0" not in unquote(url)
    except ValueError:
        return False


def catalog() -> Mapping[str, Capabilities]:
    """The capabilities of every road whose client library is installed, by scheme."""
    known: dict[str, Capabilities] = {}
    for scheme in TRANSPORTS:
        try:
            sample = connect(_SAMPLES.get(scheme, f"{scheme}://"), SystemClock())
        except MissingExtraError:
            continue
        known[f"{scheme}://"] = sample.capabilities
    return known


def _examples() -> str:
    return ", ".join(_SAMPLES.get(scheme, f"{scheme}://") for scheme in TRANSPORTS)
