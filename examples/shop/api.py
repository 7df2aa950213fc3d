"""The API: `uvicorn examples.shop.api:app` where the consumers run elsewhere.

It writes to its own database and nowhere else, so it answers while everything else is down.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from fastapi import FastAPI
from starlette.datastructures import Headers

from examples.shop import orders
from examples.shop.database import engine
from examples.shop.settings import DATABASE_URL
from postroad.idempotency import HttpPolicy, IdempotencyMiddleware, Keys


@asynccontextmanager
async def _alone(app: FastAPI) -> AsyncIterator[None]:
    yield
    await engine.dispose()


def make_app(lifespan: Any = _alone) -> FastAPI:
    """The application; `lifespan` is what runs beside it."""
    made = FastAPI(title="Shop", lifespan=lifespan)
    made.include_router(orders.router)
    made.add_middleware(
        IdempotencyMiddleware,
        # A key that a dead process held is free after the lease; no request takes that long.
        keys=Keys(DATABASE_URL, lease=timedelta(seconds=3)),
        whose=_customer,
        policy=HttpPolicy(required=True),
    )
    return made


def _customer(scope: Any) -> str:
    """Whose key it is: the same key of another customer is another one."""
    return Headers(scope=scope).get("x-customer", "")


app = make_app()
