"""From claimed rows to deliveries: the hot path of receiving, on the event loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from postroad.core.delivery import Delivery
from postroad.transports.sql.rows import OFFSET_BITS, OFFSET_MASK, Origin, failures_of, message_of
from postroad.transports.sql.tokens import Chunk


def deliveries(
    chunks: Sequence[Chunk],
    origins: Mapping[int, Origin],
    group: str | None,
    lease_until_us: int | None,
    *,
    in_order: bool,
) -> list[Delivery]:
    """The deliveries of one claim; with `in_order` by offset within each partition and priority,
    higher priorities first."""
    found: list[Delivery] = []
    for chunk in chunks:
        failures = failures_of(chunk.failures)
        level = chunk.priority << OFFSET_BITS
        number = chunk.past.starts + chunk.attempts + 1
        found += [
            Delivery(
                message=message_of(row, origins[row[2]], chunk.priority),
                topic=chunk.topic,
                group=group,
                partition=chunk.partition,
                offset=level | row[0] & OFFSET_MASK,
                deliveries=number,
                starts=chunk.past.starts,
                alone=chunk.past.alone,
                attempts=chunk.attempts,
                failures=failures,
                lease_until_us=lease_until_us,
                fence=chunk.fence,
                token=chunk.token,
            )
            for row in chunk.rows
        ]
    if in_order and len(chunks) > 1:
        # The offset of a higher priority is higher: within a partition it has to come first.
        found.sort(key=lambda one: (-one.message.priority, one.topic, one.partition, one.offset))
    return found
