"""Workers: they take from the lanes, run the handler, and pass its verdict on."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from postroad.core.clock import Clock
from postroad.core.delivery import Delivery, Settlement
from postroad.core.subscription import Subscription
from postroad.delivery.answers import Answers
from postroad.delivery.breaker import Circuit
from postroad.delivery.execution import Answer, Executor, Verdict
from postroad.delivery.hand import Hand
from postroad.delivery.intake import Intake
from postroad.delivery.quarantine import Quarantine

_FILL_EVERY = 0.005
_TURN = 64
"""Messages that a worker handles before it lets the event loop breathe."""


class Workers:
    """The workers of one runner; each `work` is one of them.

    Args:
        intake: told while a batch fills up, so that it does not wait for a whole window.
    """

    def __init__(
        self,
        subscription: Subscription,
        clock: Clock,
        *,
        hand: Hand,
        executor: Executor,
        answers: Answers,
        intake: Intake,
        circuit: Circuit | None,
        quarantine: Quarantine,
    ) -> None:
        self._batch = subscription.batch
        self._clock = clock
        self._hand = hand
        self._executor = executor
        self._answers = answers
        self._intake = intake
        self._circuit = circuit
        self._quarantine = quarantine
        self.work = self._work_batches if subscription.batch else self._work_singly

    async def _work_singly(self) -> None:
        run, finish, running = self._executor.run, self._answers.finish, self._hand.running
        circuit, quarantine = self._circuit, self._quarantine
        turn = 0
        while True:
            if quarantine.owner is not None:
                await self._rest()
            if circuit is not None:
                await circuit.permit()
            delivery = self._next()
            if delivery is None:
                if circuit is not None:
                    circuit.unanswered()
                await self._hand.wait_for_work()
                continue
            identity = id(delivery)
            running[identity] = delivery
            verdict = await run(delivery)
            del running[identity]
            if circuit is not None and _is_handled(verdict):
                circuit.succeeded()
            finish(delivery, verdict)
            turn += 1
            if turn % _TURN == 0:
                await asyncio.sleep(0)

    async def _work_batches(self) -> None:
        assert self._batch is not None
        circuit, running = self._circuit, self._hand.running
        while True:
            if self._quarantine.owner is not None:
                await self._rest()
            if circuit is not None:
                await circuit.permit()
            deliveries = self._next_up_to(self._batch.size)
            if not deliveries:
                if circuit is not None:
                    circuit.unanswered()
                await self._hand.wait_for_work()
                continue
            await self._fill(deliveries, self._batch.size, self._batch.wait)
            for delivery in deliveries:
                running[id(delivery)] = delivery
            verdicts = await self._executor.run_batch(deliveries)
            if circuit is not None and any(_is_handled(verdict) for verdict in verdicts):
                circuit.succeeded()
            for verdict in verdicts:
                delivery = _delivery_of(verdict)
                del running[id(delivery)]
                self._answers.finish(delivery, verdict)

    async def _rest(self) -> None:
        """Wait while suspects of a crash run in another runner."""
        while self._quarantine.owner not in (None, self._hand):
            self._hand.quiet.set()
            await self._quarantine.over()

    def _next(self) -> Delivery | None:
        """The next message to handle that has not expired while it was in line."""
        while (delivery := self._hand.next()) is not None:
            expires = delivery.message.expires_at_us
            if expires is None or expires > self._clock.now_us():
                return delivery
            self._answers.finish(delivery, Settlement(delivery, "ack", "expired"))
        return None

    def _next_up_to(self, size: int) -> list[Delivery]:
        taken: list[Delivery] = []
        while len(taken) < size and (delivery := self._next()) is not None:
            taken.append(delivery)
        return taken

    async def _fill(self, deliveries: list[Delivery], size: int, wait: timedelta) -> None:
        deadline = self._clock.monotonic() + wait.total_seconds()
        self._intake.filling += 1
        self._hand.room.set()
        try:
            while len(deliveries) < size and not self._hand.draining:
                rest = deadline - self._clock.monotonic()
                if rest <= 0:
                    return
                await self._clock.sleep(min(rest, _FILL_EVERY))
                deliveries.extend(self._next_up_to(size - len(deliveries)))
        finally:
            self._intake.filling -= 1


def _is_handled(verdict: Verdict) -> bool:
    settlement = verdict.settlement if isinstance(verdict, Answer) else verdict
    return isinstance(settlement, Settlement) and settlement.action == "ack"


def _delivery_of(verdict: Verdict) -> Delivery:
    if isinstance(verdict, Answer):
        return verdict.settlement.delivery
    return verdict.delivery
