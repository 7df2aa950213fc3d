"""Compiling guarantees: a subscription against a road's capabilities, before anything is sent.

`check` finds every gap at once. What a road lacks and the engine adds is named in the contract;
what nobody can add is refused, with the roads that could.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

from postroad.core.capabilities import Capabilities
from postroad.core.filters import split
from postroad.core.flow import Rate, Shed
from postroad.core.subscription import Subscription
from postroad.core.topic import Topic
from postroad.core.transport import Plan
from postroad.errors import GuaranteeError

Keeper = Literal["road", "engine", "store", "nobody"]


@dataclass(frozen=True)
class Term:
    """One line of a contract.

    Attributes:
        subject: what it is about, e.g. `order`.
        asked: what was asked for.
        keeper: who keeps it: the road natively, the engine, a store; `nobody` is a gap.
        detail: how, and what it costs or risks; for a gap, why not and the remedy.
    """

    subject: str
    asked: str
    keeper: Keeper
    detail: str


@dataclass(frozen=True)
class Stored:
    """What of one subscription goes to the store, because its road cannot keep it.

    Attributes:
        retries: what is to come again later, and the keys that it blocks.
        dead_letters: what was given up; also wherever retries go, so that they are in one place.
    """

    retries: bool = False
    dead_letters: bool = False


NOTHING_STORED = Stored()


@dataclass(frozen=True)
class Contract:
    """What a subscription (or a topic's publishing side) gets from one road."""

    subject: str
    terms: tuple[Term, ...]
    plan: Plan = field(default_factory=Plan)
    stored: Stored = field(default_factory=lambda: NOTHING_STORED)

    @property
    def gaps(self) -> tuple[str, ...]:
        """The terms that nobody keeps, as sentences."""
        return tuple(
            f"{term.subject} {term.asked}: {term.detail}"
            for term in self.terms
            if term.keeper == "nobody"
        )


@dataclass(frozen=True)
class Setting:
    """What the check needs to know beside the road.

    Attributes:
        database: whether there is a business database that `tx` can reach; on a road with
            `transactions` that is the road itself.
        peers: subscriptions of this app to the same topic and group, this one included.
        wants_tx: whether the handler takes a `Transaction`.
        is_async: whether the handler can be cancelled.
        store: what keeps what the road cannot, if one is given.
    """

    database: bool = False
    peers: int = 1
    wants_tx: bool = False
    is_async: bool = True
    store: Capabilities | None = None


PLAIN = Setting()

Catalog = Callable[[], Mapping[str, Capabilities]]
"""Every known road by scheme, looked up only when something has to be refused."""


def check(
    subscription: Subscription,
    capabilities: Capabilities,
    setting: Setting = Setting(),
    catalog: Catalog = dict,
) -> Contract:
    """The contract of a subscription on a road.

    Raises:
        GuaranteeError: something cannot be kept: all gaps at once, and the roads that could.
    """
    contract = draft(subscription, capabilities, setting)
    if contract.gaps:
        able = [
            scheme
            for scheme, other in catalog().items()
            if not draft(subscription, other, setting).gaps
        ]
        raise GuaranteeError(f"The subscription {subscription}", contract.gaps, able)
    return contract


def draft(subscription: Subscription, capabilities: Capabilities, setting: Setting) -> Contract:
    """As `check`, with the gaps in the contract instead of an error."""
    native, _ = split(subscription.filter, capabilities.filters)
    ordered = subscription.order != "none" and subscription.group is not None
    plan = Plan(
        filter=native,
        lease=subscription.lease,
        ordered=ordered and capabilities.order == "key-group",
        parks=ordered and subscription.retry.on_dead == "park-key",
    )
    rules = (_group, _start, _delivery, _order, _failures, _parking, _source, _filtering, _limits)
    terms = tuple(term for rule in rules for term in rule(subscription, capabilities, setting))
    return Contract(str(subscription), terms, plan, _stored(subscription, capabilities, setting))


def check_topic(topic: Topic[Any], capabilities: Capabilities, catalog: Catalog = dict) -> Contract:
    """The contract of a topic's publishing side.

    Raises:
        GuaranteeError: the road cannot keep what the topic declares: all gaps at once, and the
            roads that could.
    """
    contract = draft_topic(topic, capabilities)
    if contract.gaps:
        able = [name for name, other in catalog().items() if not draft_topic(topic, other).gaps]
        raise GuaranteeError(f"The topic {topic.name}", contract.gaps, able)
    return contract


def draft_topic(topic: Topic[Any], capabilities: Capabilities) -> Contract:
    """As `check_topic`, with the gaps in the contract instead of an error."""
    return Contract(topic.name, tuple(_publishing(topic, capabilities)))


def _group(sub: Subscription, road: Capabilities, _: Setting) -> Iterator[Term]:
    if sub.group is None:
        asked = "every consumer"
        if road.ephemeral:
            yield Term(
                "group",
                asked,
                "road",
                "each consumer gets its own copy, from now on; "
                "what it has not handled when it ends is gone",
            )
        else:
            yield Term("group", asked, "nobody", "this road has named groups only; give one")
    elif road.groups:
        yield Term(
            "group",
            sub.group,
            "road",
            "consumers share the work; "
            + ("progress is kept" if road.durable else "progress lives with the process"),
        )
    else:
        yield Term("group", sub.group, "nobody", "this road has no groups; group=None works here")


def _start(sub: Subscription, road: Capabilities, _: Setting) -> Iterator[Term]:
    if sub.start == "latest":
        yield Term("start", "latest", "road", "a new group gets what is accepted from now on")
    elif road.history:
        yield Term("start", str(sub.start), "road", "a new group begins there, in kept history")
    else:
        yield Term("start", str(sub.start), "nobody", "this road keeps no history; use 'latest'")


def _delivery(sub: Subscription, road: Capabilities, setting: Setting) -> Iterator[Term]:
    asked = sub.delivery
    if sub.effectively_once:
        yield from _effectively_once(sub, road, setting)
    elif asked == "at-most-once":
        yield Term(
            "delivery",
            asked,
            "engine",
            "settled before the handler runs: a crash or a "
            "failure after that loses the message; failures are retried in process and "
            "end in a counted loss",
        )
    elif road.settling == "none":
        yield Term(
            "delivery",
            asked,
            "nobody",
            "what this road hands out is gone; delivery='at-most-once' is what it can do",
        )
    elif sub.group is None:
        yield Term("delivery", asked, "engine", "while this process lives; nothing outlives it")
    else:
        yield Term(
            "delivery",
            asked,
            "road",
            f"settled after the handler; a crash between the two repeats it. {road.risk}".rstrip(),
        )
    if setting.wants_tx and not sub.effectively_once:
        yield Term(
            "tx",
            "a Transaction",
            "nobody",
            "a handler gets one with delivery='effectively-once' only",
        )


def _effectively_once(sub: Subscription, road: Capabilities, setting: Setting) -> Iterator[Term]:
    asked = sub.delivery
    if sub.group is None:
        yield Term("delivery", asked, "nobody", "needs a named group: without one nothing is kept")
    elif sub.batch is not None:
        yield Term("delivery", asked, "nobody", "is per message; take batch away")
    elif not road.transactions:
        yield Term(
            "delivery",
            asked,
            "nobody",
            "needs a business database that settles with the "
            "handler's writes, and this road is none",
        )
    elif not setting.wants_tx:
        yield Term(
            "delivery",
            asked,
            "nobody",
            "the handler takes no `tx: Transaction`, so its "
            "effects could not commit with the settlement; add the parameter, or ask for "
            "at-least-once and use delivery.idempotency_key",
        )
    elif not setting.is_async:
        yield Term("delivery", asked, "nobody", "needs an `async def` handler: `tx` is awaited")
    else:
        alias = (
            ""
            if asked == "effectively-once"
            else (
                "exactly-once means effectively-once: no network delivers once, effects can happen "
                "once. "
            )
        )
        yield Term(
            "delivery",
            asked,
            "road",
            f"{alias}what the handler writes through tx commits "
            "with the settlement; the write transaction opens at the first statement and "
            "transactional handlers take turns. Effects beyond tx may repeat",
        )


def _order(sub: Subscription, road: Capabilities, setting: Setting) -> Iterator[Term]:
    if sub.order == "none":
        return
    asked = sub.order
    if asked == "total":
        yield from _total_order(sub)
    if sub.order == "key" and not sub.is_pattern and getattr(sub.source, "key", None) is None:
        yield Term("order", asked, "nobody", "the topic has no key; declare Topic(key=…)")
    if road.order == "none":
        yield Term("order", asked, "nobody", "this road keeps no order")
    elif sub.group is None or road.order == "key-group":
        owner = (
            "lanes in the consumer"
            if sub.group is None
            else ("each partition has one owner at a time in the group, lanes inside it")
        )
        yield Term("order", asked, "road", f"{owner}; order holds within one priority")
    elif road.shared or setting.peers > 1:
        yield Term(
            "order",
            asked,
            "nobody",
            "this road keeps order inside one consumer only, and the group may have several",
        )
    else:
        yield Term(
            "order",
            asked,
            "engine",
            "lanes in the one consumer of the group; order holds within one priority",
        )


def _total_order(sub: Subscription) -> Iterator[Term]:
    if sub.is_pattern:
        yield Term(
            "order",
            "total",
            "nobody",
            "does not go with patterns: topics have no order among each other",
        )
    elif isinstance(sub.source, Topic) and sub.source.partition_count != 1:
        yield Term(
            "order",
            "total",
            "nobody",
            "needs a topic of one partition; "
            f"{sub.source.name} has {sub.source.partition_count}: declare partitions=1",
        )


def _failures(sub: Subscription, road: Capabilities, setting: Setting) -> Iterator[Term]:
    retry = sub.retry
    asked = f"{retry.attempts} attempts, {retry.backoff}"
    if sub.delivery == "at-most-once" or sub.group is None:
        yield Term(
            "retry",
            asked,
            "engine",
            "in process; the wait dies with the process, and a "
            "message that fails every time is a counted loss",
        )
        return
    if sub.order != "none":
        yield Term(
            "retry",
            asked,
            "engine",
            f"a failed message blocks its key while it waits; up to {retry.hold} of the key are "
            f"held, then {_beyond_hold(sub, road, setting)}",
        )
    elif _stored(sub, road, setting).retries:
        yield Term(
            "retry",
            asked,
            "store",
            "moved to the store with attempts and delay, written there before it is settled here; "
            "a crash between the two repeats it",
        )
    elif road.redelivery_delay and road.attempts:
        yield Term(
            "retry",
            asked,
            "road",
            "given back with a delay; attempts survive a crash, other groups never see the retry",
        )
    else:
        yield Term(
            "retry", asked, "engine", "held under its lease; attempts start anew after a crash"
        )
    if _stored(sub, road, setting).dead_letters:
        detail = "in the store, with exception, traceback and the last attempts"
        yield Term("dead letters", "kept", "store", detail)
    elif road.dead_letters:
        yield Term(
            "dead letters",
            "kept",
            "road",
            "with exception, traceback, attempt history "
            "and position" + ("" if road.durable else "; they end with the process"),
        )
    else:
        yield Term(
            "dead letters",
            "kept",
            "nobody",
            'this road cannot keep them and no store is given: Postroad(…, store="sqlite:///…")',
        )


def _beyond_hold(sub: Subscription, road: Capabilities, setting: Setting) -> str:
    if sub.order == "key" and road.parking:
        return "the key is parked on the road, in order, and the other keys go on"
    if _stored(sub, road, setting).retries:
        return "the key is parked in the store, in order, and the other keys go on"
    return "its partition is not read"


def _stored(sub: Subscription, road: Capabilities, setting: Setting) -> Stored:
    if setting.store is None or sub.delivery == "at-most-once" or sub.group is None:
        return NOTHING_STORED
    retries = not {
        "none": road.redelivery_delay and road.attempts,
        "key": road.parking,
        "total": True,
    }[sub.order]
    return Stored(retries, retries or not road.dead_letters)


def _parking(sub: Subscription, road: Capabilities, setting: Setting) -> Iterator[Term]:
    if sub.retry.on_dead == "continue":
        return
    asked = sub.retry.on_dead
    if sub.order == "none":
        yield Term("on_dead", asked, "nobody", "needs order='key' or 'total'")
    elif sub.delivery == "at-most-once" or sub.group is None:
        yield Term("on_dead", asked, "nobody", "needs a named group that settles after the handler")
    elif sub.order == "key" and _stored(sub, road, setting).retries:
        detail = "a key whose message died waits in the store, in order, until that is redriven"
        yield Term("on_dead", asked, "store", detail)
    elif road.parking and road.dead_letters:
        yield Term(
            "on_dead",
            asked,
            "road",
            "a key whose message died waits, in order, until the dead letter is redriven (and runs "
            "first) or discarded",
        )
    else:
        yield Term("on_dead", asked, "nobody", "this road cannot park keys; on_dead='continue'")


def _source(sub: Subscription, road: Capabilities, _: Setting) -> Iterator[Term]:
    if sub.is_pattern:
        keeper: Keeper = "road" if road.patterns else "nobody"
        detail = "topics that appear later join" if road.patterns else "name the topics one by one"
        yield Term("pattern", sub.source_name, keeper, detail)


def _filtering(sub: Subscription, road: Capabilities, _: Setting) -> Iterator[Term]:
    native, residual = split(sub.filter, road.filters)
    if native is not None:
        yield Term("filter", repr(native), "road", "what does not pass never leaves the road")
    if residual is not None:
        yield Term("filter", repr(residual), "engine", "read, settled and counted as filtered")


def _limits(sub: Subscription, road: Capabilities, setting: Setting) -> Iterator[Term]:
    if sub.timeout is not None:
        if setting.is_async:
            yield Term("timeout", str(sub.timeout), "engine", "the handler is cancelled then")
        else:
            yield Term(
                "timeout",
                str(sub.timeout),
                "nobody",
                "a thread cannot be stopped: make the handler `async def`, or bound its own calls",
            )
    if sub.limit is not None:
        yield _rate(sub.limit, sub, road)
    if sub.breaker is not None:
        kinds = ", ".join(kind.__name__ for kind in sub.breaker.on)
        yield Term(
            "breaker",
            f"{sub.breaker.after} in a row of {kinds}",
            "engine",
            "handlers pause and one message probes; failures meanwhile cost no attempt",
        )
    if sub.shed is not None:
        yield _shed(sub.shed, sub, road)
    if sub.group is not None and road.lease:
        yield Term(
            "lease",
            f"{sub.lease.total_seconds():g} s",
            "road",
            "renewed while handlers "
            "run; a consumer silent for longer loses what it holds and cannot settle it",
        )


def _rate(rate: Rate, sub: Subscription, road: Capabilities) -> Term:
    if not rate.shared:
        asked = f"{rate.per_second:g}/s for each consumer"
        return Term("rate", asked, "engine", "what is not permitted yet stays on the road")
    asked = f"{rate.per_second:g}/s for the group"
    if road.permits and sub.group is not None:
        return Term("rate", asked, "road", "permits are kept on the road, over all processes")
    return Term("rate", asked, "nobody", "this road keeps no permits for a group; shared=False")


def _shed(shed: Shed, sub: Subscription, road: Capabilities) -> Term:
    asked = f"{shed.policy} above {shed.above}"
    if road.lag and sub.group is not None:
        return Term("shed", asked, "engine", "what is dropped is settled and counted as shed")
    return Term("shed", asked, "nobody", "needs a named group on a road that knows its lag")


def _publishing(topic: Topic[Any], road: Capabilities) -> Iterable[Term]:
    if topic.publish == "confirmed":
        yield Term("publish", "confirmed", "road", road.risk or "returns when accepted")
    else:
        yield Term(
            "publish",
            "fire-and-forget",
            "engine",
            "returns at once; a failure loses the message and is counted in the metrics only",
        )
    if road.max_payload is not None and topic.max_payload > road.max_payload:
        yield Term(
            "max_payload",
            f"{topic.max_payload} bytes",
            "nobody",
            f"this road takes {road.max_payload}",
        )
    for kind in _retention_kinds(topic):
        if kind in road.retention:
            yield Term("retention", kind, "road", "trimmed by the road; unread losses are counted")
        else:
            yield Term("retention", kind, "nobody", "this road cannot trim by it")


def _retention_kinds(topic: Topic[Any]) -> Iterator[str]:
    retention = topic.retention
    if retention.age is not None:
        yield "age"
    if retention.size is not None:
        yield "size"
    if retention.consumed:
        yield "consumed"


def check_delay(delay: timedelta, road: Capabilities) -> None:
    """Refuse a delay that the road cannot keep.

    Raises:
        GuaranteeError: it is longer than the road keeps one natively.
    """
    if delay > road.delay:
        raise GuaranteeError(
            f"A delay of {delay}",
            [f"this road keeps delays up to {road.delay}" if road.delay else "no native delays"],
        )
