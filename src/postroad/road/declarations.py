"""Declaring: topics, subscriptions, observers and schedules, and the contracts they come to."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypedDict, TypeVar, Unpack

from postroad.core.capabilities import Capabilities
from postroad.core.clock import Clock
from postroad.core.contract import (
    Catalog,
    Contract,
    Setting,
    check,
    check_topic,
    draft,
    draft_topic,
)
from postroad.core.delivery import Start
from postroad.core.external import ExternalSource
from postroad.core.filters import Filter
from postroad.core.flow import Breaker, Rate, Shed
from postroad.core.hooks import HookChain
from postroad.core.retry import Retry
from postroad.core.sequence import Sequence as Numbered
from postroad.core.subscription import Batch, Guarantee, Order, Subscription
from postroad.core.terms import Business
from postroad.core.ticks import ticks_of
from postroad.core.topic import Topic
from postroad.core.transport import Transport
from postroad.core.url import place_of
from postroad.delivery.handler import Handler, inspect_handler
from postroad.delivery.inbox import Inbox
from postroad.delivery.observers import Observers
from postroad.delivery.schedule import Every
from postroad.errors import DeclarationError
from postroad.storage.place import Place

F = TypeVar("F", bound=Callable[..., Any])


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
    sequence: Numbered | None
    inbox_window: timedelta


@dataclass(frozen=True)
class Bound:
    """A subscription with its handler.

    Attributes:
        transport: what it is read from, where that is not the road.
    """

    subscription: Subscription
    handler: Handler
    transport: Transport | None = None


@dataclass(frozen=True)
class Wiring:
    """What a road is made of.

    Attributes:
        url: the transport's URL, without its secrets.
        name: the CloudEvents source of what is published.
        transport: what it runs on, not yet opened.
        store: what keeps what the transport cannot, if one is given.
        inbox: the business database, where it is not the road.
        business: the road as the business database, where it is one.
        database: the URL of the business database, with its secrets.
        outbox: the road's own database, where it was named as the business database too: its
            outbox is relayed while the road consumes.
        hooks: where metrics, traces and logs attach.
        clock: time.
        catalog: the roads that a refusal may recommend.
    """

    url: str
    name: str
    transport: Transport
    store: Transport | None
    hooks: HookChain
    clock: Clock
    catalog: Catalog
    inbox: Inbox | None = None
    business: Business | None = None
    database: str | None = None
    outbox: Place | None = None


class Declarations:
    """What is declared on a road, and whether the road can keep it. Costs no I/O."""

    def __init__(self, wiring: Wiring) -> None:
        self.name = wiring.name
        self.url = wiring.url
        self.hooks = wiring.hooks
        self.clock = wiring.clock
        self.topics: dict[str, Topic[Any]] = {}
        self.subscriptions: list[Bound] = []
        self._transport = wiring.transport
        self._store = wiring.store
        self._inbox = wiring.inbox
        self._business = wiring.business
        self._database = wiring.database
        self._outbox = wiring.outbox
        self._place = place_of(wiring.url)
        self._catalog = wiring.catalog
        self._observers = Observers(self.hooks)
        self._observed = False
        self._schedules: list[Every] = []
        self._streams: list[str] = []
        self._needs_road: dict[str, bool] = {}

    @property
    def capabilities(self) -> Capabilities:
        """What the configured transport does natively."""
        return self._transport.capabilities

    def subscribe(
        self,
        source: Topic[Any] | str | ExternalSource,
        *,
        group: str | None,
        **options: Unpack[SubscribeOptions],
    ) -> Callable[[F], F]:
        """Declare that the decorated function handles a topic (or a pattern) for a group; or what
        does not come over the road, such as the rows of a table (`PollingSource`).

        The options are the fields of `Subscription`. The function stays callable as it is.

        Raises:
            DeclarationError: the subscription or the handler cannot work; `HandlerTypeError` if
                the handler's type does not match its topic.
        """
        transport = None
        if isinstance(source, ExternalSource):
            wanted = Subscription(source=source.topic, group=group, **options)
            subscription = source.subscription(wanted)
            self._refuse_other_groups(subscription)
            transport = source.transport(self._database, self.clock)
        else:
            subscription = Subscription(source=source, group=group, **options)
        if isinstance(source, Topic):
            self._declare(source)

        def bind(function: F) -> F:
            handler = inspect_handler(function, subscription)
            self.subscriptions.append(Bound(subscription, handler, transport))
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
            draft(bound.subscription, self._transport_of(bound).capabilities, self._setting(bound))
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
            check_topic(topic, self.capabilities, self._catalog)

    def _contract(self, bound: Bound) -> Contract:
        capabilities = self._transport_of(bound).capabilities
        return check(bound.subscription, capabilities, self._setting(bound), self._catalog)

    def _transport_of(self, bound: Bound) -> Transport:
        """What a subscription is read from: the road, or what its source brings along."""
        return bound.transport or self._transport

    def _external(self) -> Sequence[tuple[Transport, Subscription]]:
        """What does not come over the road, with what it is read from."""
        return [
            (bound.transport, bound.subscription)
            for bound in self.subscriptions
            if bound.transport is not None
        ]

    def _refuse_other_groups(self, mine: Subscription) -> None:
        """What a group takes from an external source is gone for another one."""
        for _, other in self._external():
            if other.source is mine.source and other.group != mine.group:
                raise DeclarationError(
                    f"{mine}: the group {other.group!r} takes what is ready there already, and "
                    "none would see all of it; let its handler publish to a topic that both read"
                )

    def _setting(self, bound: Bound) -> Setting:
        mine = bound.subscription
        peers = sum(
            1
            for other in self.subscriptions
            if other.subscription.group == mine.group
            and other.subscription.source_name == mine.source_name
        )
        return Setting(
            database=None if self._inbox is None else self._inbox.business,
            road=self._business,
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

    def _is_needed(self, name: str) -> bool:
        """Whether anybody beside observers reads the topic; asked once for each."""
        known = self._needs_road.get(name)
        if known is None:
            known = name in self._streams or any(
                bound.subscription.reads(name) for bound in self.subscriptions
            )
            self._needs_road[name] = known
        return known
