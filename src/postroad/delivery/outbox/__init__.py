"""The transactional outbox: `Outbox` adds, a `Relay` publishes."""

from postroad.delivery.outbox.adding import Outbox
from postroad.delivery.outbox.reading import OutboxDepth
from postroad.delivery.outbox.relay import Relay
from postroad.delivery.outbox.settings import RelayFigures, RelayHooks, RelaySettings
from postroad.delivery.outbox.table import OutboxTable

__all__ = [
    "Outbox",
    "OutboxDepth",
    "OutboxTable",
    "Relay",
    "RelayFigures",
    "RelayHooks",
    "RelaySettings",
]
