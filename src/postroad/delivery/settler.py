"""Settling in batches: answers collect while the last batch is on its way."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from postroad.core.clock import Clock
from postroad.core.delivery import Settled, Settlement
from postroad.core.hooks import Hooks
from postroad.core.message import Message
from postroad.core.subscription import Subscription
from postroad.core.topic import Topic
from postroad.core.transport import AtomicSettle, Consumer
from postroad.delivery.patience import patiently
from postroad.delivery.prefix import Prefix
from postroad.errors import PublishError, TransportUnavailableError

Results = list[tuple[Topic[Any], Message]]
Publish = Callable[[Results], Any]


class Settler:
    """Answers deliveries, together with what their handlers published.

    Results and settlement commit together where the consumer can (`AtomicSettle`); elsewhere
    results are published first: a crash between the two repeats them, and loses nothing.

    Args:
        publish: publishes results, returning when they are accepted.
        on_settled: told of every answered settlement, for the books of the runner.
    """

    def __init__(
        self,
        consumer: Consumer,
        subscription: Subscription,
        hooks: Hooks,
        clock: Clock,
        *,
        publish: Publish,
        on_settled: Callable[[Sequence[Settlement]], None],
        prefix: Prefix | None,
    ) -> None:
        self._consumer = consumer
        self._subscription = subscription
        self._hooks = hooks
        self._clock = clock
        self._publish = publish
        self._on_settled = on_settled
        self._prefix = prefix
        self._atomic = consumer if isinstance(consumer, AtomicSettle) else None
        self._plain: list[Settlement] = []
        self._with_results: list[tuple[Settlement, Results]] = []
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def add(self, settlement: Settlement, results: Results | None = None) -> None:
        """Answer this soon."""
        if results:
            self._with_results.append((settlement, results))
        else:
            self._plain.append(settlement)
        self._wake.set()

    def count(self, settlement: Settlement) -> None:
        """Note one that was settled elsewhere (inside its transaction)."""
        self._tell([settlement], ["done"])

    async def run(self) -> None:
        """Settle until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            self._idle.clear()
            # The workers that finish in this turn of the loop join the batch.
            await asyncio.sleep(0)
            await self._flush()
            if not self._wake.is_set():
                self._idle.set()

    async def idle(self) -> None:
        """Return when everything added so far is answered."""
        while self._wake.is_set() or not self._idle.is_set():
            await self._idle.wait()
            await asyncio.sleep(0)

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        """Answer these now; waits out a road that cannot be reached."""
        answers = await patiently(self._clock, lambda: self._consumer.settle(settlements))
        self._tell(settlements, answers)
        return answers

    async def _flush(self) -> None:
        plain, self._plain = self._plain, []
        with_results, self._with_results = self._with_results, []
        if self._prefix is not None:
            plain, with_results = await self._only_prefix(plain, with_results)
        if with_results:
            await self._flush_results(with_results)
        if plain:
            await self.settle(plain)

    async def _only_prefix(
        self, plain: list[Settlement], with_results: list[tuple[Settlement, Results]]
    ) -> tuple[list[Settlement], list[tuple[Settlement, Results]]]:
        # A position cannot wait for one message's results: they go out first.
        if with_results:
            await self._publish_all(with_results)
        assert self._prefix is not None
        answered = plain + [settlement for settlement, _ in with_results]
        # A position cannot give back: what is handed back is simply not committed.
        returned = [answer for answer in answered if answer.action == "nack"]
        self._tell(returned, ["done"] * len(returned))
        return self._prefix.settle(answer for answer in answered if answer.action != "nack"), []

    async def _flush_results(self, pairs: list[tuple[Settlement, Results]]) -> None:
        settlements = [settlement for settlement, _ in pairs]
        if self._atomic is None:
            await self._publish_all(pairs)
            await self.settle(settlements)
            return
        answers = await self._settle_atomically(pairs)
        if "unknown" in answers and len(pairs) > 1:
            for pair in pairs:
                self._tell([pair[0]], await self._settle_atomically([pair]))
        else:
            self._tell(settlements, answers)

    async def _settle_atomically(
        self, pairs: list[tuple[Settlement, Results]]
    ) -> Sequence[Settled]:
        assert self._atomic is not None
        settlements = [settlement for settlement, _ in pairs]
        results = [entry for _, entries in pairs for entry in entries]
        atomic = self._atomic
        return await patiently(self._clock, lambda: atomic.settle_and_publish(settlements, results))

    async def _publish_all(self, pairs: list[tuple[Settlement, Results]]) -> None:
        """Publish until all of it is accepted; what is of unknown fate goes out again."""
        results = [entry for _, entries in pairs for entry in entries]
        await patiently(self._clock, lambda: self._publish_rest(results))

    async def _publish_rest(self, results: Results) -> None:
        try:
            await self._publish(results)
        except PublishError as error:
            left = [results[index] for index in sorted({*error.failed, *error.unknown})]
            results[:] = left or results
            causes = [*error.failed.values(), *error.unknown.values()]
            if any(not getattr(cause, "transient", True) for cause in causes):
                raise
            raise TransportUnavailableError("results are not accepted yet") from error

    def _tell(self, settlements: Sequence[Settlement], answers: Sequence[Settled]) -> None:
        self._on_settled(settlements)
        counts: Counter[str] = Counter()
        for settlement, answer in zip(settlements, answers, strict=True):
            counts[_name(settlement) if answer == "done" else answer] += 1
        self._hooks.settled(self._subscription, counts)


def _name(settlement: Settlement) -> str:
    if settlement.action == "ack":
        return settlement.outcome
    if settlement.action == "reject":
        return "dead"
    return "returned" if settlement.failure is None else "retried"
