"""The middleware on its own: what a client is told, and what reaches the application."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Response
from fastapi.responses import StreamingResponse

from postroad.errors import KeyReusedError
from postroad.idempotency import HttpPolicy, IdempotencyMiddleware, Keys
from postroad.idempotency.asgi import App, Message, Receive, Scope, Send

KEY = {"idempotency-key": '"key-1"'}
DOCS = "https://shop.example/idempotency"


class Shop:
    """An application that counts, and answers as it is told to."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, bytes]] = []
        self.status = 201
        self.parts: list[bytes] = []
        self.headers: list[tuple[bytes, bytes]] = []
        self.goes_on = asyncio.Event()
        self.goes_on.set()
        self.error: Exception | None = None
        self.extensions: Any = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            self.calls.append((scope["type"], b""))
            return
        self.extensions = scope.get("extensions")
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        self.calls.append((scope["method"], body))
        await self.goes_on.wait()
        if self.error is not None:
            raise self.error
        headers = [(b"x-order", str(len(self.calls)).encode()), *self.headers]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        for part in self.parts or [b"order %d" % len(self.calls)]:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


@pytest.fixture
def shop() -> Shop:
    return Shop()


@pytest.fixture
async def keys(tmp_path: Path) -> AsyncIterator[Keys]:
    async with Keys(f"sqlite:///{tmp_path}/keys.db") as keys:
        yield keys


Client = Callable[..., Awaitable[httpx.Response]]


def by_user(scope: Scope) -> str:
    headers: dict[bytes, bytes] = dict(scope["headers"])
    return headers.get(b"x-user", b"").decode()


@pytest.fixture
def client(shop: Shop, keys: Keys) -> Callable[..., httpx.AsyncClient]:
    def make(app: App = shop, **policy: Any) -> httpx.AsyncClient:
        wrapped = IdempotencyMiddleware(app, keys, whose=by_user, policy=HttpPolicy(**policy))
        transport = httpx.ASGITransport(wrapped)
        return httpx.AsyncClient(transport=transport, base_url="http://shop")

    return make


def problem(response: httpx.Response) -> dict[str, Any]:
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["content-language"] == "en"
    found: dict[str, Any] = response.json()
    assert found["status"] == response.status_code
    return found


# ---------------------------------------------------------------- the scenarios of the draft


async def test_a_duplicate_gets_the_stored_response(shop: Shop, client: Any) -> None:
    shop.headers = [(b"location", b"/orders/1"), (b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]
    shop.headers += [(b"date", b"then"), (b"connection", b"close")]
    http = client()
    first = await http.post("/orders", content=b"tea", headers=KEY)
    again = await http.post("/orders", content=b"tea", headers=KEY)
    assert shop.calls == [("POST", b"tea")]
    assert (again.status_code, again.content) == (201, b"order 1")
    assert (first.status_code, first.content) == (201, b"order 1")
    assert again.headers["location"] == "/orders/1"
    assert again.headers.get_list("set-cookie") == ["a=1", "b=2"]
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    assert "date" not in again.headers, "the moment of the first one is not that of this one"
    assert "connection" not in again.headers


async def test_a_key_is_missing_where_it_is_required(shop: Shop, client: Any) -> None:
    http = client(required=True, documentation=DOCS)
    response = await http.post("/orders")
    assert response.status_code == 400
    assert problem(response)["title"] == "Idempotency-Key is missing"
    assert problem(response)["type"] == DOCS
    assert response.headers["link"] == f'<{DOCS}>; rel="describedby"'
    assert shop.calls == []
    only = client(required=lambda scope: scope["path"] == "/payments")
    assert (await only.post("/payments")).status_code == 400
    assert (await only.post("/orders")).status_code == 201


@pytest.mark.parametrize("value", ["key-1", '"a", "b"', '""', '"' + "k" * 300 + '"'])
async def test_a_malformed_key_is_refused(shop: Shop, client: Any, value: str) -> None:
    response = await client().post("/orders", headers={"idempotency-key": value})
    assert response.status_code == 400
    assert problem(response)["type"] == "about:blank"
    assert "Idempotency-Key" in problem(response)["title"]
    assert shop.calls == []


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/orders", b"coffee"),
        ("POST", "/others", b"tea"),
        ("PATCH", "/orders", b"tea"),
        ("POST", "/orders?x=1", b"tea"),
    ],
)
async def test_another_request_under_the_key_is_refused(
    shop: Shop, client: Any, method: str, path: str, body: bytes
) -> None:
    http = client(documentation=DOCS)
    await http.post("/orders", content=b"tea", headers=KEY)
    response = await http.request(method, path, content=body, headers=KEY)
    assert response.status_code == 422
    assert problem(response)["title"] == "Idempotency-Key is already used"
    assert len(shop.calls) == 1


async def test_while_the_first_runs_a_duplicate_conflicts(shop: Shop, client: Any) -> None:
    shop.goes_on.clear()
    http = client()
    first = asyncio.create_task(http.post("/orders", content=b"tea", headers=KEY))
    await until(lambda: shop.calls)
    response = await http.post("/orders", content=b"tea", headers=KEY)
    assert response.status_code == 409
    assert response.headers["retry-after"] == "1"
    assert "outstanding" in problem(response)["title"]
    other = await http.post("/orders", content=b"coffee", headers=KEY)
    assert other.status_code == 422
    shop.goes_on.set()
    assert (await first).status_code == 201
    assert len(shop.calls) == 1


