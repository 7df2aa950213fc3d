"""Filters over a message's attributes: the CloudEvents Subscriptions API dialects, as values.

A filter that is a value can be split: what a road evaluates itself runs there, the rest in the
engine. `Where` takes any function and always runs in the engine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from postroad.core.message import Message


class Filter:
    """A yes or no to a message. `a & b`, `a | b` and `~a` combine."""

    dialect: ClassVar[str]

    def matches(self, message: Message) -> bool:
        """Whether the message passes. Pure; must not raise."""
        raise NotImplementedError  # a base class: every dialect below says how

    def __and__(self, other: Filter) -> Filter:
        return All((*_parts(self, All), *_parts(other, All)))

    def __or__(self, other: Filter) -> Filter:
        return Any((*_parts(self, Any), *_parts(other, Any)))

    def __invert__(self) -> Filter:
        return Not(self)


@dataclass(frozen=True)
class Exact(Filter):
    """The attribute or header is exactly `value`."""

    attribute: str
    value: str
    dialect: ClassVar[str] = "exact"

    def matches(self, message: Message) -> bool:
        return attribute(message, self.attribute) == self.value


@dataclass(frozen=True)
class Prefix(Filter):
    """The attribute or header begins with `value`."""

    attribute: str
    value: str
    dialect: ClassVar[str] = "prefix"

    def matches(self, message: Message) -> bool:
        found = attribute(message, self.attribute)
        return found is not None and found.startswith(self.value)


@dataclass(frozen=True)
class Suffix(Filter):
    """The attribute or header ends with `value`."""

    attribute: str
    value: str
    dialect: ClassVar[str] = "suffix"

    def matches(self, message: Message) -> bool:
        found = attribute(message, self.attribute)
        return found is not None and found.endswith(self.value)


@dataclass(frozen=True)
class All(Filter):
    """Every one of them passes."""

    filters: tuple[Filter, ...]
    dialect: ClassVar[str] = "all"

    def matches(self, message: Message) -> bool:
        return all(part.matches(message) for part in self.filters)


@dataclass(frozen=True)
class Any(Filter):
    """At least one of them passes."""

    filters: tuple[Filter, ...]
    dialect: ClassVar[str] = "any"

    def matches(self, message: Message) -> bool:
        return any(part.matches(message) for part in self.filters)


@dataclass(frozen=True)
class Not(Filter):
    """It does not pass."""

    filter: Filter
    dialect: ClassVar[str] = "not"

    def matches(self, message: Message) -> bool:
        return not self.filter.matches(message)


@dataclass(frozen=True)
class Where(Filter):
    """Any function of the message; runs in the engine on every road. It must not raise."""

    function: Callable[[Message], bool]
    dialect: ClassVar[str] = "where"

    def matches(self, message: Message) -> bool:
        return bool(self.function(message))


_FIELDS = {
    "id": "id",
    "type": "type",
    "source": "source",
    "subject": "subject",
    "datacontenttype": "content_type",
    "dataschema": "schema",
    "partitionkey": "key",
    "key": "key",
    "correlationid": "correlation_id",
    "causationid": "causation_id",
    "traceparent": "traceparent",
}


def attribute(message: Message, name: str) -> str | None:
    """A CloudEvents attribute or a header by name; None where the message has none."""
    field = _FIELDS.get(name)
    if field is not None:
        value: str | None = getattr(message, field)
        return value
    return message.headers.get(name)


def dialects(wanted: Filter) -> frozenset[str]:
    """Every dialect that occurs in the filter."""
    inner: tuple[Filter, ...] = ()
    if isinstance(wanted, All | Any):
        inner = wanted.filters
    elif isinstance(wanted, Not):
        inner = (wanted.filter,)
    return frozenset({wanted.dialect}).union(*(dialects(part) for part in inner))


def split(wanted: Filter | None, native: frozenset[str]) -> tuple[Filter | None, Filter | None]:
    """The part that a road with these dialects evaluates, and the residual one for the engine.

    A message passes the filter exactly if it passes both. Only a conjunction can be split; any
    other filter goes whole to the one side or the other. A road without `all` gets one conjunct.
    """
    if wanted is None:
        return None, None
    parts = _parts(wanted, All)
    there = [part for part in parts if dialects(part) <= native]
    if All.dialect not in native:
        there = there[:1]
    here = [part for part in parts if not any(part is native_one for native_one in there)]
    return _conjunction(there), _conjunction(here)


def _conjunction(parts: list[Filter]) -> Filter | None:
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else All(tuple(parts))


def _parts(wanted: Filter, kind: type[All] | type[Any]) -> tuple[Filter, ...]:
    return wanted.filters if isinstance(wanted, kind) else (wanted,)
