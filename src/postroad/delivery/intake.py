"""Receiving: how much there is room for, and what of it goes into the lanes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta

from postroad.core.clock import Clock
from postroad.core.delivery import Delivery, Failure, Outcome, Settlement
from postroad.core.filters import split
from postroad.core.hooks import Hooks
from postroad.core.subscription import Subscription
from postroad.core.transport import Consumer, Source, Transport
from postroad.delivery.answers import Answers
from postroad.delivery.hand import Hand
from postroad.delivery.holding import blocked_share
from postroad.delivery.patience import patiently
from postroad.delivery.quarantine import Quarantine
from postroad.delivery.rate import Limiter
from postroad.delivery.resequencing import Resequencer
from postroad.delivery.settler import Settler
from postroad.delivery.shedding import Shedder

_POLL = timedelta(seconds=1)


class Intake:
    """Receives for one runner, until it is cancelled or the hand drains.

    Attributes:
        shedder: what drops under overload, if that is declared.
        apart: suspects of a crash, received and not in hand yet.
        settling_ahead: a batch is being settled before its handlers run; it would be lost.
    """

    def __init__(
        self,
        subscription: Subscription,
        transport: Transport,
        consumer: Consumer,
        hooks: Hooks,
        clock: Clock,
        *,
        hand: Hand,
        answers: Answers,
        settler: Settler,
        limiter: Limiter | None,
        quarantine: Quarantine,
    ) -> None:
        self._sub = subscription
        self._consumer = consumer
        self._hooks = hooks
        self._clock = clock
        self._hand = hand
        self._answers = answers
        self._settler = settler
        self._limiter = limiter
        self._quarantine = quarantine
        self.shedder = _make_shedder(subscription, transport, clock)
        _, self._filter = split(subscription.filter, transport.capabilities.filters)
        self._numbered = consumer if isinstance(consumer, Resequencer) else None
        self.filling = 0
        self.apart: Sequence[Delivery] = ()
        self.settling_ahead = False

    async def run(self) -> None:
        """Receive batch after batch.

        Raises:
            PostroadError: the road failed for good.
        """
        hand, consumer = self._hand, self._consumer
        while not hand.draining:
            room = await self._wait_for_room()
            if self._limiter is not None:
                room = await self._limiter.take(room)
            spare = max(1, self._spare_bytes())
            if hand.parking is not None:
                await hand.when(lambda: hand.parking is None or hand.parking.told)
                hand.parking.receiving()
            batch = await patiently(
                self._clock,
                lambda: consumer.receive(room, spare, _POLL),  # noqa: B023
            )
            if self._limiter is not None:
                self._limiter.give_back(room - len(batch))
            if batch:
                self._hooks.received(self._sub, len(batch))
                if any(delivery.starts for delivery in batch) and not hand.settles_first:
                    await self._take_apart(batch)
                else:
                    await self._begin(batch)

    async def _begin(self, batch: Sequence[Delivery]) -> None:
        consumer = self._consumer
        await self._take_in(await patiently(self._clock, lambda: consumer.begin(batch)))

    async def _take_apart(self, batch: Sequence[Delivery]) -> None:
        """Suspects of a crash run with nothing else in flight, so that another one tells more."""
        hand = self._hand
        self.apart = batch
        try:
            await hand.empty()
            async with self._quarantine.alone(hand):
                # Whoever gives a partition up meanwhile does not know of what waits apart.
                leaving = [one for one in batch if (one.topic, one.partition) in hand.leaving]
                self._answers.hand_back((), leaving)
                await self._begin([one for one in batch if one not in leaving])
                self.apart = ()
                await hand.tried()
        finally:
            self.apart = ()
        await hand.empty()

    # ------------------------------------------------ room

    async def _wait_for_room(self) -> int:
        hand = self._hand
        while True:
            # Neither what is blocked nor what waits for the prefix keeps a worker busy.
            prefix = len(hand.prefix) if hand.prefix else 0
            aside = hand.holding.behind() + prefix
            taken = min(aside, max(prefix, blocked_share(self._sub.prefetch)))
            most = min(hand.window.size(), self._sub.prefetch - taken)
            room = most - (len(hand) - aside)
            # Ask for half a window at least, so that batches stay batches; but no worker idles.
            enough = room * 2 >= most or self.filling or hand.starving
            if room > 0 and enough and self._spare_bytes() > 0:
                return room
            hand.room.clear()
            await hand.room.wait()

    def _spare_bytes(self) -> int:
        """What may be received, in bytes. What is blocked takes its share of the room at the
        most, so that the other keys always go on."""
        blocked = self._hand.holding.bytes_behind()
        most = self._sub.prefetch_bytes
        return most - min(blocked, blocked_share(most)) - (self._hand.bytes - blocked)

    # ------------------------------------------------ into the lanes

    async def _take_in(self, batch: Sequence[Delivery]) -> None:
        hand = self._hand
        if hand.settles_first:
            batch = await self._settle_ahead(batch)
        hand.take(batch)
        if hand.prefix is not None:
            hand.prefix.received(batch)
        if hand.parking is not None and await hand.parking.look(batch):
            batch = await self._still_ours(batch)
        hand.lanes.add(batch if hand.settles_first else self._sift(batch))
        hand.holding.more()
        hand.wake()

    async def _still_ours(self, batch: Sequence[Delivery]) -> Sequence[Delivery]:
        """What was neither lost nor is to be given up since it was received."""
        hand, consumer = self._hand, self._consumer
        owned = await patiently(self._clock, lambda: consumer.extend(batch))
        kept = {id(delivery) for delivery in owned}
        hand.settled([Settlement(delivery) for delivery in batch if id(delivery) not in kept])
        leaving = [one for one in owned if (one.topic, one.partition) in hand.leaving]
        self._answers.hand_back((), leaving)
        return [one for one in owned if (one.topic, one.partition) not in hand.leaving]

    async def _settle_ahead(self, batch: Sequence[Delivery]) -> Sequence[Delivery]:
        now = self._clock.now_us()
        ends = [self._end_of(delivery, now) for delivery in batch]
        answers = [
            Settlement(delivery, "ack", end or "handled")
            for delivery, end in zip(batch, ends, strict=True)
        ]
        self.settling_ahead = True
        try:
            settled = await self._settler.settle(answers)
        finally:
            self.settling_ahead = False
            self._hand.quiet.set()
        return [
            delivery
            for delivery, end, answer in zip(batch, ends, settled, strict=True)
            if answer == "done" and end is None
        ]

    def _sift(self, batch: Sequence[Delivery]) -> Iterable[Delivery]:
        """What is to be handled; the rest is answered here."""
        now = self._clock.now_us()
        shed = self.shedder.dropped(batch) if self.shedder is not None else ()
        parking = self._hand.parking
        for delivery in batch:
            if parking is not None and parking.turns_away(delivery):
                continue
            if self._numbered is not None and (known := self._numbered.verdict(delivery)):
                self._answer(known)
                continue
            end = self._end_of(delivery, now)
            if id(delivery) in shed and end is None:
                end = "shed"
            if delivery.alone >= self._sub.retry.crashes:
                self._answers.bury(Settlement(delivery, "reject", failure=_crash(delivery, now)))
            elif end is None:
                yield delivery
            else:
                self._settler.add(Settlement(delivery, "ack", end))

    def _answer(self, verdict: Settlement) -> None:
        """What a number says of its message holds without a handler."""
        if verdict.action == "ack":
            self._hooks.duplicate(self._sub, verdict.delivery)
            self._settler.add(verdict)
        else:
            if verdict.failure is not None:
                self._hooks.failed(self._sub, verdict.delivery, verdict.failure)
            self._answers.bury(verdict)

    def _end_of(self, delivery: Delivery, now_us: int) -> Outcome | None:
        """The outcome of a message that never reaches its handler; None if it does."""
        expires = delivery.message.expires_at_us
        if expires is not None and expires <= now_us:
            return "expired"
        if self._filter is not None and not self._filter.matches(delivery.message):
            return "filtered"
        return None


def _make_shedder(sub: Subscription, source: Transport, clock: Clock) -> Shedder | None:
    if sub.shed is None or sub.group is None or not isinstance(source, Source):
        return None
    return Shedder(sub.shed, source, sub.source_name, sub.group, clock)


def _crash(delivery: Delivery, now_us: int) -> Failure:
    detail = f"its process died {delivery.alone} times while nothing else was in flight"
    return Failure(reason="crash", detail=detail, at_us=now_us)
