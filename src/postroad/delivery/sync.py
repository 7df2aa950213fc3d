"""Publishing from code without an event loop: a loop of its own in a thread of its own."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Protocol, TypeVar, Unpack

from postroad.core.delivery import Receipt
from postroad.core.topic import PublishOptions, Topic
from postroad.errors import ClosedError

T = TypeVar("T")


class _Road(Protocol):
    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def publish(
        self, topic: Topic[T], payload: T, **options: Unpack[PublishOptions]
    ) -> Receipt: ...

    async def publish_many(
        self, topic: Topic[T], payloads: Iterable[T], **options: Unpack[PublishOptions]
    ) -> list[Receipt]: ...

    async def cancel(self, message_id: str) -> bool: ...


class SyncRoad:
    """A road's publishing side for threads. Opened at its first use; safe from any thread, and
    from a forked child, which opens its own.

    Args:
        make: makes the road; called inside the new loop.
    """

    def __init__(self, make: Callable[[], _Road]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._road: _Road | None = None
        self._pid = 0
        self._closed = False

    def publish(self, topic: Topic[T], payload: T, **options: Unpack[PublishOptions]) -> Receipt:
        """As `Postroad.publish`, blocking."""
        return self._call(lambda road: road.publish(topic, payload, **options))

    def publish_many(
        self, topic: Topic[T], payloads: Iterable[T], **options: Unpack[PublishOptions]
    ) -> list[Receipt]:
        """As `Postroad.publish_many`, blocking."""
        return self._call(lambda road: road.publish_many(topic, payloads, **options))

    def cancel(self, message_id: str) -> bool:
        """As `Postroad.cancel`, blocking."""
        return self._call(lambda road: road.cancel(message_id))

    def close(self) -> None:
        """Send what was given and end the thread. Idempotent."""
        with self._lock:
            self._closed = True
            loop, road, self._loop = self._loop, self._road, None
        if loop is not None and road is not None and self._pid == os.getpid():
            asyncio.run_coroutine_threadsafe(road.close(), loop).result()
            loop.call_soon_threadsafe(loop.stop)

    def _call(self, make: Callable[[_Road], Coroutine[Any, Any, T]]) -> T:
        loop, road = self._running()
        return asyncio.run_coroutine_threadsafe(make(road), loop).result()

    def _running(self) -> tuple[asyncio.AbstractEventLoop, _Road]:
        with self._lock:
            if self._closed:
                raise ClosedError("road.sync is closed")
            # A forked child has the parent's objects without its thread: it starts afresh.
            if self._loop is None or self._road is None or self._pid != os.getpid():
                self._loop, self._road = self._start()
                self._pid = os.getpid()
            return self._loop, self._road

    def _start(self) -> tuple[asyncio.AbstractEventLoop, _Road]:
        loop = asyncio.new_event_loop()
        threading.Thread(target=_serve, args=(loop,), name="postroad-sync", daemon=True).start()

        async def make() -> _Road:
            road = self._make()
            await road.open()
            return road

        try:
            return loop, asyncio.run_coroutine_threadsafe(make(), loop).result()
        except BaseException:
            loop.call_soon_threadsafe(loop.stop)
            raise


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        loop.close()
