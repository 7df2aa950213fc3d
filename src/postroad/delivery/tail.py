"""Reading along: an ephemeral consumer as an async iterator."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import timedelta

from postroad.core.clock import Clock
from postroad.core.delivery import Delivery, Settlement
from postroad.core.subscription import Subscription
from postroad.core.transport import Plan, Source
from postroad.delivery.patience import patiently

_BATCH = 500
_BYTES = 16 << 20
_POLL = timedelta(seconds=1)


async def tail(
    source: Source, subscription: Subscription, clock: Clock
) -> AsyncGenerator[Delivery, None]:
    """Every message from `subscription.start` on, until the iterator is closed. Each is settled
    when the next one is asked for; nothing outlives the iterator."""
    consumer = await source.subscribe(subscription, Plan(lease=subscription.lease))
    try:
        while True:
            batch = await patiently(clock, lambda: consumer.receive(_BATCH, _BYTES, _POLL))
            for delivery in batch:
                yield delivery
            if batch:
                await consumer.settle([Settlement(delivery) for delivery in batch])
    finally:
        await consumer.close()
