"""`python -m examples.shop`: API, relay and consumers in one process, under one event loop."""

from __future__ import annotations

import argparse
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI

from examples.shop.api import make_app
from examples.shop.consumers import road
from examples.shop.database import engine
from examples.shop.setup import setup
from postroad import PostroadError


@asynccontextmanager
async def _with_consumers(app: FastAPI) -> AsyncIterator[None]:
    await setup()
    try:
        async with road.consuming():  # the relay of the outbox runs in here, too
            yield
    except PostroadError:
        # A subscription failed for good. A server without its consumers only looks healthy: end
        # it, so that whoever watches over it sees that and starts it again.
        signal.raise_signal(signal.SIGTERM)
        raise
    finally:
        await engine.dispose()


def main() -> None:
    """Serve until SIGINT or SIGTERM; then what runs is finished and the rest is left for later."""
    parser = argparse.ArgumentParser(prog="python -m examples.shop")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    chosen = parser.parse_args()
    uvicorn.run(
        make_app(_with_consumers),
        host=chosen.host,
        port=chosen.port,
        timeout_graceful_shutdown=10,  # seconds; where the database is down, requests wait for it
    )


if __name__ == "__main__":
    main()
