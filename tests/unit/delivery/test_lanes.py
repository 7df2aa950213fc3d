"""Lanes: one message of a key at a time, different keys in parallel."""

from __future__ import annotations

from postroad.core.delivery import Delivery
from postroad.core.message import Message
from postroad.delivery.lanes import Lanes


def delivery(
    n: int, key: str | None = None, *, topic: str = "t", partition: int = 0, priority: int = 0
) -> Delivery:
    message = Message(
        id=str(n), type="t", source="s", data=b"", time_us=0, key=key, priority=priority
    )
    return Delivery(message=message, topic=topic, partition=partition)


def popped(lanes: Lanes) -> list[Delivery]:
    taken = []
    while (found := lanes.pop()) is not None:
        taken.append(found)
    return taken


def ids(deliveries: list[Delivery]) -> list[int]:
    return [int(found.message.id) for found in deliveries]


def test_without_order_everything_may_run_as_it_came() -> None:
    lanes = Lanes("none")
    lanes.add([delivery(n, "k") for n in range(3)])
    assert len(lanes) == 3
    assert ids(popped(lanes)) == [0, 1, 2]
    assert lanes.pop() is None


def test_a_key_is_busy_until_its_message_is_done() -> None:
    lanes = Lanes("key")
    lanes.add([delivery(0, "a"), delivery(1, "a"), delivery(2, "b"), delivery(3, "a")])
    first, other = popped(lanes)
    assert ids([first, other]) == [0, 2]
    assert (lanes.waiting_behind(first), lanes.waiting_behind(other)) == (2, 0)
    lanes.done(other)
    assert lanes.pop() is None
    lanes.done(first)
    (second,) = popped(lanes)
    lanes.add([delivery(4, "a"), delivery(5, "b")])
    assert ids(popped(lanes)) == [5]
    lanes.done(second)
    (third,) = popped(lanes)
    lanes.done(third)
    (fourth,) = popped(lanes)
    assert ids([second, third, fourth]) == [1, 3, 4]


def test_messages_without_a_key_wait_for_nobody() -> None:
    lanes = Lanes("key")
    lanes.add([delivery(0), delivery(1), delivery(2, "a")])
    assert ids(popped(lanes)) == [0, 1, 2]


def test_the_same_key_of_another_topic_or_priority_is_another_lane() -> None:
    lanes = Lanes("key")
    lanes.add([delivery(0, "a"), delivery(1, "a", topic="u"), delivery(2, "a", priority=5)])
    assert ids(popped(lanes)) == [0, 1, 2]


def test_total_order_is_one_lane_for_the_topic() -> None:
    lanes = Lanes("total")
    lanes.add([delivery(0, "a"), delivery(1, "b"), delivery(2)])
    (first,) = popped(lanes)
    lanes.done(first)
    assert ids(popped(lanes)) == [1]


def test_a_message_that_runs_again_keeps_its_lane() -> None:
    lanes = Lanes("key")
    lanes.add([delivery(0, "a"), delivery(1, "a")])
    (first,) = popped(lanes)
    lanes.again(first)
    assert lanes.pop() is first
    assert lanes.pop() is None


def test_taking_back_leaves_busy_lanes_busy() -> None:
    lanes = Lanes("key")
    lanes.add([delivery(0, "a"), delivery(1, "a")])
    running = lanes.pop()
    assert running is not None
    lanes.add([delivery(2, "b"), delivery(3, "b"), delivery(4, "b")])
    assert sorted(ids(lanes.take_back())) == [1, 2, 3, 4]
    lanes.add([delivery(5, "a"), delivery(6, "b")])
    assert ids(popped(lanes)) == [6]
    lanes.done(running)
    assert ids(popped(lanes)) == [5]


def test_taking_back_partitions_leaves_the_others() -> None:
    lanes = Lanes("key")
    lanes.add(
        [
            delivery(0, "a", partition=1),
            delivery(1, "b", partition=2),
            delivery(2, "a", partition=1),
            delivery(3, "b", partition=2),
        ]
    )
    assert ids(lanes.take_back([("t", 1)])) == [0, 2]
    (left,) = popped(lanes)
    lanes.done(left)
    assert ids([left, *popped(lanes)]) == [1, 3]


def test_a_key_of_which_only_the_head_is_taken_back_goes_on() -> None:
    lanes = Lanes("key")
    lanes.add([delivery(0, "a", partition=1), delivery(1, "a", partition=2)])
    assert ids(lanes.take_back([("t", 1)])) == [0]
    assert ids(popped(lanes)) == [1]
