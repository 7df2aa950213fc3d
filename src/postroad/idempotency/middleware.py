"""Idempotency-Key for HTTP, as ASGI middleware: draft-ietf-httpapi-idempotency-key-header-07.

No framework is needed, and it works with each that speaks ASGI.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Collection
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TypeAlias

from postroad.errors import (
    ClosedError,
    KeyInProgressError,
    KeyLostError,
    KeyReusedError,
    StorageError,
)
from postroad.idempotency import problems
from postroad.idempotency.asgi import (
    App,
    Disconnected,
    Receive,
    Scope,
    Send,
    TooLarge,
    again,
    body_of,
    values_of,
)
from postroad.idempotency.fields import parse
from postroad.idempotency.keys import Claim, Keys
from postroad.idempotency.problems import Problem, tell
from postroad.idempotency.responses import HeldBack, Stored

WhoseKey: TypeAlias = Callable[[Scope], str | Awaitable[str]]

_NOT_DONE = frozenset({401, 403, 407, 408, 421, 425, 429})
"""Nothing was done, and the same request may be done when it comes again."""
_RETRY_AFTER = 1.0


def done(status: int) -> bool:
    """Whether a response says that the request was processed, so that it is kept for duplicates:
    all but server errors (5xx) and 401, 403, 407, 408, 421, 425, 429, after which a retry runs
    again."""
    return status < 500 and status not in _NOT_DONE


def fingerprint(scope: Scope, body: bytes) -> bytes:
    """What makes two requests the same one: method, path, query and body, each in full."""
    parts = (
        scope["method"].encode(),
        (scope.get("root_path", "") + scope["path"]).encode("utf-8", "surrogatepass"),
        scope.get("query_string", b""),
        body,
    )
    return sha256(b"".join(len(p).to_bytes(8, "big") + p for p in parts)).digest()


@dataclass(frozen=True)
class HttpPolicy:
    """How the middleware treats requests.

    Attributes:
        methods: those that it looks at. The others of HTTP are idempotent by themselves.
        required: whether a request without a key is refused with 400, or for which requests;
            otherwise it passes untouched.
        bare: take keys without quotes too. The draft demands quotes; many clients send none.
        documentation: a URL where clients read how to use keys, and how long the window is. Every
            refusal links to it.
        max_request: bytes of a request's body; a larger one is refused with 413.
        max_response: bytes of a response's body that are held back and kept. A larger one is
            streamed; its duplicates are told that it was done, with 409.
        done: which statuses are kept; see `done`.
        fingerprint: what makes two requests the same one; see `fingerprint`. Needs a change where
            a client cannot repeat its bytes, as with the random boundary of multipart.
    """

    methods: Collection[str] = ("POST", "PATCH")
    required: bool | Callable[[Scope], bool] = False
    bare: bool = False
    documentation: str | None = None
    max_request: int = 1 << 20
    max_response: int = 1 << 20
    done: Callable[[int], bool] = field(default=done)
    fingerprint: Callable[[Scope, bytes], bytes] = field(default=fingerprint)


class IdempotencyMiddleware:
    """Runs each request with an Idempotency-Key once, and gives its response again.

    First time: the key is claimed, the application runs, its response is kept and then sent. A
    duplicate gets that response, with `Idempotent-Replayed: true`. While the first one runs it
    gets 409 and Retry-After; with another request under the same key 422; a key that is malformed,
    or missing where it is required, 400. Where the keys cannot be reached it is 503, and nothing
    is done. A response that says that nothing was done (`HttpPolicy.done`) is sent and not kept.

    A crash between the application's commit and the record leaves the key to its lease; the retry
    after it runs again. Make the application's own write a duplicate-proof one (a unique
    constraint, `processed`) where that matters.

    Args:
        app: an ASGI application.
        keys: opened at the first request, and closed when the application's lifespan ends.
        whose: whose key it is, from the request: a user, or a tenant and a user, as the
            application authenticates them. The same key of another user is another key, so that
            nobody is given the response of another. It is kept readable: no secret, no token. May
            be `async`. A request of nobody needs an answer too, such as the empty string.
        policy: see `HttpPolicy`.
    """

    def __init__(
        self, app: App, keys: Keys, *, whose: WhoseKey, policy: HttpPolicy | None = None
    ) -> None:
        self._app = app
        self._keys = keys
        self._whose = whose
        self._policy = policy or HttpPolicy()
        self._methods = frozenset(method.upper() for method in self._policy.methods)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection, as ASGI has it."""
        if scope["type"] == "lifespan":
            try:
                await self._app(scope, receive, send)
            finally:
                await self._keys.close()
        elif scope["type"] != "http" or scope["method"] not in self._methods:
            await self._app(scope, receive, send)
        else:
            await self._request(scope, receive, send)

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = values_of(scope, b"idempotency-key")
        if not given:
            if self._is_required(scope):
                await self._refuse(send, problems.MISSING)
            else:
                await self._app(scope, receive, send)
            return
        try:
            key = parse(given, bare=self._policy.bare)
            body = await body_of(scope, receive, self._policy.max_request)
        except ValueError as error:
            await self._refuse(send, problems.malformed(str(error)))
        except TooLarge:
            await self._refuse(send, problems.too_large(self._policy.max_request))
        except Disconnected:
            pass
        else:
            await self._with_key(key, body, scope, receive, send)

    async def _with_key(
        self, key: str, body: bytes, scope: Scope, receive: Receive, send: Send
    ) -> None:
        whose = self._whose(scope)
        owner = await whose if inspect.isawaitable(whose) else whose
        payload = self._policy.fingerprint(scope, body)
        async with AsyncExitStack() as stack:
            try:
                claim = await stack.enter_async_context(self._keys.claim(owner, key, payload))
            except KeyReusedError:
                await self._refuse(send, problems.REUSED)
            except KeyInProgressError:
                await self._refuse(send, problems.OUTSTANDING, _RETRY_AFTER)
            except (StorageError, ClosedError):
                await self._refuse(send, problems.UNAVAILABLE, _RETRY_AFTER)
            else:
                if claim.done:
                    await self._replay(send, Stored.unpacked(claim.result))
                else:
                    await self._first_time(claim, scope, again(body, receive), send)

    async def _first_time(self, claim: Claim, scope: Scope, receive: Receive, send: Send) -> None:
        held = HeldBack(send, self._policy.max_response, lambda s: self._overflown(claim, s))
        await self._app(_plain(scope), receive, held.send)
        if held.streams:
            return
        status = held.status
        if status is None or not held.complete or not self._policy.done(status):
            await claim.release()
            if status is not None and held.complete:
                await held.release()
            return
        try:
            await claim.store(held.stored().packed())
        except KeyLostError:
            # Somebody else runs it, and that response is the one that will be given again.
            await self._refuse(send, problems.OUTSTANDING, _RETRY_AFTER)
        except (StorageError, ClosedError):
            # It is done: a client that is told so does not repeat it. The server logs the rest.
            await held.release()
            raise
        else:
            await held.release()

    async def _overflown(self, claim: Claim, stored: Stored) -> None:
        if self._policy.done(stored.status):
            await claim.store(stored.packed())
        else:
            await claim.release()

    async def _replay(self, send: Send, stored: Stored) -> None:
        if stored.body is None:
            await self._refuse(send, problems.NOT_KEPT)
        else:
            await stored.replay(send)

    def _is_required(self, scope: Scope) -> bool:
        required = self._policy.required
        return required(scope) if callable(required) else required

    async def _refuse(self, send: Send, problem: Problem, retry_after: float | None = None) -> None:
        await tell(send, problem, self._policy.documentation, retry_after)


def _plain(scope: Scope) -> Scope:
    """A scope without the extensions by which a response would pass us by, such as a file that
    the server sends itself."""
    extensions = scope.get("extensions")
    if not extensions:
        return scope
    kept = {k: v for k, v in extensions.items() if not k.startswith("http.response.")}
    return {**scope, "extensions": kept}
