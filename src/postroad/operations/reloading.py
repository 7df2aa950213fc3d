"""Noticing that code has changed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

from postroad.errors import MissingExtraError


async def code_changes(directory: Path) -> AsyncIterator[list[str]]:
    """The names of Python files below the directory that changed, a burst at a time. Never ends.

    Raises:
        MissingExtraError: the extra `reload` is not installed.
    """
    try:
        from watchfiles import PythonFilter, awatch
    except ImportError:
        raise MissingExtraError(
            "--reload needs watchfiles: pip install 'postroad[reload]'"
        ) from None
    async for changes in awatch(directory, watch_filter=PythonFilter()):
        yield sorted({Path(path).name for _, path in changes})
