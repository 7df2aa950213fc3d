"""The contiguous prefix: nothing is committed past what still runs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from postroad.core.delivery import Delivery, Settlement
from postroad.core.message import Message
from postroad.delivery.prefix import Prefix


def delivery(n: int, partition: int = 0, fence: int | None = None) -> Delivery:
    message = Message(id=str(n), type="t", source="s", data=b"", time_us=0)
    return Delivery(message=message, topic="t", partition=partition, offset=n, fence=fence)


def offsets(settlements: list[Settlement]) -> list[object]:
    return [settlement.delivery.offset for settlement in settlements]


def test_the_first_holds_back_the_others() -> None:
    prefix = Prefix()
    line = [delivery(n) for n in range(4)]
    prefix.received(line)
    assert prefix.settle([Settlement(line[2]), Settlement(line[1])]) == ([], [])
    assert len(prefix) == 2
    assert offsets(prefix.settle([Settlement(line[0])])[0]) == [0, 1, 2]
    assert len(prefix) == 0
    assert offsets(prefix.settle([Settlement(line[3])])[0]) == [3]


def test_partitions_do_not_wait_for_each_other() -> None:
    prefix = Prefix()
    hanging, other = delivery(0, 1), delivery(0, 2)
    prefix.received([hanging, other])
    free, _ = prefix.settle([Settlement(other)])
    assert [settlement.delivery for settlement in free] == [other]


def test_what_was_forgotten_is_never_free_again() -> None:
    prefix = Prefix()
    line = [delivery(n) for n in range(3)]
    prefix.received(line)
    prefix.settle([Settlement(line[1])])
    assert offsets(prefix.forget([("t", 0), ("t", 7)])) == [1]
    assert len(prefix) == 0
    again = [delivery(n) for n in range(3)]
    prefix.received(again)
    free, stale = prefix.settle([Settlement(line[0]), Settlement(again[0])])
    assert [settlement.delivery for settlement in free] == [again[0]]
    assert [settlement.delivery for settlement in stale] == [line[0]]


def test_what_goes_back_ends_its_line() -> None:
    prefix = Prefix()
    line = [delivery(n) for n in range(6)]
    prefix.received(line[:5])
    prefix.settle([Settlement(line[1]), Settlement(line[4])])
    assert offsets(prefix.end([line[3], line[2]])) == [4]
    prefix.received(line[5:])
    free, stale = prefix.settle([Settlement(line[5]), Settlement(line[0])])
    assert offsets(free) == [0, 1], "what stands before it may be committed"
    assert offsets(stale) == [5], "received behind the gap: committing it would settle 2 and 3"
    assert len(prefix) == 0


def test_an_ended_line_begins_anew_when_its_partition_is_forgotten() -> None:
    prefix = Prefix()
    line = [delivery(n) for n in range(2)]
    prefix.received(line)
    prefix.end(line)
    prefix.forget([("t", 0)])
    again = [delivery(n) for n in range(2)]
    prefix.received(again)
    assert prefix.end(line) == [], "of the time before"
    assert offsets(prefix.settle(Settlement(one) for one in again)[0]) == [0, 1]


def test_a_partition_that_came_back_has_a_line_of_its_own() -> None:
    prefix = Prefix()
    before = [delivery(n, fence=1) for n in range(3)]
    after = [delivery(n, fence=2) for n in range(3)]
    prefix.received(before)
    prefix.received(after)
    assert offsets(prefix.settle([Settlement(after[0]), Settlement(before[1])])[0]) == [0]
    assert offsets(prefix.forget([("t", 0)])) == [1], "the older line, which still had one open"
    free, stale = prefix.settle([Settlement(one) for one in (*after[1:], *before)])
    assert [one.delivery for one in free] == after[1:]
    assert [one.delivery for one in stale] == before


def test_what_is_kept_is_not_forgotten() -> None:
    prefix = Prefix()
    line = [delivery(n, fence=2) for n in range(2)]
    prefix.received(line)
    assert prefix.forget([("t", 0)], [line[1]]) == []
    assert offsets(prefix.settle(Settlement(one) for one in line)[0]) == [0, 1]


def test_behind_what_was_forgotten_nothing_is_committed_until_a_new_owner() -> None:
    prefix = Prefix()
    prefix.received([delivery(0, fence=2)])
    prefix.forget([("t", 0)])
    behind, anew = delivery(1, fence=2), delivery(0, fence=3)
    prefix.received([behind, anew])
    free, stale = prefix.settle([Settlement(behind), Settlement(anew)])
    assert [one.delivery for one in free] == [anew]
    assert [one.delivery for one in stale] == [behind], "committing it would settle 0"


@given(st.permutations(range(12)), st.integers(1, 12))
def test_in_any_order_the_free_ones_are_exactly_the_prefix(order: list[int], size: int) -> None:
    prefix = Prefix()
    line = [delivery(n) for n in range(12)]
    prefix.received(line)
    freed: list[object] = []
    for start in range(0, 12, size):
        freed += offsets(prefix.settle(Settlement(line[n]) for n in order[start : start + size])[0])
        answered = set(order[: start + size])
        expected = next((n for n in range(12) if n not in answered), 12)
        assert freed == list(range(expected))
        assert len(prefix) == len(answered) - expected
