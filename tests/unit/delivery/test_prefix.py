"""The contiguous prefix: nothing is committed past what still runs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from postroad.core.delivery import Delivery, Settlement
from postroad.core.message import Message
from postroad.delivery.prefix import Prefix


def delivery(n: int, partition: int = 0) -> Delivery:
    message = Message(id=str(n), type="t", source="s", data=b"", time_us=0)
    return Delivery(message=message, topic="t", partition=partition, offset=n)


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
