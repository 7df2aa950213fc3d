"""Postroad: one typed API for messages over every transport, with guarantees that are checked.

The public names; each is imported at its first use, so that `import postroad` costs next to
nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from postroad import idempotency
    from postroad.app import Bound, PollingSource, Postroad
    from postroad.core.capabilities import Capabilities
    from postroad.core.clock import Clock
    from postroad.core.codec import Codec, JsonCodec
    from postroad.core.contract import Contract, Term
    from postroad.core.delivery import Delivery, Failure, Position, Receipt
    from postroad.core.flow import Breaker, Rate, Shed
    from postroad.core.hooks import Hooks
    from postroad.core.message import Message
    from postroad.core.outcome import Discard, Later, PartialFailure, Reject
    from postroad.core.reports import DeadLetter, Lag
    from postroad.core.retry import Retry
    from postroad.core.sequence import Sequence, numbered
    from postroad.core.subscription import Batch, Subscription
    from postroad.core.topic import Options, Outgoing, Retention, Topic
    from postroad.core.transport import Transaction
    from postroad.delivery.audit import Audit
    from postroad.delivery.outbox import Outbox, OutboxTable, RelaySettings
    from postroad.errors import PostroadError

__version__ = "0.1.0"

_HOMES = {
    "Audit": "delivery.audit",
    "Batch": "core.subscription",
    "Bound": "app",
    "Shed": "core.flow",
    "Rate": "core.flow",
    "Breaker": "core.flow",
    "Capabilities": "core.capabilities",
    "Clock": "core.clock",
    "Codec": "core.codec",
    "Contract": "core.contract",
    "DeadLetter": "core.reports",
    "Delivery": "core.delivery",
    "Discard": "core.outcome",
    "Failure": "core.delivery",
    "Hooks": "core.hooks",
    "JsonCodec": "core.codec",
    "Lag": "core.reports",
    "Later": "core.outcome",
    "Message": "core.message",
    "Options": "core.topic",
    "Outbox": "delivery.outbox",
    "OutboxTable": "delivery.outbox",
    "Outgoing": "core.topic",
    "PartialFailure": "core.outcome",
    "PollingSource": "app",
    "Position": "core.delivery",
    "PostroadError": "errors",
    "Postroad": "app",
    "Receipt": "core.delivery",
    "Reject": "core.outcome",
    "RelaySettings": "delivery.outbox",
    "Retention": "core.topic",
    "Retry": "core.retry",
    "Sequence": "core.sequence",
    "Subscription": "core.subscription",
    "Term": "core.contract",
    "Topic": "core.topic",
    "Transaction": "core.transport",
    "numbered": "core.sequence",
}

__all__ = [
    "Audit",
    "Batch",
    "Bound",
    "Breaker",
    "Capabilities",
    "Clock",
    "Codec",
    "Contract",
    "DeadLetter",
    "Delivery",
    "Discard",
    "Failure",
    "Hooks",
    "JsonCodec",
    "Lag",
    "Later",
    "Message",
    "Options",
    "Outbox",
    "OutboxTable",
    "Outgoing",
    "PartialFailure",
    "PollingSource",
    "Position",
    "Postroad",
    "PostroadError",
    "Rate",
    "Receipt",
    "Reject",
    "RelaySettings",
    "Retention",
    "Retry",
    "Sequence",
    "Shed",
    "Subscription",
    "Term",
    "Topic",
    "Transaction",
    "idempotency",
    "numbered",
]


def __getattr__(name: str) -> Any:
    if name == "idempotency":
        return import_module("postroad.idempotency")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'postroad' has no attribute {name!r}")
    value = getattr(import_module(f"postroad.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
