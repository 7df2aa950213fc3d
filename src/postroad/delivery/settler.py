"""Settling in batches: answers collect while the last batch is on its way."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from postroad.core.clock import Clock
from postroad.core.delivery import Delivery, Partition, Settled, Settlement
from postroad.core.hooks import Hooks
from postroad.core.message import Message
from postroad.core.subscription import Subscription
from postroad.core.topic import Topic
from postroad.core.transport import AtomicSettle, Consumer
from postroad.delivery.moving import Moving
from postroad.delivery.patience import patiently
from postroad.delivery.prefix import Prefix
from postroad.delivery.publisher import CHUNK
from postroad.errors import PublishError

Results = list[tuple[Topic[Any], Message]]
Pair = tuple[Settlement, Results]
Publish = Callable[[Results], Awaitable[object]]

_UNKNOWN_WAIT = 0.2
_LONGEST_WAIT = 2.0


class Settler:
    """Answers deliveries, together with what their handlers published.

    Results and settlement commit together where the consumer can (`AtomicSettle`); elsewhere
    results are published first: a crash between the two repeats them, and loses nothing.

    On a road that settles by position an answer waits until everything before it in its partition
    is answered (`Prefix`); where both commit together, its results wait with it.

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
        moving: Moving | None = None,
    ) -> None:
        self._consumer = consumer
        self._subscription = subscription
        self._hooks = hooks
        self._clock = clock
        self._publish = publish
        self._on_settled = on_settled
        self._prefix = prefix
        self._moving = moving
        self._to_move: list[Settlement] = []
        self._move = asyncio.Event()
        self._moved = asyncio.Event()
        self._moved.set()
        self._atomic = consumer if isinstance(consumer, AtomicSettle) else None
        self._plain: list[Settlement] = []
        self._with_results: list[Pair] = []
        self._held_results: dict[int, Results] = {}
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def add(self, settlement: Settlement, results: Results | None = None) -> None:
        """Answer this soon."""
        if results:
            self._with_results.append((settlement, results))
        elif self._moving is not None and self._moving.moves(settlement):
            self._to_move.append(settlement)
            self._moved.clear()
            self._move.set()
            return
        else:
            self._plain.append(settlement)
        self._wake.set()

    def count(self, settlement: Settlement) -> None:
        """Note one that was settled elsewhere (inside its transaction)."""
        self._tell([settlement], ["done"])

    async def run(self) -> None:
        """Settle until cancelled."""
        moving = asyncio.create_task(self._run_moves(self._moving)) if self._moving else None
        settling = asyncio.create_task(self._run())
        tasks = [task for task in (settling, moving) if task is not None]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            self._idle.clear()
            # The workers that finish in this turn of the loop join the batch.
            await asyncio.sleep(0)
            await self._flush()
            if not self._wake.is_set():
                self._idle.set()

    async def _run_moves(self, moving: Moving) -> None:
        """Write to the store what is for it, then answer it on the road: beside the others, whose
        answers do not wait for a store that is slow."""
        while True:
            await self._move.wait()
            self._move.clear()
            batch, self._to_move = self._to_move, []
            held = [settlement.delivery for settlement in batch]
            # The store has no fence of this road: one that was silent too long must not write.
            owned = await patiently(self._clock, lambda: self._consumer.extend(held))  # noqa: B023
            kept = {id(delivery) for delivery in owned}
            await moving.move([one for one in batch if id(one.delivery) in kept])
            self._plain += [
                Settlement(one.delivery, "ack", "moved")
                if id(one.delivery) in kept
                else Settlement(one.delivery, "nack")
                for one in batch
            ]
            self._wake.set()
            if not self._to_move:
                self._moved.set()

    async def idle(self) -> None:
        """Return when everything added so far is answered, what is for the store is there and
        answered on its road."""
        while not self._is_idle():
            await self._moved.wait()
            await self._idle.wait()
            await asyncio.sleep(0)

    def _is_idle(self) -> bool:
        return self._moved.is_set() and self._idle.is_set() and not self._wake.is_set()

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        """Answer these now; waits out a road that cannot be reached."""
        answers = await self._known(lambda: self._consumer.settle(settlements))
        self._tell(settlements, answers)
        return answers

    async def publish(self, results: Results) -> None:
        """Publish until all of it is accepted; what is of unknown fate goes out again.

        Raises:
            PostroadError: it never will be.
        """
        rest = list(results)
        while rest:
            await patiently(self._clock, lambda: self._publish_some(rest))

    def forget(self, partitions: Sequence[Partition], kept: Iterable[Delivery] = ()) -> None:
        """Drop what is held back for the prefix of partitions that are no longer ours; `kept`
        is what came since they were ours again."""
        assert self._prefix is not None
        self._drop(self._prefix.forget(partitions, kept))

    async def _flush(self) -> None:
        plain, self._plain = self._plain, []
        pairs, self._with_results = self._with_results, []
        if self._prefix is not None:
            await self._flush_prefix(self._prefix, plain, pairs)
            return
        if pairs:
            await self._flush_results(pairs)
        if plain:
            await self.settle(plain)

    # --- by position -------------------------------------------------------------------------

    async def _flush_prefix(
        self, prefix: Prefix, plain: list[Settlement], pairs: list[Pair]
    ) -> None:
        if self._atomic is None:
            # A position cannot wait for one message's results: they go out first.
            await self.publish([entry for _, entries in pairs for entry in entries])
        else:
            self._held_results.update((id(answer.delivery), entries) for answer, entries in pairs)
        free = self._only_prefix(prefix, plain + [answer for answer, _ in pairs])
        together = [(answer, self._held_results.pop(id(answer.delivery), [])) for answer in free]
        if any(entries for _, entries in together):
            await self._flush_results(together)
        elif free:
            await self.settle(free)

    def _only_prefix(self, prefix: Prefix, answered: list[Settlement]) -> list[Settlement]:
        # A position cannot give back: what is handed back is simply not committed, nor is
        # anything behind it.
        returned = [answer for answer in answered if answer.action == "nack"]
        self._tell(returned, ["done"] * len(returned))
        self._drop(prefix.end(answer.delivery for answer in returned))
        free, stale = prefix.settle(answer for answer in answered if answer.action != "nack")
        self._drop(stale)
        return free

    def _drop(self, answers: list[Settlement]) -> None:
        """These are not committed, and what they would have published in the commit is not."""
        for answer in answers:
            self._held_results.pop(id(answer.delivery), None)
        self._tell(answers, ["stale"] * len(answers))

    # --- with results ------------------------------------------------------------------------

    async def _flush_results(self, pairs: list[Pair]) -> None:
        if self._atomic is None:
            await self.publish([entry for _, entries in pairs for entry in entries])
            await self.settle([answer for answer, _ in pairs])
            return
        answers = await self._settle_atomically(pairs)
        if len(pairs) == 1 or not {"unknown", "stale"}.intersection(answers):
            self._tell_atomic(pairs, answers)
            return
        # One that is stale undoes the others: its partition is told apart, then itself.
        for part in _apart(pairs):
            await self._flush_results(part)

    def _tell_atomic(self, pairs: list[Pair], answers: Sequence[Settled]) -> None:
        self._tell([settlement for settlement, _ in pairs], answers)
        published = Counter(
            topic.name
            for (_, results), answer in zip(pairs, answers, strict=True)
            if answer == "done"
            for topic, _ in results
        )
        for name, count in published.items():
            self._hooks.published(name, count)

    async def _settle_atomically(self, pairs: list[Pair]) -> Sequence[Settled]:
        assert self._atomic is not None
        settlements = [settlement for settlement, _ in pairs]
        results = [entry for _, entries in pairs for entry in entries]
        atomic = self._atomic
        if len(pairs) > 1:
            # An unknown one among several may owe it to a stale one: they are told apart alone.
            return await patiently(
                self._clock, lambda: atomic.settle_and_publish(settlements, results)
            )
        return await self._known(lambda: atomic.settle_and_publish(settlements, results))

    async def _known(self, call: Callable[[], Awaitable[Sequence[Settled]]]) -> Sequence[Settled]:
        """Answer again while the fate of an answer is unknown: it is idempotent, and whatever is
        not answered stays leased to us and holds up its key."""
        answers = await patiently(self._clock, call)
        wait = _UNKNOWN_WAIT
        while "unknown" in answers:
            await self._clock.sleep(wait)
            wait = min(wait * 2, _LONGEST_WAIT)
            known = await patiently(self._clock, call)
            answers = [
                after if before == "unknown" else before
                for before, after in zip(answers, known, strict=True)
            ]
        return answers

    async def _publish_some(self, rest: Results) -> None:
        """Publish one chunk and take what was accepted off `rest`."""
        chunk = rest[:CHUNK]
        try:
            await self._publish(chunk)
        except PublishError as error:
            rest[: len(chunk)] = [
                chunk[index] for index in sorted({*error.failed, *error.unknown})
            ] or chunk
            raise
        del rest[: len(chunk)]

    def _tell(self, settlements: Sequence[Settlement], answers: Sequence[Settled]) -> None:
        self._on_settled(settlements)
        if not settlements:
            return
        counts: Counter[str] = Counter()
        for settlement, answer in zip(settlements, answers, strict=True):
            counts[_name(settlement) if answer == "done" else answer] += 1
        self._hooks.settled(self._subscription, counts)


def _apart(pairs: list[Pair]) -> list[list[Pair]]:
    """By partition; those of one partition one by one, in their order."""
    parts: dict[Partition, list[Pair]] = {}
    for pair in pairs:
        delivery = pair[0].delivery
        parts.setdefault((delivery.topic, delivery.partition), []).append(pair)
    return list(parts.values()) if len(parts) > 1 else [[pair] for pair in pairs]


def _name(settlement: Settlement) -> str:
    if settlement.action == "ack":
        return settlement.outcome
    if settlement.action == "reject":
        return "dead"
    return "returned" if settlement.failure is None else "retried"
