"""Topics: logical channels with a name, a payload type and a key."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from operator import attrgetter, itemgetter
from typing import Any, Generic, Literal, TypedDict, TypeVar

import msgspec

from postroad.core.clock import duration_us, to_us
from postroad.core.codec import Codec, JsonCodec
from postroad.core.message import NO_HEADERS, PRIORITIES, Message, new_id
from postroad.errors import DeclarationError, EncodeError, PayloadTooLargeError

T = TypeVar("T")

_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_LONGEST_NAME = 200
_LAST_US = to_us(datetime.max.replace(tzinfo=UTC))
_TEXTS = ("key", "id", "subject", "correlation_id", "causation_id", "traceparent")
DEFAULT_PARTITIONS = 16
"""For a keyed topic: enough for the workers of one machine, few enough to poll them all."""


@dataclass(frozen=True)
class Retention:
    """How long a road keeps a topic's messages once it may forget them.

    Attributes:
        age: messages older than this go, read or not; the audit counts the unread as trimmed.
        size: the oldest go while the topic's payloads exceed so many bytes; counted likewise.
        consumed: a message goes once every group has settled it (a queue); nothing unread goes.

    None of them set keeps everything.
    """

    age: timedelta | None = None
    size: int | None = None
    consumed: bool = False

    def __post_init__(self) -> None:
        if self.age is not None and self.age <= timedelta(0):
            raise DeclarationError("Retention(age=…) must be positive")
        if self.size is not None and self.size <= 0:
            raise DeclarationError("Retention(size=…) is in bytes and must be positive")


KEEP = Retention()


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a publisher may say about one message beside its payload.

    Attributes:
        key: overrides the topic's key; the empty string is a key, None asks the topic.
        headers: further string attributes. Names as in CloudEvents extensions travel everywhere.
        id: the message's identity; publish with the same id again to let consumers deduplicate.
        delay: deliver not before so long from now; `deliver_at` is the same as an instant.
        expires_in: not to be handled later than so long from now; `expires_at` as an instant.
        priority: 0 … 9, higher first.
    """

    key: str | None = None
    headers: Mapping[str, str] = field(default_factory=lambda: NO_HEADERS)
    id: str | None = None
    subject: str | None = None
    time: datetime | None = None
    delay: timedelta | None = None
    deliver_at: datetime | None = None
    expires_in: timedelta | None = None
    expires_at: datetime | None = None
    priority: int = 0
    correlation_id: str | None = None
    causation_id: str | None = None
    traceparent: str | None = None

    def __post_init__(self) -> None:
        if self.priority not in PRIORITIES:
            raise DeclarationError(f"priority {self.priority} is not one of 0 … 9")
        if self.delay is not None and self.deliver_at is not None:
            raise DeclarationError("give delay or deliver_at, not both")
        if self.expires_in is not None and self.expires_at is not None:
            raise DeclarationError("give expires_in or expires_at, not both")

    def check_texts(self) -> None:
        """Refuse attributes that some road could not carry.

        Raises:
            EncodeError: one holds characters that cannot be encoded.
        """
        for name in _TEXTS:
            text = getattr(self, name)
            if text is not None:
                checked_text(name, text)
        for name, text in self.headers.items():
            checked_text("header's name", name)
            checked_text(f"header {name!r}", text)

    def deliver_at_us(self, now_us: int) -> int | None:
        """When it is due, in microseconds since the epoch; None is at once."""
        return _instant_us(now_us, self.delay, self.deliver_at)

    def expires_at_us(self, now_us: int) -> int | None:
        """When it expires, in microseconds since the epoch; None is never."""
        return _instant_us(now_us, self.expires_in, self.expires_at)


NO_OPTIONS = Options()


class PublishOptions(TypedDict, total=False):
    """The fields of `Options`, under the same names."""

    key: str | None
    headers: Mapping[str, str]
    id: str | None
    subject: str | None
    time: datetime | None
    delay: timedelta | None
    deliver_at: datetime | None
    expires_in: timedelta | None
    expires_at: datetime | None
    priority: int
    correlation_id: str | None
    causation_id: str | None
    traceparent: str | None


