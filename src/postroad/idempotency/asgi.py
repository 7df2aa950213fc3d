"""The shapes of ASGI that the middleware handles. Reference: asgi.readthedocs.io, HTTP 2.x."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, TypeAlias

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers: TypeAlias = list[tuple[bytes, bytes]]


class Disconnected(Exception):
    """The client went away while it sent its request."""


class TooLarge(Exception):
    """The request's body is larger than what is taken."""


def values_of(scope: Scope, name: bytes) -> list[bytes]:
    """The values of a request's header fields of one name, which is in lower case."""
    headers: Iterable[tuple[bytes, bytes]] = scope["headers"]
    return [value for field, value in headers if field.lower() == name]


async def body_of(scope: Scope, receive: Receive, limit: int) -> bytes:
    """A request's whole body.

    Raises:
        TooLarge: it has more than `limit` bytes; not all of it was read.
        Disconnected: it did not come to its end.
    """
    declared = values_of(scope, b"content-length")
    if declared and declared[0].isdigit() and int(declared[0]) > limit:
        raise TooLarge
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise TooLarge
        parts.append(part)
        more = message.get("more_body", False)
    return b"".join(parts)


def again(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives a body that was read already, and then what comes."""
    given = False

    async def replayed() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


async def respond(send: Send, status: int, headers: Headers, body: bytes) -> None:
    """Send a whole response."""
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
