"""What a client is told whose request was not done: problem details (RFC 9457)."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from postroad.idempotency.asgi import Headers, Send, respond


@dataclass(frozen=True)
class Problem:
    """A kind of refusal.

    Attributes:
        status: of the response.
        title: the same for each of its kind.
        detail: what the client can do.
    """

    status: int
    title: str
    detail: str


MISSING = Problem(
    400,
    "Idempotency-Key is missing",
    'This operation needs an Idempotency-Key: a new string, such as "8e03978e-40d5", for each '
    "operation, and the same one for each retry of it.",
)
REUSED = Problem(
    422,
    "Idempotency-Key is already used",
    "This Idempotency-Key was used for another request. Nothing was done. Use a new key for a new "
    "operation, and repeat a request unchanged.",
)
OUTSTANDING = Problem(
    409,
    "A request is outstanding for this Idempotency-Key",
    "A request with this Idempotency-Key is being processed. Repeat it later for its response.",
)
NOT_KEPT = Problem(
    409,
    "The response of this Idempotency-Key was not kept",
    "The request was processed before, and is not processed again. Its response was too large to "
    "be kept; read the state of the resource instead.",
)
UNAVAILABLE = Problem(
    503,
    "Idempotency cannot be ensured now",
    "Nothing was done. Repeat the request later with the same Idempotency-Key.",
)


def malformed(reason: str) -> Problem:
    """For a key that is not in the form of the field."""
    return Problem(400, "Idempotency-Key is malformed", f"{reason[0].upper()}{reason[1:]}.")


def too_large(limit: int) -> Problem:
    """For a request that is larger than what can be compared."""
    return Problem(
        413,
        "The request is too large",
        f"A request with an Idempotency-Key has at most {limit} bytes. Nothing was done.",
    )


async def tell(
    send: Send, problem: Problem, documentation: str | None, retry_after: float | None = None
) -> None:
    """Respond with a problem.

    Args:
        send: of the request.
        problem: what happened.
        documentation: a URL where the operation's use of keys is described; links to it.
        retry_after: seconds.
    """
    body = {
        "type": documentation or "about:blank",
        "title": problem.title,
        "status": problem.status,
        "detail": problem.detail,
    }
    encoded = msgspec.json.encode(body)
    headers: Headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-language", b"en"),
        (b"content-length", str(len(encoded)).encode()),
        (b"cache-control", b"no-store"),
    ]
    if documentation is not None:
        headers.append((b"link", f'<{documentation}>; rel="describedby"'.encode()))
    if retry_after is not None:
        headers.append((b"retry-after", str(max(1, -int(-retry_after // 1))).encode()))
    await respond(send, problem.status, headers, encoded)