@dataclass(frozen=True, eq=False)
class Topic(Generic[T]):
    """A typed channel. Declare it once, at import time, and share it.

    Attributes:
        name: dotted words of letters, digits, `-` and `_`, e.g. `orders.created`.
        type: the payload's type: a msgspec Struct, dataclass, TypedDict, attrs class, pydantic
            model, or anything that msgspec encodes as JSON.
        key: the ordering scope of a payload: a field's name, or a function of the payload.
        partitions: how many consumers of a group can share keyed work; by default 16 with a key,
            1 without. Raising it later moves keys to other partitions.
        publish: `confirmed` returns when the message is as durable as the road declares;
            `fire-and-forget` returns at once and may lose it, counted in the metrics.
        retention: how long the road keeps messages.
        unknown_fields: `ignore` lets publishers add fields first; `reject` makes a payload with
            a field that the type lacks a dead letter.
        max_payload: in bytes; larger ones are refused at publish and dead-lettered on arrival.
        codec: encodes and decodes payloads; JSON by default.
        source: CloudEvents `source` of its messages; the road's own by default.
        owner: the team to ask, for the catalog.
        compatibility: the rule that a new version of the payload type has to keep, for the
            schema registry.

    Raises:
        DeclarationError: at construction, if anything of this cannot work.
    """

    name: str
    type: type[T]
    key: str | Callable[[T], object] | None = None
    partitions: int | None = None
    publish: Literal["confirmed", "fire-and-forget"] = "confirmed"
    retention: Retention = KEEP
    unknown_fields: Literal["ignore", "reject"] = "ignore"
    max_payload: int = 1 << 20
    codec: Codec[T] | None = None
    source: str | None = None
    owner: str | None = None
    compatibility: Literal["none", "backward", "forward", "full"] = "backward"
    encode: Callable[[T], bytes] = field(init=False, repr=False)
    decode: Callable[[bytes], T] = field(init=False, repr=False)
    content_type: str = field(init=False, repr=False)
    key_of: Callable[[T], str | None] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_topic_name(self.name)
        if self.partitions is None:
            self._set("partitions", DEFAULT_PARTITIONS if self.key is not None else 1)
        if not 1 <= self.partition_count <= 1024:
            raise DeclarationError(f"Topic({self.name!r}): partitions must be 1 … 1024")
        if self.max_payload <= 0:
            raise DeclarationError(f"Topic({self.name!r}): max_payload must be positive")
        codec: Codec[T] = self.codec or JsonCodec(
            self.type, reject_unknown=self.unknown_fields == "reject"
        )
        self._set("encode", codec.encode)
        self._set("decode", codec.decode)
        self._set("content_type", codec.content_type)
        self._set("key_of", _key_function(self))

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    @property
    def partition_count(self) -> int:
        """`partitions`, resolved."""
        return 1 if self.partitions is None else self.partitions

    def message(self, payload: T, options: Options = NO_OPTIONS) -> Outgoing:
        """A message to be published on this topic, to return or yield from a handler.

        Raises:
            EncodeError: the payload is not of the topic's type.
            PayloadTooLargeError: it is larger than `max_payload`.
        """
        return Outgoing(self, payload, options)

    def envelope(self, payload: T, now_us: int, source: str) -> Message:
        """The message of a payload without options: the hot path of publishing.

        Raises:
            EncodeError: the payload is not of the topic's type.
            PayloadTooLargeError: it is larger than `max_payload`.
        """
        data = self.encode(payload)
        if len(data) > self.max_payload:
            raise self.too_large(len(data))
        return Message(
            id=new_id(),
            type=self.name,
            source=self.source or source,
            data=data,
            time_us=now_us,
            content_type=self.content_type,
            key=self.key_of(payload),
        )

    def envelope_with(self, payload: T, options: Options, now_us: int, source: str) -> Message:
        """The message of a payload with options. Raises as `envelope` does."""
        plain = self.envelope(payload, now_us, source)
        options.check_texts()
        return msgspec.structs.replace(
            plain,
            id=options.id or plain.id,
            time_us=now_us if options.time is None else to_us(options.time),
            subject=options.subject,
            key=plain.key if options.key is None else options.key,
            headers=options.headers,
            priority=options.priority,
            deliver_at_us=options.deliver_at_us(now_us),
            expires_at_us=options.expires_at_us(now_us),
            correlation_id=options.correlation_id,
            causation_id=options.causation_id,
            traceparent=options.traceparent,
        )

    def too_large(self, size: int) -> PayloadTooLargeError:
        """The error for a payload of `size` bytes."""
        return PayloadTooLargeError(
            f"a payload of {size} bytes on {self.name!r}, which takes {self.max_payload}; "
            "raise Topic(max_payload=…) or send a reference to the data instead"
        )


class Outgoing(msgspec.Struct, frozen=True):
    """A payload on its way to a topic; made by `Topic.message`."""

    topic: Topic[Any]
    payload: Any
    options: Options = NO_OPTIONS


def check_topic_name(name: str) -> None:
    """Refuse what some road could not carry as a topic's name.

    Raises:
        DeclarationError: empty, too long, or with characters beyond letters, digits, `._-`.
    """
    if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
        raise DeclarationError(
            f"{name!r} is not a topic name: dotted words of letters, digits, - and _ "
            f"(orders.created), at most {_LONGEST_NAME} characters"
        )


def _key_function(topic: Topic[Any]) -> Callable[[Any], str | None]:
    key = topic.key
    if key is None:
        return _no_key
    if callable(key):
        read: Callable[[Any], object] = key
    else:
        _check_key_field(topic, key)
        is_mapping = issubclass(topic.type, dict) or hasattr(topic.type, "__total__")
        read = itemgetter(key) if is_mapping else attrgetter(key)

    def key_of(payload: Any) -> str | None:
        try:
            value = read(payload)
        except Exception as error:  # noqa: BLE001 - the key is a function of the user's
            name = key if isinstance(key, str) else getattr(key, "__qualname__", "function")
            raise EncodeError(
                f"no key of a payload on {topic.name!r}: {name} raised {type(error).__name__}"
            ) from None
        return None if value is None else checked_text("key", str(value))

    return key_of


def _check_key_field(topic: Topic[Any], key: str) -> None:
    known = getattr(topic.type, "__annotations__", None)
    inherited = any(key in getattr(base, "__annotations__", ()) for base in topic.type.__mro__)
    if known and not inherited and not hasattr(topic.type, key):
        raise DeclarationError(
            f"Topic({topic.name!r}): key {key!r} is no field of {topic.type.__name__}; "
            f"it has {', '.join(known)}"
        )


def _no_key(payload: object) -> None:
    return None


def checked_text(name: str, text: str) -> str:
    """The text, if every road can carry it.

    Raises:
        EncodeError: it holds half a surrogate pair, which no encoding has a form for.
    """
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise EncodeError(f"the {name} holds characters that cannot be encoded") from None
    return text


def _instant_us(now_us: int, after: timedelta | None, at: datetime | None) -> int | None:
    if after is not None:
        return min(now_us + duration_us(after), _LAST_US)
    return None if at is None else to_us(at)
