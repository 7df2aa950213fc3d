"""Numbers that a producer gives to the messages of a key, and what follows from them.

They travel as the extension `sequence` of CloudEvents, with `sequencetype` `Integer`:
https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/extensions/sequence.md. There a value
is text that sorts as it counts, so numbers are written with leading zeros; an Integer is one of 32
bits with a sign, begins with 1 and goes up by 1. What the extension lets happen after 2^31-1, a
wrap to the lowest number, cannot sort: a key that comes so far begins a new numbering instead. A
numbering has a name, which travels as our extension `sequenceepoch`; the first one's is empty.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, NamedTuple, TypeAlias

import msgspec

from postroad.core.message import Message
from postroad.errors import DeclarationError, EncodeError

NUMBER = "sequence"
TYPE = "sequencetype"
EPOCH = "sequenceepoch"
"""Names of the headers."""
INTEGER = "Integer"
LARGEST = 2**31 - 1
"""The last number of one numbering."""

_DIGITS = 10
_LONGEST_EPOCH = 64
_DECIMAL = re.compile(r"[0-9]{1,19}", re.ASCII)


@dataclass(frozen=True)
class Sequence:
    """A subscription's wish to get each key's messages in the order of their numbers, each once.

    What comes too early is held back, unsettled, until what is before it has come; what was
    handled already is dropped and counted as a duplicate.

    Attributes:
        gap: how long the first message behind missing numbers waits for them.
        on_gap: what becomes of those that have waited so long. `dead-letter` gives them up, with
            the missing numbers as the reason; the key goes on behind them. `continue` handles
            them without what is missing. In both cases a missing message that comes later is a
            dead letter, since its place is taken: redriving it handles it all the same.
        limit: how many messages one consumer holds back; above it the longest wait is over.
        limit_bytes: and how many payload bytes.
        first: the number that a key begins with. None: 1 for a group that starts with the
            earliest message, and else the first one that is seen, as the group joins somewhere
            in the middle.

    Raises:
        DeclarationError: at construction, if anything of this cannot work.
    """

    gap: timedelta = timedelta(seconds=30)
    on_gap: Literal["dead-letter", "continue"] = "dead-letter"
    limit: int = 500
    limit_bytes: int = 16 << 20
    first: int | None = None

    def __post_init__(self) -> None:
        if self.gap < timedelta(0):
            raise DeclarationError(f"Sequence(gap={self.gap}): a wait cannot be negative")
        if self.on_gap not in ("dead-letter", "continue"):
            raise DeclarationError(
                f"Sequence(on_gap={self.on_gap!r}): it is 'dead-letter' or 'continue'"
            )
        if self.limit < 1 or self.limit_bytes < 1:
            raise DeclarationError("Sequence: limit and limit_bytes must be at least 1")
        if self.first is not None and not 0 <= self.first <= LARGEST:
            raise DeclarationError(f"Sequence(first={self.first}): it is one of 0 … {LARGEST}")

    def begins(self, start: object) -> int | None:
        """The number that a key begins with for a group that starts there; None is the first one
        that is seen."""
        return 1 if self.first is None and start == "earliest" else self.first


def numbered(number: int, epoch: str = "") -> dict[str, str]:
    """The headers that give a message this number: for a producer that counts by itself.

    Args:
        number: of this message among those of its key, one more than the last one's.
        epoch: the numbering that it belongs to; give another name when numbers start anew.

    Raises:
        EncodeError: the number or the name is not one that every road carries.
    """
    if not 0 <= number <= LARGEST:
        raise EncodeError(
            f"{number} is no sequence number: one of 0 … {LARGEST}; after the last one, begin a "
            "new numbering with another epoch"
        )
    headers = {NUMBER: str(number).zfill(_DIGITS), TYPE: INTEGER}
    if epoch:
        if len(epoch) > _LONGEST_EPOCH:
            raise EncodeError(f"an epoch has at most {_LONGEST_EPOCH} characters")
        headers[EPOCH] = epoch
    return headers


def with_number(message: Message, number: int, epoch: str = "") -> Message:
    """The message with this number. Raises as `numbered` does."""
    headers = {**message.headers, **numbered(number, epoch)}
    return msgspec.structs.replace(message, headers=headers)


class LineId(NamedTuple):
    """A numbering: one of a key's."""

    topic: str
    key: str
    epoch: str = ""


def read_number(topic: str, message: Message) -> tuple[LineId, int] | str:
    """The numbering of a message and its number in it; or why it has none, for people.

    The kind of number is read from the value: whoever pads less, or names no `sequencetype`, is
    understood too.
    """
    headers = message.headers
    text = headers.get(NUMBER)
    if text is None:
        return f"it carries no {NUMBER!r} attribute"
    if message.key is None:
        return f"it carries a {NUMBER!r} attribute and no key that it could be of"
    kind = headers.get(TYPE, INTEGER)
    if kind != INTEGER:
        return f"its {TYPE!r} is not {INTEGER!r}, the only one that can be counted"
    if not _DECIMAL.fullmatch(text) or int(text) >= 2**63:
        return f"its {NUMBER!r} attribute is not a number from 0 up"
    epoch = headers.get(EPOCH, "")
    if len(epoch) > _LONGEST_EPOCH:
        return f"its {EPOCH!r} is longer than {_LONGEST_EPOCH} characters"
    return LineId(topic, message.key, epoch), int(text)


