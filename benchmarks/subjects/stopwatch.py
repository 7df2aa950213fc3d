"""The clock of every measurement."""

from __future__ import annotations

import gc
import time
from types import TracebackType


class Stopwatch:
    """`with Stopwatch() as watch:` … `watch.seconds`.

    Before it starts, garbage is collected and what is left is frozen: the collector runs during
    every measurement, and in none of them does it walk over what was prepared before.
    """

    seconds: float

    def __enter__(self) -> Stopwatch:
        gc.collect()
        gc.freeze()
        self._started = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.seconds = time.perf_counter() - self._started
