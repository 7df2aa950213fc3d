"""A batch and a road that refuses some of it, all of it, or is down."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from postroad.core.message import Message
from postroad.core.topic import Topic
from postroad.delivery.outbox.rows import Record
from postroad.delivery.outbox.sending import Entry, Sender, Sent
from postroad.delivery.outbox.settings import RelayHooks, RelaySettings
from postroad.errors import (
    ClosedError,
    NotFoundError,
    PayloadTooLargeError,
    PublishError,
    TransportError,
    TransportUnavailableError,
)

TOPIC: Topic[int] = Topic("numbers", int)


def entries(count: int) -> list[Entry]:
    made = []
    for number in range(count):
        message = Message(id=str(number), type="t", source="s", data=b"", time_us=1)
        record = Record(number, str(number), "numbers", None, "t", b"", 1, "s", None, "numbers")
        made.append(Entry(record, TOPIC, message))
    return made


class Road:
    """Answers calls with these errors, one after the other; then accepts."""

    def __init__(self, *errors: Exception | None) -> None:
        self.errors = list(errors)
        self.accepted: list[str] = []
        self.calls: list[int] = []

    async def publish(self, messages: Sequence[tuple[Topic[Any], Message]]) -> None:
        self.calls.append(len(messages))
        error = self.errors.pop(0) if self.errors else None
        lost: set[int] = set()
        if isinstance(error, PublishError):
            lost = {*error.failed, *error.unknown}
        elif error is not None:
            lost = set(range(len(messages)))
        self.accepted += [m.id for index, (_, m) in enumerate(messages) if index not in lost]
        if error is not None:
            raise error


class Refusing(Road):
    """Refuses a batch that has a bad message in it, as a whole."""

    def __init__(self, error: Exception, *bad: str) -> None:
        super().__init__()
        self.error = error
        self.bad = set(bad)

    async def publish(self, messages: Sequence[tuple[Topic[Any], Message]]) -> None:
        self.calls.append(len(messages))
        if self.bad & {message.id for _, message in messages}:
            raise self.error
        self.accepted += [message.id for _, message in messages]


async def send(road: Any, count: int, attempts: int = 3) -> tuple[Sent, list[float]]:
    waits: list[float] = []

    async def pause(seconds: float) -> None:
        waits.append(seconds)

    sent = Sent()
    sender = Sender(road.publish, RelaySettings(attempts=attempts), RelayHooks(), pause)
    await sender.send(entries(count), sent)
    assert {r.id for r in sent.published} == set(road.accepted)
    assert len(sent.published) + len(sent.poison) == count
    return sent, waits


def poison(sent: Sent) -> dict[str, str]:
    return {one.record.id: one.reason for one in sent.poison}


async def test_a_road_that_is_down_is_waited_for_ever_longer() -> None:
    down = TransportUnavailableError("down")
    sent, waits = await send(Road(*[down] * 12), 5, attempts=1)
    assert [r.id for r in sent.published] == list("01234")
    assert len(waits) == 12
    assert all(0.05 * 2**n <= wait <= 0.1 * 2**n for n, wait in enumerate(waits[:8]))
    assert max(waits) <= 30


async def test_only_what_failed_is_sent_again_in_its_order() -> None:
    down = TransportUnavailableError("down")
    failed = PublishError(failed={3: down}, unknown={1: down})
    road = Road(failed)
    sent, waits = await send(road, 5)
    assert road.calls == [5, 2]
    assert road.accepted == ["0", "2", "4", "1", "3"]
    assert len(waits) == 1
    assert poison(sent) == {}


async def test_what_can_never_be_published_is_poison_at_once() -> None:
    errors: dict[int, Exception] = {0: PayloadTooLargeError("big"), 2: NotFoundError("no topic")}
    sent, waits = await send(Road(PublishError(failed=errors)), 4)
    assert poison(sent) == {"0": "oversized", "2": "refused"}
    assert waits == []


async def test_what_is_refused_without_a_known_reason_has_its_attempts() -> None:
    odd = PublishError(failed={1: TransportError("odd")})
    road = Road(odd, PublishError(failed={0: TransportError("odd")}), *[TransportError("o")] * 1)
    sent, waits = await send(road, 3, attempts=3)
    assert poison(sent) == {"1": "attempts"}
    assert len(waits) == 2


@pytest.mark.parametrize("error", [PayloadTooLargeError("big"), ValueError("a payload")])
@pytest.mark.parametrize("count", [1, 2, 7, 100])
async def test_an_error_of_a_whole_batch_is_narrowed_down(error: Exception, count: int) -> None:
    bad = str(count // 3)
    road = Refusing(error, bad)
    sent, _ = await send(road, count, attempts=1)
    assert set(poison(sent)) == {bad}
    assert road.accepted == [str(n) for n in range(count) if str(n) != bad]
    assert "payload" not in sent.poison[0].detail
    assert len(road.calls) < 20


async def test_a_closed_road_is_told() -> None:
    with pytest.raises(ClosedError):
        await send(Road(ClosedError("closed")), 3)
