"""Running one action on an opened road."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from postroad.operations.loading import load_road

if TYPE_CHECKING:
    from postroad.app import Postroad

T = TypeVar("T")


def on_road(reference: str, action: Callable[[Postroad], Awaitable[T]]) -> T:
    """Load the road, open it, await the action, close it; returns the action's result."""

    async def opened() -> T:
        async with load_road(reference) as road:
            return await action(road)

    return asyncio.run(opened())
