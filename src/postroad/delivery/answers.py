"""From a verdict to an answer: settled, held for its retry, parked, or handed back."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from postroad.core.clock import Clock
from postroad.core.delivery import Delivery, Failure, Settlement
from postroad.core.hooks import Hooks
from postroad.core.subscription import Subscription
from postroad.delivery.execution import Answer, Held, Verdict, describe
from postroad.delivery.hand import Hand
from postroad.delivery.settler import Results, Settler
from postroad.errors import PostroadError


class Answers:
    """Decides for one runner what the road is told.

    Args:
        parks_dead: a message that dies parks its lane.
        run_errand: runs a coroutine beside everything else until the runner ends.
    """

    def __init__(
        self,
        subscription: Subscription,
        hand: Hand,
        settler: Settler,
        hooks: Hooks,
        clock: Clock,
        *,
        parks_dead: bool,
        run_errand: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._sub = subscription
        self._hand = hand
        self._settler = settler
        self._hooks = hooks
        self._clock = clock
        self._run_errand = run_errand
        self._parking = hand.parking if parks_dead else None

    def finish(self, delivery: Delivery, verdict: Verdict) -> None:
        """The handler is done with it, for now or for good."""
        if isinstance(verdict, Held):
            self._hold(verdict)
            return
        hand = self._hand
        if hand.holding.blocked:
            hand.holding.finished(delivery)
        if (
            self._parking is not None
            and isinstance(verdict, Settlement)
            and verdict.action == "reject"
        ):
            self._parking.bury(verdict)
        else:
            hand.lanes.done(delivery)
            self._answer(delivery, verdict)
        hand.wake()
        if hand.draining:
            hand.quiet.set()

    def bury(self, reject: Settlement) -> None:
        """Reject what never comes to its handler."""
        if self._parking is not None:
            self._parking.bury(reject)
        else:
            self._settler.add(reject)

    def hand_back(self, held: Sequence[Held], queued: Sequence[Delivery]) -> None:
        """Return what will not be handled here: without an attempt, and with those it had. What
        is left of a wait goes along where the road keeps the order of the key behind it;
        elsewhere the wait is over, as its key would overtake it."""
        for one in held:
            if self._hand.parking is not None:
                self._settler.add(Settlement(one.delivery, "nack", delay=one.delay))
            else:
                self._return(one.delivery)
        for delivery in queued:
            self._return(delivery)

    def count_losses(self) -> None:
        """What is in hand at the very end and was settled before its handler is lost."""
        if self._hand.settles_first:
            for delivery in self._hand:
                self._lose(delivery, "interrupted", "its consumer was stopped")

    def _answer(self, delivery: Delivery, verdict: Settlement | Answer) -> None:
        if self._hand.settles_first:
            self._finish_settled(delivery, verdict)
        elif isinstance(verdict, Settlement):
            self._settler.add(verdict)
        elif verdict.settled:
            self._settler.count(verdict.settlement)
        else:
            self._settler.add(verdict.settlement, verdict.results)

    def _hold(self, held: Held) -> None:
        hand, delivery = self._hand, held.delivery
        place = (delivery.topic, delivery.partition)
        if hand.draining or (place in hand.leaving and not hand.settles_first):
            hand.holding.finished(delivery)
            # Nor may what stands behind it run before it.
            behind = [] if hand.settles_first else hand.lanes.take_back([place])
            hand.lanes.done(delivery)
            self.hand_back([held], behind)
        else:
            hand.holding.hold(held)
        hand.room.set()
        hand.quiet.set()

    def _return(self, delivery: Delivery) -> None:
        if self._hand.settles_first:
            self._lose(delivery, "interrupted", "its consumer was stopped")
            self._hand.settled([Settlement(delivery)])
        else:
            self._settler.add(Settlement(delivery, "nack"))

    # ------------------------------------------------ what was settled before its handler

    def _finish_settled(self, delivery: Delivery, verdict: Settlement | Answer) -> None:
        if isinstance(verdict, Answer) and verdict.results:
            self._run_errand(self._publish_results(delivery, verdict.results))
            return
        settlement = verdict.settlement if isinstance(verdict, Answer) else verdict
        if settlement.failure is not None:
            self._hooks.lost(self._sub, delivery.message, settlement.failure)
        elif settlement.outcome == "expired":
            self._lose(delivery, "expired", "it expired while it waited for its handler")
        self._hand.settled([settlement])

    async def _publish_results(self, delivery: Delivery, results: Results) -> None:
        try:
            await self._settler.publish(results)
        except PostroadError as error:
            failure = describe(error, self._clock.now_us())
            self._hooks.lost(self._sub, delivery.message, failure)
        self._hand.settled([Settlement(delivery)])

    def _lose(self, delivery: Delivery, reason: str, detail: str) -> None:
        """Count the loss of what was settled and will not be handled."""
        failure = Failure(reason=reason, detail=detail, at_us=self._clock.now_us())
        last = delivery.failures[-1] if delivery.failures else failure
        self._hooks.lost(self._sub, delivery.message, last)
