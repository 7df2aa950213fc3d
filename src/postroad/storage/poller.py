"""Noticing what others commit by looking now and then."""

from __future__ import annotations

import random
import threading
import time

from postroad.storage.place import Changed

_FIRST = 0.02
_LONGEST = 1.0
_TICK = 0.25


class Poller:
    """A `Watch` for databases that tell nobody anything: it has the waiting look for themselves,
    after 20 ms at first and ever later the longer they wait, up to a second (or `poll`, if that is
    shorter). All with jitter, so that processes which started together do not ask together.
    """

    def __init__(self, changed: Changed, *, poll: float) -> None:
        self._changed = changed
        self._poll = poll
        self._waiters = 0
        self._since = time.monotonic()
        self._wanted = threading.Event()
        self._started = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="postroad-poller", daemon=True)
        self._thread.start()

    def enter(self, *, fresh: bool = True) -> None:
        """Somebody waits from now on; if it is `fresh`, it is looked often again."""
        self._waiters += 1
        if fresh:
            self._since = time.monotonic()
        self._wanted.set()
        self._started.set()

    def leave(self) -> None:
        """One fewer waits."""
        self._waiters -= 1
        if not self._waiters:
            self._wanted.clear()

    def stop(self) -> None:
        """End the thread. Blocks for a moment."""
        self._stopped.set()
        self._started.set()
        self._thread.join()

    def _run(self) -> None:
        self._started.wait()
        looked = time.monotonic()
        while not self._stopped.is_set():
            interval = self._interval() * random.uniform(0.75, 1.25)
            heard = self._listen(min(_TICK, interval))
            now = time.monotonic()
            if not heard and now - looked >= interval and self._wanted.is_set():
                self._changed(None)
                heard = True
            if heard:
                looked = now
        self._end()

    def _interval(self) -> float:
        """Seconds until the next look, as things are now."""
        idle = time.monotonic() - self._since
        return min(max(_FIRST, idle / 4), _LONGEST, self._poll)

    def _listen(self, seconds: float) -> bool:
        """Wait so long at the most; whether there was news, which has been passed on."""
        self._stopped.wait(seconds)
        return False

    def _end(self) -> None:
        """Let go of what it opened."""
