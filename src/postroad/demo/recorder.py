"""What a worker counts, readable by another process even after the worker's SIGKILL.

The hooks of a road are where metrics attach. These write to a small file that is mapped into
memory: a write costs no system call, and what was written outlives the process.
"""

import mmap
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from postroad import Delivery, Failure, Hooks, Subscription
from postroad.demo.topics import GROUPS

RECEIVED, ANSWERED, FAILED, DEAD = range(4)
_FIELDS = 4
_BYTES = 8 * _FIELDS * len(GROUPS)


@dataclass(frozen=True)
class Record:
    """What one worker counted for one group since it started."""

    received: int
    answered: int
    failed: int
    dead: int

    @property
    def in_flight(self) -> int:
        """Messages that it holds: received and not answered."""
        return self.received - self.answered

    @property
    def retries(self) -> int:
        """Failures that were tried again."""
        return self.failed - self.dead


class Recorder(Hooks):
    """Counts for one worker: in its own memory, and in a file once one is given."""

    def __init__(self) -> None:
        self._cells = memoryview(bytearray(_BYTES)).cast("q")

    def write_to(self, path: Path) -> None:
        """Count in this file from now on, starting at zero."""
        path.write_bytes(bytes(_BYTES))
        with path.open("r+b") as file:
            self._cells = memoryview(mmap.mmap(file.fileno(), _BYTES)).cast("q")

    def received(self, subscription: Subscription, count: int) -> None:
        """See `Hooks.received`."""
        self._add(subscription, RECEIVED, count)

    def settled(self, subscription: Subscription, counts: Mapping[str, int]) -> None:
        """See `Hooks.settled`."""
        self._add(subscription, ANSWERED, sum(counts.values()))
        self._add(subscription, DEAD, counts.get("dead", 0))

    def failed(self, subscription: Subscription, delivery: Delivery, failure: Failure) -> None:
        """See `Hooks.failed`."""
        self._add(subscription, FAILED, 1)

    def _add(self, subscription: Subscription, field: int, count: int) -> None:
        if subscription.group in GROUPS:
            self._cells[GROUPS.index(subscription.group) * _FIELDS + field] += count


def read(path: Path) -> Mapping[str, Record]:
    """What a worker has counted so far, by group; all zero before its first count."""
    cells = array("q", bytes(_BYTES))
    if path.exists():
        cells = array("q", path.read_bytes() or bytes(_BYTES))
    return {
        group: Record(*cells[index * _FIELDS : (index + 1) * _FIELDS])
        for index, group in enumerate(GROUPS)
    }


def total(records: Sequence[Mapping[str, Record]], group: str) -> Record:
    """What several workers counted for one group together."""
    of_group = [record[group] for record in records]
    return Record(
        received=sum(record.received for record in of_group),
        answered=sum(record.answered for record in of_group),
        failed=sum(record.failed for record in of_group),
        dead=sum(record.dead for record in of_group),
    )
