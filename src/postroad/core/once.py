"""The rules of effectively-once: where effect and record commit together, and for how long."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from postroad.core.capabilities import Capabilities
from postroad.core.subscription import Subscription
from postroad.core.terms import Business, Keeper, Setting, Term

_ALIAS = "exactly-once means effectively-once: no network delivers once, effects can happen once. "
_LEASES = 4
"""A crashed consumer's deliveries come back after one lease, and another crash makes it two."""


def effectively_once(sub: Subscription, road: Capabilities, setting: Setting) -> Iterator[Term]:
    """What becomes of `delivery="effectively-once"`."""
    refusal = _refusal(sub, road, setting)
    if refusal is not None:
        yield Term("delivery", sub.delivery, "nobody", refusal)
        return
    alias = "" if sub.delivery == "effectively-once" else _ALIAS
    if setting.database is None:
        yield Term("delivery", sub.delivery, "road", alias + _on_road(setting.road))
    else:
        yield Term("delivery", sub.delivery, "database", alias + _beside(setting.database))
    yield _window(sub, setting)


def _refusal(sub: Subscription, road: Capabilities, setting: Setting) -> str | None:
    """Why it cannot be had, and the remedy."""
    if sub.group is None:
        return "needs a named group: without one nothing is kept"
    if sub.batch is not None:
        return "is per message; take batch away"
    if setting.database is None and not road.transactions:
        return (
            "needs a business database, whose commit holds the handler's writes and the record "
            'that the message is handled; name it: Postroad(…, database="postgresql://…"), or '
            "sqlite:///… for one host"
        )
    if setting.database is not None and road.settling == "none":
        return "what this road hands out is gone; delivery='at-most-once' is what it can do"
    if not setting.wants_tx:
        return (
            "the handler takes no `tx: Transaction`, so its effects could not commit with the "
            "settlement; add the parameter, or ask for at-least-once and use "
            "delivery.idempotency_key"
        )
    if not setting.is_async:
        return "needs an `async def` handler: `tx` is awaited"
    return None


def _on_road(known: Business | None) -> str:
    if known is None or known.at_once == 1:
        return (
            "what the handler writes through tx commits with the settlement; the write "
            "transaction opens at the first statement and transactional handlers take turns. "
            "Effects beyond tx may repeat"
        )
    return (
        "what the handler writes through tx commits with the record that its message is handled, "
        f"and is settled after that; up to {known.at_once} transactions at once in a process. "
        "Effects beyond tx may repeat"
    )


def _beside(database: Business) -> str:
    turns = (
        "the write transaction opens at the first statement and transactional handlers take turns"
        if database.at_once == 1
        else f"up to {database.at_once} transactions at once in a process"
    )
    publishes = (
        "What tx publishes goes through the outbox there"
        if database.outbox
        else "tx.publish is refused: no outbox there"
    )
    return (
        f"what the handler writes through tx commits in {database.name} with the record that its "
        f"message is handled, and is settled on the road after that; {turns}. {publishes}. "
        "Effects beyond tx may repeat"
    )


def _window(sub: Subscription, setting: Setting) -> Term:
    window = sub.inbox_window
    least = _LEASES * sub.lease
    if window < least:
        return Term(
            "inbox",
            _days(window),
            "nobody",
            "what a crash leaves unacknowledged comes again after the lease "
            f"({sub.lease.total_seconds():g} s), and so would run twice; inbox_window must be at "
            f"least {_days(least)}",
        )
    place = "the road's database" if setting.database is None else setting.database.name
    keeper: Keeper = "road" if setting.database is None else "database"
    detail = (
        f"one record a message, in {place}, kept that long after it was handled (longer if the "
        "group was away); a copy that comes later runs again"
    )
    waits = (sub.retry.attempts - 1) * sub.retry.longest
    if sub.order != "none" and waits > window:
        detail += f", as one may that stood behind a key's retries, which can take {_days(waits)}"
    return Term("inbox", _days(window), keeper, detail)


def _days(duration: timedelta) -> str:
    seconds = duration.total_seconds()
    for unit, size in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:g} s"