# ---------------------------------------------------------------- whose key it is


async def test_one_users_key_never_gives_anothers_response(shop: Shop, client: Any) -> None:
    http = client()
    ada = await http.post("/orders", content=b"tea", headers={**KEY, "x-user": "ada"})
    bob = await http.post("/orders", content=b"tea", headers={**KEY, "x-user": "bob"})
    nobody = await http.post("/orders", content=b"tea", headers=KEY)
    assert [r.content for r in (ada, bob, nobody)] == [b"order 1", b"order 2", b"order 3"]


async def test_who_it_is_may_be_asked_asynchronously(shop: Shop, keys: Keys) -> None:
    async def authenticated(scope: Scope) -> str:
        await asyncio.sleep(0)
        return by_user(scope)

    app = IdempotencyMiddleware(shop, keys, whose=authenticated)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://a") as http:
        for user, order in (("ada", b"order 1"), ("bob", b"order 2"), ("ada", b"order 1")):
            response = await http.post("/", headers={**KEY, "x-user": user})
            assert response.content == order


# ---------------------------------------------------------------- what is kept


@pytest.mark.parametrize("status", [200, 204, 303, 400, 404, 409, 422])
async def test_what_was_processed_is_kept(shop: Shop, client: Any, status: int) -> None:
    shop.status = status
    http = client()
    told = [(await http.post("/orders", headers=KEY)).status_code for _ in range(2)]
    assert told == [status, status]
    assert len(shop.calls) == 1


@pytest.mark.parametrize("status", [500, 502, 503, 504, 401, 403, 408, 425, 429])
async def test_after_a_failure_a_retry_runs_again(shop: Shop, client: Any, status: int) -> None:
    http = client()
    shop.status = status
    failed = await http.post("/orders", headers=KEY)
    assert (failed.status_code, failed.content) == (status, b"order 1")
    shop.status = 201
    assert (await http.post("/orders", headers=KEY)).content == b"order 2"
    assert (await http.post("/orders", headers=KEY)).content == b"order 2"


async def test_what_is_kept_is_configurable(shop: Shop, client: Any) -> None:
    http = client(done=lambda status: status == 201)
    shop.status = 404
    for _ in range(2):
        await http.post("/orders", headers=KEY)
    assert len(shop.calls) == 2


async def test_an_application_that_raises_frees_the_key(shop: Shop, client: Any) -> None:
    http = client()
    shop.error = KeyReusedError("of the application's own")
    with pytest.raises(KeyReusedError, match="application's own"):
        await http.post("/orders", headers=KEY)
    shop.error = None
    assert (await http.post("/orders", headers=KEY)).content == b"order 2"


async def test_a_response_without_an_end_frees_the_key(client: Any, shop: Shop) -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        if not shop.calls:
            shop.calls.append(("POST", b""))
            await send({"type": "http.response.start", "status": 200, "headers": []})
            return
        await shop(scope, receive, send)

    http = client(broken)
    with pytest.raises(AssertionError):  # httpx's own: the response has not ended
        await http.post("/orders", headers=KEY)
    assert (await http.post("/orders", headers=KEY)).content == b"order 2"


async def test_the_response_waits_until_it_is_kept(shop: Shop, keys: Keys, tmp_path: Path) -> None:
    """Sent before, a crash between the two would let a retry run again."""
    kept: list[int] = []

    async def send(_: Message) -> None:
        with sqlite3.connect(tmp_path / "keys.db") as connection:
            query = "SELECT count(*) FROM postroad_keys WHERE lease_until_us IS NULL"
            kept.append(connection.execute(query).fetchone()[0])
        connection.close()

    await IdempotencyMiddleware(shop, keys, whose=by_user)(request(), received(b"tea"), send)
    assert kept == [1, 1]


# ---------------------------------------------------------------- bounds


async def test_a_request_is_buffered_within_a_bound(shop: Shop, client: Any) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(11):
            yield b"x"

    http = client(max_request=10)
    assert (await http.post("/orders", content=b"x" * 10, headers=KEY)).status_code == 201
    other = {"idempotency-key": '"key-2"'}
    for content in (b"x" * 11, chunks()):
        response = await http.post("/orders", content=content, headers=other)
        assert response.status_code == 413
        assert "at most 10 bytes" in problem(response)["detail"]
    assert len(shop.calls) == 1


async def test_a_client_that_goes_away_while_it_sends_changes_nothing(
    shop: Shop, keys: Keys
) -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    await IdempotencyMiddleware(shop, keys, whose=by_user)(request(), receive, send)
    assert (sent, shop.calls) == ([], [])


