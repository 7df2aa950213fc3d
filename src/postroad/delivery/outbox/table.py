"""Which table an outbox is, and what its columns are called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from postroad.errors import DeclarationError

SLICES = 32
"""Parts of an outbox that relays share out; the slice of a row is written with it, so this number
never changes."""


@dataclass(frozen=True, kw_only=True)
class OutboxTable:
    """The table of an outbox. By default Postroad's own, which `postroad migrate` creates; else one
    that is there already and stays as it is. None: the table has no such column.

    Attributes:
        name: the table, perhaps with its schema: `postroad_outbox`, `shop.outbox`.
        id: the message's id. Relays also find the row by it where there is no `number`.
        aggregate_type: a word for the kind of thing; by default the topic's name is written.
        aggregate_id: the ordering scope: the message's key, empty for none.
        type: the message's type.
        payload: the encoded payload.
        created_at: when the row was added.
        processed_at: when it was published; empty until then.
        processed: a truth value that a relay sets with it.
        headers: a JSON object of text: every other attribute by its CloudEvents name, and headers.
        source: CloudEvents `source`.
        number: grows with every insert; the order of publishing.
        slice: what relays share out. Without one, a single relay is at work and others stand by.
        payload_as: what the payload's column holds: `bytes`, `text`, or `json` (also jsonb).
        instants: what the columns of instants hold: `microseconds` since the epoch, or the
            database's own `timestamp` type, in UTC where it has no zone.
        route_by: which column names the topic.
        generated_id: the database makes `id`; it is not written.

    Raises:
        DeclarationError: no relay could work with such a table.
    """

    name: str = "postroad_outbox"
    id: str = "id"
    aggregate_type: str = "aggregatetype"
    aggregate_id: str = "aggregateid"
    type: str = "type"
    payload: str = "payload"
    created_at: str = "created_at"
    processed_at: str | None = "processed_at"
    processed: str | None = None
    headers: str | None = "headers"
    source: str | None = "source"
    number: str | None = "number"
    slice: str | None = "slice"
    payload_as: Literal["bytes", "text", "json"] = "bytes"
    instants: Literal["microseconds", "timestamp"] = "microseconds"
    route_by: Literal["aggregate_type", "type"] = "aggregate_type"
    generated_id: bool = False

    def __post_init__(self) -> None:
        if self.processed_at is None and self.processed is None:
            raise DeclarationError(
                f"OutboxTable({self.name!r}): without processed= and processed_at= nobody could "
                "see what was published; name one of them"
            )
        if self.slice is not None and self.number is None:
            raise DeclarationError(f"OutboxTable({self.name!r}): slice= needs number=")

    @classmethod
    def textbook(
        cls,
        name: str = "outbox",
        *,
        payload_as: Literal["bytes", "text", "json"] = "json",
        route_by: Literal["aggregate_type", "type"] = "type",
        generated_id: bool = False,
    ) -> OutboxTable:
        """The table of the books: `id, aggregate_type, aggregate_id, event_type, payload,
        created_at, processed, processed_at`, with an index on `processed, created_at`."""
        return cls(
            name=name,
            aggregate_type="aggregate_type",
            aggregate_id="aggregate_id",
            type="event_type",
            processed="processed",
            headers=None,
            source=None,
            number=None,
            slice=None,
            payload_as=payload_as,
            instants="timestamp",
            route_by=route_by,
            generated_id=generated_id,
        )

    @property
    def slices(self) -> int:
        """How many parts of it relays can share out."""
        return 1 if self.slice is None else SLICES


OWN = OutboxTable()
"""Postroad's own."""
