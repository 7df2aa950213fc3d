"""Where groups stand with numbered messages, and the numbers given, while the process lives."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from postroad.core.sequence import Change, LineId, Standing


class Standings:
    """`KeepsSequences` in memory."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, LineId], Standing] = {}
        self._numbers: dict[LineId, int] = {}

    def read(self, group: str, lines: Collection[LineId]) -> Mapping[LineId, Standing]:
        """See `KeepsSequences.sequences`."""
        found = {line: self._found.get((group, line)) for line in lines}
        return {line: one.copy() for line, one in found.items() if one is not None}

    def write(self, group: str, changes: Sequence[Change]) -> None:
        """See `KeepsSequences.advance_sequences`."""
        for change in changes:
            place = (group, change.line)
            known = self._found.get(place) or Standing(change.first, change.next)
            marks = {one.first: one for one in known.marks if one.first not in change.removed}
            marks.update((one.first, one) for one in change.marked)
            after = max(known.next, change.next)
            self._found[place] = Standing(known.first, after, tuple(sorted(marks.values())))

    def forget(self, group: str, topic: str) -> None:
        """See `KeepsSequences.forget_sequences`."""
        gone = [one for one in self._found if one[0] == group and one[1].topic == topic]
        for place in gone:
            del self._found[place]

    def next_number(self, line: LineId) -> int:
        """The next number of a key; taken once `give` is told."""
        return self._numbers.get(line, 0) + 1

    def give(self, line: LineId, number: int) -> None:
        """A message with this number was accepted."""
        self._numbers[line] = number