async def test_a_response_beyond_the_bound_is_streamed_and_not_done_again(
    shop: Shop, client: Any
) -> None:
    shop.parts = [b"a" * 6, b"b" * 6, b"c" * 6]
    http = client(max_response=10)
    first = await http.post("/orders", headers=KEY)
    assert first.content == b"a" * 6 + b"b" * 6 + b"c" * 6
    again = await http.post("/orders", headers=KEY)
    assert again.status_code == 409
    assert "not kept" in problem(again)["title"]
    assert "retry-after" not in again.headers
    assert len(shop.calls) == 1


async def test_a_large_failure_is_streamed_and_done_again(shop: Shop, client: Any) -> None:
    shop.parts, shop.status = [b"a" * 20], 500
    http = client(max_response=10)
    for _ in range(2):
        assert (await http.post("/orders", headers=KEY)).content == b"a" * 20
    assert len(shop.calls) == 2


async def test_a_response_never_passes_by(shop: Shop, keys: Keys) -> None:
    """Such as a file that the server would send itself."""
    scope = {**request(), "extensions": {"http.response.pathsend": {}, "tls": {}}}

    async def send(_: Message) -> None:
        pass

    await IdempotencyMiddleware(shop, keys, whose=by_user)(scope, received(b""), send)
    assert shop.extensions == {"tls": {}}


# ---------------------------------------------------------------- what is none of its business


async def test_other_methods_and_requests_without_a_key_pass(shop: Shop, client: Any) -> None:
    http = client()
    for _ in range(2):
        await http.get("/orders", headers=KEY)
        await http.put("/orders", headers=KEY)
        await http.post("/orders")
    assert len(shop.calls) == 6
    deletes = client(methods=("delete",))
    for _ in range(2):
        await deletes.delete("/orders", headers=KEY)
    assert len(shop.calls) == 7


async def test_the_keys_are_closed_with_the_application(shop: Shop, keys: Keys) -> None:
    await keys.open()
    app = IdempotencyMiddleware(shop, keys, whose=by_user)
    await app({"type": "lifespan"}, received(b""), None)  # type: ignore[arg-type]
    assert shop.calls == [("lifespan", b"")]
    assert keys._database is None


async def test_where_keys_cannot_be_reached_nothing_is_done(
    shop: Shop, client: Any, tmp_path: Path
) -> None:
    with sqlite3.connect(tmp_path / "keys.db") as connection:
        connection.execute("DROP TABLE postroad_keys")
    connection.close()
    response = await client().post("/orders", headers=KEY)
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert problem(response)["detail"].startswith("Nothing was done")
    assert shop.calls == []


async def test_a_response_that_cannot_be_kept_is_sent_all_the_same(
    shop: Shop, keys: Keys, tmp_path: Path
) -> None:
    """It is done: a client that is told so does not ask again."""
    sent: list[Message] = []

    async def loses(scope: Scope, receive: Receive, send: Send) -> None:
        with sqlite3.connect(tmp_path / "keys.db") as connection:
            connection.execute("DROP TABLE postroad_keys")
        connection.close()
        await shop(scope, receive, send)

    async def send(message: Message) -> None:
        sent.append(message)

    app = IdempotencyMiddleware(loses, keys, whose=by_user)
    with pytest.raises(Exception, match="postroad_keys"):
        await app(request(), received(b""), send)
    assert [message.get("status") for message in sent] == [201, None]


async def test_a_response_whose_claim_was_lost_is_not_given(
    shop: Shop, keys: Keys, tmp_path: Path
) -> None:
    """Somebody else runs it, and theirs is the one that duplicates will get."""

    async def stalls(scope: Scope, receive: Receive, send: Send) -> None:
        with sqlite3.connect(tmp_path / "keys.db") as connection:
            connection.execute("UPDATE postroad_keys SET owner = zeroblob(16)")
        connection.close()
        await shop(scope, receive, send)

    http = httpx.ASGITransport(IdempotencyMiddleware(stalls, keys, whose=by_user))
    async with httpx.AsyncClient(transport=http, base_url="http://shop") as client:
        response = await client.post("/orders", headers=KEY)
    assert response.status_code == 409


async def test_it_is_middleware_of_a_framework(keys: Keys) -> None:
    app = FastAPI()
    orders: list[int] = []

    @app.post("/orders", status_code=201)
    async def order(response: Response) -> dict[str, int]:
        orders.append(1)
        response.headers["location"] = "/orders/1"
        return {"order": len(orders)}

    @app.post("/stream")
    async def stream() -> StreamingResponse:
        orders.append(1)
        return StreamingResponse(iter([b"a", b"b"]))

    app.add_middleware(IdempotencyMiddleware, keys=keys, whose=by_user)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as http:
        for _ in range(2):
            response = await http.post("/orders", headers=KEY)
            assert (response.status_code, response.json()) == (201, {"order": 1})
            assert response.headers["location"] == "/orders/1"
            other = {"idempotency-key": '"key-2"'}
            assert (await http.post("/stream", headers=other)).content == b"ab"
    assert len(orders) == 2


def request() -> dict[str, Any]:
    return {
        "type": "http",
        "method": "POST",
        "path": "/orders",
        "headers": [(b"Idempotency-Key", b'"key-1"')],
    }


def received(body: bytes) -> Receive:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - it changes in a thread
            await asyncio.sleep(0.001)
