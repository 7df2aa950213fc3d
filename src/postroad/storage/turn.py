"""Turns at the write lock inside one process: first come, first served."""

from __future__ import annotations

import threading
from collections import deque


class Turn:
    """A lock that is handed to whoever has waited longest.

    A plain lock goes back to the thread that has just let go of it, and a writer thread under
    load would never let a handler's transaction in.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._gates: deque[threading.Lock] = deque()
        self._held = False

    def take(self, timeout: float) -> bool:
        """Wait for the turn; False if it did not come in time."""
        with self._mutex:
            if not self._held:
                self._held = True
                return True
            gate = threading.Lock()
            gate.acquire()
            self._gates.append(gate)
        if gate.acquire(timeout=timeout):
            return True
        with self._mutex:
            if gate in self._gates:
                self._gates.remove(gate)
                return False
        return True  # handed to us just as we gave up

    def leave(self) -> None:
        """Hand it to the next one."""
        with self._mutex:
            if self._gates:
                self._gates.popleft().release()
            else:
                self._held = False