Mark: TypeAlias = Literal["settled", "missing", "dead"]
"""settled: its fate was decided before that of an earlier one. missing: given up; a message with
this number that comes now is too late. dead: a dead letter; it comes again only if it is redriven.
"""

Fate: TypeAlias = Literal["open", "repeated", "late", "redriven"]
"""What a number is to whoever gets a message with it."""


class Marked(msgspec.Struct, frozen=True, order=True):
    """Numbers from `first` to `last` with one mark.

    Attributes:
        tag: what tells the dead letter from a copy of it.
    """

    first: int
    last: int
    mark: Mark
    tag: str = ""


class Change(msgspec.Struct, frozen=True):
    """What is to be written of one numbering.

    Attributes:
        line: which one.
        first: the number that it begins with.
        next: the lowest number whose fate is open.
        removed: marks that are gone, by their first number.
        marked: marks that are new or have changed.
    """

    line: LineId
    first: int
    next: int
    removed: tuple[int, ...] = ()
    marked: tuple[Marked, ...] = ()


class Standing:
    """How far a group has come with one numbering: pure arithmetic, no clock and no messages.

    Args:
        first: the number that it begins with.
        lowest: the lowest number whose fate is open, `next`; all below are decided.
        marks: the numbers about which there is more to say, in order.
    """

    __slots__ = ("first", "marks", "next")

    def __init__(self, first: int, lowest: int, marks: tuple[Marked, ...] = ()) -> None:
        self.first = first
        self.next = lowest
        self.marks = marks

    def copy(self) -> Standing:
        """Another one that stands where this one does."""
        return Standing(self.first, self.next, self.marks)

    def at(self, number: int) -> Marked | None:
        """The mark that the number has."""
        for one in self.marks:
            if one.first <= number <= one.last:
                return one
        return None

    def fate(self, number: int, tag: str) -> Fate:
        """What a message with this number is; `tag` tells it from others with the same."""
        found = self.at(number) if self.marks else None
        if found is not None:
            redriven = found.mark == "dead" and found.tag == tag
            return "redriven" if redriven else _FATES[found.mark]
        if number < self.first:
            return "late"
        return "repeated" if number < self.next else "open"

    def settle(self, number: int) -> None:
        """It was handled, or done with in another way."""
        below = self.first <= number < self.next
        self._put(number, number, None if below else "settled")

    def miss(self, first: int, last: int) -> None:
        """These are given up: whatever has them is, or becomes, a dead letter."""
        self._put(first, last, "missing")

    def bury(self, number: int, tag: str) -> None:
        """The message with this tag is a dead letter."""
        self._put(number, number, "dead", tag)

    def unmarked(self, first: int, last: int) -> list[tuple[int, int]]:
        """The parts of `first` … `last` that have no mark."""
        parts = []
        for one in self.marks:
            if one.last < first or one.first > last:
                continue
            if one.first > first:
                parts.append((first, one.first - 1))
            first = one.last + 1
        if first <= last:
            parts.append((first, last))
        return parts

    def after(self, number: int) -> int:
        """The lowest number from this one on that has no mark."""
        for one in self.marks:
            if one.first <= number <= one.last:
                number = one.last + 1
        return number

    def since(self, line: LineId, before: Standing | None) -> Change | None:
        """What has to be written if `before` was written last; None if nothing has."""
        old = {} if before is None else {one.first: one for one in before.marks}
        new = {one.first: one for one in self.marks}
        removed = tuple(first for first in old if first not in new)
        marked = tuple(one for first, one in new.items() if old.get(first) != one)
        unmoved = self.next == (self.first if before is None else before.next)
        if unmoved and not removed and not marked:
            return None
        return Change(line, self.first, self.next, removed, marked)

    def _put(self, first: int, last: int, mark: Mark | None, tag: str = "") -> None:
        marks = [piece for one in self.marks for piece in _without(one, first, last)]
        if mark is not None:
            marks.append(Marked(first, last, mark, tag))
        self.marks = tuple(_joined(sorted(marks)))
        self.next = self.after(self.next)
        # Below `next`, and from the beginning on, settled is what needs no mark.
        self.marks = tuple(
            one
            for one in self.marks
            if not (one.mark == "settled" and self.first <= one.first and one.last < self.next)
        )


_FATES: dict[Mark, Fate] = {"settled": "repeated", "missing": "late", "dead": "repeated"}
"""Of whatever is not the very message that is marked: a copy of a dead letter is dropped, since
that is kept."""


def _without(one: Marked, first: int, last: int) -> Iterator[Marked]:
    if one.last < first or one.first > last:
        yield one
        return
    if one.first < first:
        yield Marked(one.first, first - 1, one.mark, one.tag)
    if one.last > last:
        yield Marked(last + 1, one.last, one.mark, one.tag)


def _joined(marks: list[Marked]) -> Iterator[Marked]:
    last: Marked | None = None
    for one in marks:
        alike = last is not None and (last.mark, last.tag) == (one.mark, one.tag)
        if last is not None and alike and last.last + 1 == one.first:
            last = Marked(last.first, one.last, one.mark, one.tag)
            continue
        if last is not None:
            yield last
        last = one
    if last is not None:
        yield last


def ranges(parts: list[tuple[int, int]]) -> str:
    """Numbers as people write them: `4, 7-9`."""
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)
