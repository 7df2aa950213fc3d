"""Where metrics, tracing and logs attach: callbacks at batch granularity, never per message."""

from __future__ import annotations

from collections.abc import Mapping

from postroad.core.delivery import Delivery, Failure
from postroad.core.message import Message
from postroad.core.notices import Notice
from postroad.core.subscription import Subscription


class Hooks:
    """Override what you need. Called on the event loop: return at once, and do not raise.

    A hook sees messages and deliveries; writing payloads or headers to a log is its own mistake.
    """

    def published(self, topic: str, count: int) -> None:
        """`count` messages were accepted."""

    def publish_failed(self, topic: str, count: int, error: Exception) -> None:
        """`count` messages were not; for a fire-and-forget topic nobody else is told."""

    def received(self, subscription: Subscription, count: int) -> None:
        """A batch arrived."""

    def settled(self, subscription: Subscription, counts: Mapping[str, int]) -> None:
        """A batch was settled: outcome (or `dead`, `retried`, `returned`, `stale`) → messages."""

    def failed(self, subscription: Subscription, delivery: Delivery, failure: Failure) -> None:
        """A handler failed on a message; what becomes of it follows in `settled`."""

    def duplicate(self, subscription: Subscription, delivery: Delivery) -> None:
        """A message came that was handled before, effectively-once or by its sequence number: it
        has no effect once more, and is settled."""

    def lost(self, subscription: Subscription, message: Message, failure: Failure) -> None:
        """An at-most-once message failed after it was settled: a loss, as declared."""

    def observer_failed(self, topic: str, observer: str, error: Exception) -> None:
        """An in-process observer raised; the publisher and the other observers never know."""

    def noticed(self, subscription: Subscription | None, notice: Notice) -> None:
        """The road said something; None is its publishing side."""


class HookChain(Hooks):
    """Several hooks as one, called in order."""

    def __init__(self, *hooks: Hooks) -> None:
        self.hooks = list(hooks)

    def published(self, topic: str, count: int) -> None:
        for hook in self.hooks:
            hook.published(topic, count)

    def publish_failed(self, topic: str, count: int, error: Exception) -> None:
        for hook in self.hooks:
            hook.publish_failed(topic, count, error)

    def received(self, subscription: Subscription, count: int) -> None:
        for hook in self.hooks:
            hook.received(subscription, count)

    def settled(self, subscription: Subscription, counts: Mapping[str, int]) -> None:
        for hook in self.hooks:
            hook.settled(subscription, counts)

    def failed(self, subscription: Subscription, delivery: Delivery, failure: Failure) -> None:
        for hook in self.hooks:
            hook.failed(subscription, delivery, failure)

    def duplicate(self, subscription: Subscription, delivery: Delivery) -> None:
        for hook in self.hooks:
            hook.duplicate(subscription, delivery)

    def lost(self, subscription: Subscription, message: Message, failure: Failure) -> None:
        for hook in self.hooks:
            hook.lost(subscription, message, failure)

    def observer_failed(self, topic: str, observer: str, error: Exception) -> None:
        for hook in self.hooks:
            hook.observer_failed(topic, observer, error)

    def noticed(self, subscription: Subscription | None, notice: Notice) -> None:
        for hook in self.hooks:
            hook.noticed(subscription, notice)
