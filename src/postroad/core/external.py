"""A topic that does not come over the road: it brings the transport that it is read from."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from postroad.core.clock import Clock
from postroad.core.subscription import Subscription
from postroad.core.topic import Topic
from postroad.core.transport import Transport


@runtime_checkable
class ExternalSource(Protocol):
    """What may be subscribed in place of a topic."""

    @property
    def topic(self) -> Topic[Any]:
        """As what its messages arrive."""
        ...

    def subscription(self, wanted: Subscription) -> Subscription:
        """The subscription as this source can keep it.

        Raises:
            DeclarationError: it asks for what makes no sense here; the text says what does.
        """
        ...

    def transport(self, database: str | None, clock: Clock) -> Transport:
        """What one subscription of it is read from, not yet opened. `database` is the URL of the
        road's business database, if it has one.

        Raises:
            DeclarationError: there is no database that it could be read from.
        """
        ...
