"""A response that is held back until its record is durable, and given again to duplicates."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from postroad.idempotency.asgi import Headers, Message, Send, respond

_OF_THE_CONNECTION = frozenset(
    {b"connection", b"date", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}
)
"""Header fields of one connection or one moment, which are not given again."""
REPLAYED = (b"idempotent-replayed", b"true")
"""Tells a client that it reads the response of an earlier request."""


class Stored(msgspec.Struct, array_like=True, frozen=True):
    """A response as it is kept. `body` is None where it was too large to be."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes | None

    def packed(self) -> bytes:
        """As bytes."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def unpacked(cls, data: bytes) -> Stored:
        """Read what `packed` made."""
        return msgspec.msgpack.decode(data, type=cls)

    async def replay(self, send: Send) -> None:
        """Give it again. Its body is there."""
        assert self.body is not None
        await respond(send, self.status, [*self.headers, REPLAYED], self.body)


class HeldBack:
    """The `send` of an application whose response waits for its record.

    What has grown beyond `limit` is not held any longer: `overflow` is called first, and then it
    streams.
    """

    def __init__(
        self, send: Send, limit: int, overflow: Callable[[Stored], Awaitable[None]]
    ) -> None:
        self._send = send
        self._limit = limit
        self._overflow = overflow
        self._start: Message | None = None
        self._parts: list[bytes] = []
        self._size = 0
        self.streams = False
        self.complete = False

    async def send(self, message: Message) -> None:
        """Take what the application sends."""
        if self.streams:
            await self._send(message)
        elif message["type"] == "http.response.start":
            self._start = message
        elif message["type"] == "http.response.body":
            await self._add(message)
        else:
            await self._send(message)

    async def _add(self, message: Message) -> None:
        part = message.get("body", b"")
        self._size += len(part)
        self._parts.append(part)
        more = message.get("more_body", False)
        if self._size <= self._limit:
            self.complete = not more
            return
        await self._overflow(self.stored(kept=False))
        self.streams = True
        await self._release(more=more)

    @property
    def status(self) -> int | None:
        """Of the response; None before there is one."""
        return None if self._start is None else int(self._start["status"])

    def stored(self, *, kept: bool = True) -> Stored:
        """The response as it is kept. It has begun."""
        assert self._start is not None
        headers: Headers = [
            (bytes(name), bytes(value))
            for name, value in self._start.get("headers", ())
            if name.lower() not in _OF_THE_CONNECTION
        ]
        status = int(self._start["status"])
        return Stored(status, headers, b"".join(self._parts) if kept else None)

    async def release(self) -> None:
        """Let the whole response go."""
        await self._release(more=False)

    async def _release(self, *, more: bool) -> None:
        assert self._start is not None
        body = b"".join(self._parts)
        self._parts.clear()
        await self._send(self._start)
        await self._send({"type": "http.response.body", "body": body, "more_body": more})
