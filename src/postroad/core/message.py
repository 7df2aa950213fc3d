"""The message: a CloudEvents 1.0 envelope around payload bytes, and its UUIDv7 identity."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from datetime import datetime
from struct import Struct
from types import MappingProxyType

import msgspec

from postroad.core.clock import from_us

NO_HEADERS: Mapping[str, str] = MappingProxyType({})
PRIORITIES = range(10)
"""Priority levels, as in JMS and AMQP 0-9-1: a higher number goes first; 0 is the default."""


class Message(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One message. The attributes are those of CloudEvents 1.0 under Python names.

    Instants are kept as microseconds since the epoch (`*_us`), since a message passes many hands
    and few look at the clock; the properties without the suffix give aware UTC datetimes.

    Attributes:
        id: unique within `source`; a UUIDv7 unless the publisher chose one.
        type: CloudEvents `type`; the topic's name unless the topic says otherwise.
        source: CloudEvents `source`: the service that states the fact.
        data: the payload, encoded by the topic's codec.
        time_us: when the fact was stated.
        content_type: the media type of `data`.
        schema: CloudEvents `dataschema`.
        subject: CloudEvents `subject`.
        key: the ordering scope; travels as the CloudEvents extension `partitionkey`.
        headers: further string attributes, CloudEvents extensions on the wire.
        priority: one of `PRIORITIES`.
        deliver_at_us: not to be delivered before.
        expires_at_us: not to be handled from then on.
        correlation_id: the conversation that this message belongs to.
        causation_id: the id of the message whose handling published this one.
        traceparent: the W3C trace context.
    """

    id: str
    type: str
    source: str
    data: bytes
    time_us: int
    content_type: str = "application/json"
    schema: str | None = None
    subject: str | None = None
    key: str | None = None
    headers: Mapping[str, str] = NO_HEADERS
    priority: int = 0
    deliver_at_us: int | None = None
    expires_at_us: int | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    traceparent: str | None = None

    @property
    def time(self) -> datetime:
        """When the fact was stated."""
        return from_us(self.time_us)

    @property
    def deliver_at(self) -> datetime | None:
        """Not to be delivered before; None is at once."""
        return None if self.deliver_at_us is None else from_us(self.deliver_at_us)

    @property
    def expires_at(self) -> datetime | None:
        """Not to be handled from then on; None is never."""
        return None if self.expires_at_us is None else from_us(self.expires_at_us)

    def caused_by(self, cause: Message) -> Message:
        """This message as one that the handling of `cause` published: linked to it, and in its
        conversation and trace, as far as it does not say otherwise."""
        return msgspec.structs.replace(
            self,
            causation_id=self.causation_id or cause.id,
            correlation_id=self.correlation_id or cause.correlation_id or cause.id,
            traceparent=self.traceparent or cause.traceparent,
        )

    def __repr__(self) -> str:
        """Without payload and headers: a message ends in logs, what it carries must not."""
        key = "" if self.key is None else f", key={self.key!r}"
        return f"Message(id={self.id!r}, type={self.type!r}{key}, {len(self.data)} bytes)"


_getrandbits = random.getrandbits
_time_ns = time.time_ns
_pack = Struct(">QQ").pack


def new_id() -> str:
    """A UUIDv7 (RFC 9562 §5.7) as text: ids of one process sort by time to the microsecond.

    The 12 bits after the version hold the fraction of the millisecond (§6.2, method 3), the other
    62 are random. Not a secret: they come from the process's generator, which Python reseeds
    from the system after a fork.
    """
    milliseconds, rest = divmod(_time_ns(), 1_000_000)
    high = milliseconds << 16 | 0x7000 | rest * 4096 // 1_000_000
    text = _pack(high, 0x8000000000000000 | _getrandbits(62)).hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
