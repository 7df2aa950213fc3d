"""What the messages of the engine's model test are: each says how its handling goes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal, TypeAlias

from hypothesis import register_random
from hypothesis import strategies as st
from msgspec import Struct

from postroad.core import retry as retry_module
from postroad.core.delivery import Delivery
from postroad.core.outcome import Discard, Reject
from postroad.core.retry import Retry
from postroad.core.topic import Topic
from tests.integration.engine_life import Process

End: TypeAlias = Literal["handled", "hang", "reject", "never", "discard", "kills"]

# Waits of the same length in every run.
register_random(retry_module._rng)


class Job(Struct):
    n: int
    key: str


class Boom(Exception):
    """A failure that is tried again."""


class Never(Exception):
    """A failure that is not."""


TOPIC: Topic[Job] = Topic("jobs.model", Job, key="key", partitions=3)
messages = st.tuples(
    st.sampled_from("aabc"),
    st.sampled_from([0, 0, 0, 1, 2, 3]),
    st.sampled_from(
        ["handled", "handled", "handled", "hang", "reject", "never", "discard", "kills"]
    ),
)
retries = st.builds(
    Retry,
    attempts=st.integers(1, 3),
    backoff=st.sampled_from(["immediate", "fixed", "fixed", "exponential"]),
    first=st.just(timedelta(seconds=1)),
    never=st.just((Never,)),
    crashes=st.integers(1, 2),
    hold=st.integers(1, 3),
    on_dead=st.sampled_from(["continue", "park-key"]),
)


@dataclass(eq=False)
class Script:
    """How the handling of a message goes, and what has become of it.

    Attributes:
        fails: so many attempts fail, as the road counts them.
        runs: where a handler works on it now.
        done: the process whose handler was the last to bring it to its end.
        over: some handler has decided its end, so that the next of its key may come.
        settled: the outcome that the road has committed.
        dropped: it was a dead letter, and somebody dropped it.
        failed: how often a handler failed on it.
        crashes: how often a process died with it in hand, when it was suspected already.
        given_up: its partition went elsewhere before its handler came back.
    """

    n: int
    key: str
    fails: int
    end: End
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    runs: Process | None = None
    done: Process | None = None
    over: bool = False
    settled: str | None = None
    dropped: bool = False
    failed: int = 0
    crashes: int = 0
    given_up: bool = False

    def expected(self, retry: Retry) -> set[str]:
        """The outcomes that it may come to."""
        if self.dropped:
            return {"discarded"}
        dead = self.fails >= retry.attempts or self.end in ("reject", "never", "kills")
        ends = {"dead"} if dead else {"discarded" if self.end == "discard" else "handled"}
        return ends | {"dead"} if self.crashes >= retry.crashes else ends

    def kills(self, delivery: Delivery) -> bool:
        """Whether this attempt takes its process along."""
        return self.end == "kills" and delivery.attempts >= self.fails

    def error(self, delivery: Delivery) -> Exception | None:
        """What this attempt comes to."""
        if delivery.attempts < self.fails:
            return Boom("as scripted")
        if self.end == "reject":
            return Reject()
        if self.end == "never":
            return Never()
        return Discard() if self.end == "discard" else None

    def again(self, *, healed: bool) -> None:
        """It was a dead letter, and goes out once more."""
        self.settled = self.done = None
        self.crashes = 0
        if healed:
            self.fails, self.end = 0, "handled"


def number(delivery: Delivery) -> int:
    """Which script is a delivery's."""
    return TOPIC.decode(delivery.message.data).n
