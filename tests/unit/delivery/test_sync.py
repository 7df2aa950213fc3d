"""A road for threads: one loop in one thread, for all of them."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Unpack

import pytest

from postroad.core.delivery import Receipt
from postroad.core.topic import PublishOptions, Topic
from postroad.delivery.sync import SyncRoad
from postroad.errors import ClosedError, EncodeError, TransportUnavailableError

TOPIC: Topic[int] = Topic("numbers", int)


class Road:
    def __init__(self) -> None:
        self.seen: list[tuple[int, Any]] = []
        self.threads: set[int] = set()
        self.opened = self.closed = 0

    async def open(self) -> None:
        self.opened += 1

    async def close(self) -> None:
        self.closed += 1

    async def publish(
        self, topic: Topic[Any], payload: Any, **options: Unpack[PublishOptions]
    ) -> Receipt:
        self.threads.add(threading.get_ident())
        if payload < 0:
            raise EncodeError("negative")
        self.seen.append((payload, options.get("priority")))
        return Receipt(recall=str(payload))

    async def publish_many(
        self, topic: Topic[Any], payloads: Iterable[Any], **options: Unpack[PublishOptions]
    ) -> list[Receipt]:
        return [await self.publish(topic, one, **options) for one in payloads]

    async def cancel(self, message_id: str) -> bool:
        return message_id == "known"


def test_threads_share_one_road_and_one_thread() -> None:
    road = Road()
    made: list[Road] = []

    def make() -> Road:
        made.append(road)
        return road

    sync = SyncRoad(make)
    with ThreadPoolExecutor(8) as pool:
        receipts = list(pool.map(lambda n: sync.publish(TOPIC, n, priority=3), range(100)))
    assert [receipt.recall for receipt in receipts] == [str(n) for n in range(100)]
    assert sorted(road.seen) == [(n, 3) for n in range(100)]
    assert (len(made), road.opened, len(road.threads)) == (1, 1, 1)
    assert threading.get_ident() not in road.threads
    assert len(sync.publish_many(TOPIC, [1, 2, 3])) == 3
    assert (sync.cancel("known"), sync.cancel("other")) == (True, False)
    with pytest.raises(EncodeError):
        sync.publish(TOPIC, -1)
    sync.close()
    sync.close()
    assert road.closed == 1
    with pytest.raises(ClosedError):
        sync.publish(TOPIC, 1)
    for thread in threading.enumerate():
        if thread.name == "postroad-sync":
            thread.join(5)
            assert not thread.is_alive()


def test_a_road_that_cannot_be_opened_is_tried_again_at_the_next_call() -> None:
    class Away(Road):
        async def open(self) -> None:
            self.opened += 1
            if self.opened == 1:
                raise TransportUnavailableError("away")

    road = Away()
    sync = SyncRoad(lambda: road)
    with pytest.raises(TransportUnavailableError):
        sync.publish(TOPIC, 1)
    assert sync.publish(TOPIC, 2).recall == "2"
    sync.close()


def test_closing_what_was_never_used_is_nothing() -> None:
    SyncRoad(Road).close()
