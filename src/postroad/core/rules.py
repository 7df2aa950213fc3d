"""The rules that make a contract's terms: one for each thing that can be asked of a road."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from postroad.core.capabilities import Capabilities
from postroad.core.filters import split
from postroad.core.flow import Rate, Shed
from postroad.core.once import effectively_once
from postroad.core.subscription import Subscription
from postroad.core.terms import NOTHING_STORED, Keeper, Setting, Stored, Term
from postroad.core.topic import Topic


def subscription_terms(sub: Subscription, road: Capabilities, setting: Setting) -> Iterator[Term]:
    """What becomes of everything that a subscription asks for, or that its road adds to it."""
    rules = (
        _group,
        _start,
        _delivery,
        _order,
        _sequence,
        _failures,
        _parking,
        _source,
        _filtering,
        _limits,
    )
    for rule in rules:
        yield from rule(sub, road, setting)


def topic_terms(topic: Topic[Any], road: Capabilities) -> Iterator[Term]:
    """What becomes of everything that a topic declares for its publishing side."""
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


def stored_of(sub: Subscription, road: Capabilities, setting: Setting) -> Stored:
    """What of the subscription goes to the store of its setting, if that has one."""
    if setting.store is None or sub.delivery == "at-most-once" or sub.group is None:
        return NOTHING_STORED
    retries = not {
        "none": road.redelivery_delay and road.attempts,
        "key": road.parking,
        "total": True,
    }[sub.order]
    return Stored(retries, retries or not road.dead_letters)


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
        yield from effectively_once(sub, road, setting)
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


def _sequence(sub: Subscription, road: Capabilities, setting: Setting) -> Iterator[Term]:
    wish = sub.sequence
    if wish is None:
        return
    asked = f"gaps up to {wish.gap.total_seconds():g} s, then {wish.on_gap}"
    gaps = list(_sequence_gaps(sub, road, setting))
    for gap in gaps:
        yield Term("sequence", asked, "nobody", gap)
    if gaps:
        return
    begins = wish.begins(sub.start)
    first = "the first that is seen" if begins is None else str(begins)
    place = "the store" if setting.database is None else setting.database.name
    kept = "on the road" if road.sequences else f"in {place}"
    yield Term(
        "sequence",
        asked,
        "engine",
        f"numbers begin with {first}; up to {wish.limit} messages wait for what is before them, "
        f"and what was handled already is dropped; where the group stands is kept {kept}, "
        "written with each batch that is settled",
    )


def _sequence_gaps(sub: Subscription, road: Capabilities, setting: Setting) -> Iterator[str]:
    assert sub.sequence is not None
    if sub.order != "key":
        yield "numbers are of a key, whose messages run one by one: order='key'"
    if sub.delivery == "at-most-once" or sub.group is None:
        yield (
            "what waits for its turn must not be settled yet: it needs a named group, and "
            "delivery='at-least-once' or 'effectively-once'"
        )
    if sub.retry.on_dead == "park-key":
        yield (
            "a road parks what came later than the dead letter, and numbers may have come in "
            "another order: on_dead='continue'"
        )
    if road.settling == "cumulative":
        yield (
            "this road settles by position, so one message that waits would hold up the answers "
            "of its whole partition; use a road that settles each message by itself"
        )
    if split(sub.filter, road.filters)[0] is not None:
        yield "what the road filters out never comes and looks missing; filter in the handler"
    stored = setting.store is not None and setting.store.sequences
    if not road.sequences and setting.database is None and not stored:
        yield (
            "this road cannot keep where the group stands, and no database is given that can: "
            'Postroad(…, database="sqlite:///…")'
        )
    for name, held, most in (
        ("limit", sub.sequence.limit, sub.prefetch),
        ("limit_bytes", sub.sequence.limit_bytes, sub.prefetch_bytes),
    ):
        if held >= most:
            other = "prefetch" if name == "limit" else "prefetch_bytes"
            yield (
                f"Sequence({name}={held}) with {other}={most} leaves no room for what is missing; "
                f"raise {other} or lower {name}"
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
    elif stored_of(sub, road, setting).retries:
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
    if stored_of(sub, road, setting).dead_letters:
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
    if stored_of(sub, road, setting).retries:
        return "the key is parked in the store, in order, and the other keys go on"
    return "its partition is not read"


def _parking(sub: Subscription, road: Capabilities, setting: Setting) -> Iterator[Term]:
    if sub.retry.on_dead == "continue":
        return
    asked = sub.retry.on_dead
    if sub.order == "none":
        yield Term("on_dead", asked, "nobody", "needs order='key' or 'total'")
    elif sub.delivery == "at-most-once" or sub.group is None:
        yield Term("on_dead", asked, "nobody", "needs a named group that settles after the handler")
    elif sub.order == "key" and stored_of(sub, road, setting).retries:
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


def _retention_kinds(topic: Topic[Any]) -> Iterator[str]:
    retention = topic.retention
    if retention.age is not None:
        yield "age"
    if retention.size is not None:
        yield "size"
    if retention.consumed:
        yield "consumed"
