"""Compiling guarantees: a subscription against a road's capabilities, before anything is sent.

`check` finds every gap at once. What a road lacks and the engine adds is named in the contract;
what nobody can add is refused, with the roads that could. The terms come from `rules.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from postroad.core.capabilities import Capabilities
from postroad.core.filters import split
from postroad.core.rules import stored_of, subscription_terms, topic_terms
from postroad.core.subscription import Subscription
from postroad.core.terms import NOTHING_STORED, PLAIN, Setting, Stored, Term
from postroad.core.topic import Topic
from postroad.core.transport import Plan
from postroad.errors import GuaranteeError

__all__ = [
    "NOTHING_STORED",
    "PLAIN",
    "Catalog",
    "Contract",
    "Setting",
    "Stored",
    "Term",
    "check",
    "check_delay",
    "check_topic",
    "draft",
    "draft_topic",
]


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


Catalog = Callable[[], Mapping[str, Capabilities]]
"""Every known road by scheme, looked up only when something has to be refused."""


def check(
    subscription: Subscription,
    capabilities: Capabilities,
    setting: Setting = PLAIN,
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
    terms = tuple(subscription_terms(subscription, capabilities, setting))
    return Contract(str(subscription), terms, plan, stored_of(subscription, capabilities, setting))


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
    return Contract(topic.name, tuple(topic_terms(topic, capabilities)))


def check_delay(delay: timedelta, road: Capabilities, store: Capabilities | None = None) -> None:
    """Refuse a delay that neither the road nor a store can keep.

    Raises:
        GuaranteeError: it is longer than both keep one.
    """
    longest = max(road.delay, store.delay if store is not None else road.delay)
    if delay > longest:
        raise GuaranteeError(
            f"A delay of {delay}",
            [
                f"this road keeps delays up to {longest}"
                if longest
                else "no native delays, and no store that keeps them: Postroad(…, store=…)"
            ],
        )
