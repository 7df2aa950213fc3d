"""Being asked to stop: once in good order, twice at once."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable

_STOP = (signal.SIGINT, signal.SIGTERM)
_SAME = 0.5
"""Seconds in which a second signal is the same wish: a terminal, `timeout` and process managers
tell the process and its group."""


def stop_on_signals(first: Callable[[], None], again: Callable[[], None]) -> asyncio.Event:
    """An event that the first SIGINT or SIGTERM sets, after `first` was called; every further
    one, unless it comes right behind, calls `again`. For the running event loop and the main
    thread."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    told_at = 0.0

    def told() -> None:
        nonlocal told_at
        if not stop.is_set():
            told_at = loop.time()
            first()
            stop.set()
        elif loop.time() - told_at > _SAME:
            again()

    for number in _STOP:
        loop.add_signal_handler(number, told)
    return stop


def stop_with_parent(stop: asyncio.Event) -> None:
    """Set the event too when standard input ends: a supervisor holds its other end, and is gone
    then, however it ended."""
    loop = asyncio.get_running_loop()
    pipe = sys.stdin.fileno()

    def readable() -> None:
        if not os.read(pipe, 4096):
            loop.remove_reader(pipe)
            stop.set()

    loop.add_reader(pipe, readable)
