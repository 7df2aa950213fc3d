"""Other embedded queues on SQLite, each as its own manual says, durable as by its default."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path

from benchmarks.subjects.order import encoded
from benchmarks.subjects.stopwatch import Stopwatch


def huey(enqueue: str, consume: str, count: int, folder: str | None = None) -> Mapping[str, float]:
    """SqliteHuey: enqueue tasks, then take and run them as a worker does."""
    from huey import SqliteHuey

    logging.getLogger("huey").setLevel(logging.WARNING)
    payloads = [one.decode() for one in encoded(count)]
    with tempfile.TemporaryDirectory(dir=folder) as place:
        queue = SqliteHuey(filename=str(Path(place) / "huey.db"))
        calls = 0

        @queue.task()
        def handler(payload: str) -> None:
            nonlocal calls
            calls += 1

        with Stopwatch() as watch:
            for payload in payloads:
                handler(payload)
        enqueued = watch.seconds
        with Stopwatch() as watch:
            while (task := queue.dequeue()) is not None:
                queue.execute(task)
        consumed = watch.seconds
        _check(calls, count)
        queue.storage.close()
    return {enqueue: count / enqueued, consume: count / consumed}


def persist_queue(put: str, get: str, count: int, folder: str | None = None) -> Mapping[str, float]:
    """persist-queue's SQLiteAckQueue: put, then get and ack."""
    from persistqueue import SQLiteAckQueue

    payloads = encoded(count)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        queue = SQLiteAckQueue(place, multithreading=True)
        with Stopwatch() as watch:
            for payload in payloads:
                queue.put(payload)
        putting = watch.seconds
        with Stopwatch() as watch:
            for _ in range(count):
                queue.ack(queue.get(block=False))
        getting = watch.seconds
        queue.close()
    return {put: count / putting, get: count / getting}


def litequeue(put: str, pop: str, count: int, folder: str | None = None) -> Mapping[str, float]:
    """litequeue: put, then pop and done. Its default is synchronous=NORMAL, and its pop grows
    slower with the depth, so the depth is part of the figure."""
    from litequeue import LiteQueue

    payloads = [one.decode() for one in encoded(count)]
    with tempfile.TemporaryDirectory(dir=folder) as place:
        queue = LiteQueue(str(Path(place) / "lite.db"))
        with Stopwatch() as watch:
            for payload in payloads:
                queue.put(payload)
        putting = watch.seconds
        popped = min(count, 500)
        with Stopwatch() as watch:
            for _ in range(popped):
                message = queue.pop()
                queue.done(message.message_id)
        popping = watch.seconds
        queue.close()
    return {put: count / putting, pop: popped / popping}


def _check(calls: int, count: int) -> None:
    if calls != count:
        raise RuntimeError(f"{calls} calls for {count} messages")
