"""What a runner has in hand, from receipt to answer: the books, the lanes, who may work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence

from postroad.core.capabilities import Capabilities
from postroad.core.clock import Clock
from postroad.core.delivery import Delivery, Partition, Settlement
from postroad.core.subscription import Subscription
from postroad.delivery.execution import Held
from postroad.delivery.holding import Holding
from postroad.delivery.lanes import Lanes
from postroad.delivery.moving import Moving
from postroad.delivery.parking import Parking, StoreParking
from postroad.delivery.prefix import Prefix
from postroad.delivery.window import Window


class Hand:
    """Every delivery that was received and whose answer the road has not heard.

    Args:
        answer: settles, soon, and in the order of the calls.

    Attributes:
        settles_first: settled before the handler: at most once, and whatever nobody could
            redeliver.
        bytes: payload bytes of the deliveries in hand.
        running: those that a handler has now.
        leaving: partitions that are being given up.
        draining: nothing is received or begun any more.
        room: set when there may be room for more.
        quiet: set when something was answered, or need not be waited for any more.
    """

    def __init__(
        self,
        subscription: Subscription,
        road: Capabilities,
        clock: Clock,
        answer: Callable[[Settlement], None],
        moving: Moving | None = None,
    ) -> None:
        sub = subscription
        self.settles_first = sub.delivery == "at-most-once" or sub.group is None
        self.lanes = Lanes(sub.order)
        self.parking: Parking | None = None
        if sub.order != "none" and not self.settles_first:
            if road.parking:
                self.parking = Parking(self.lanes, clock, answer)
            elif moving is not None and moving.retries:
                self.parking = StoreParking(self.lanes, clock, answer, moving)
        park = self.parking.park if self.parking is not None and sub.order == "key" else None
        self.holding = Holding(self.lanes, sub, clock, self.wake, park)
        self.prefix: Prefix | None = None
        if road.settling == "cumulative" and not self.settles_first:
            self.prefix = Prefix()
        at_once = sub.concurrency * (sub.batch.size if sub.batch else 1)
        self.window = Window(at_once, sub.prefetch, clock.monotonic)
        self.bytes = 0
        self.running: dict[int, Delivery] = {}
        self.leaving: set[Partition] = set()
        self.draining = False
        self.room = asyncio.Event()
        self.quiet = asyncio.Event()
        self._clock = clock
        self._held: dict[int, Delivery] = {}
        self._lost: set[int] = set()
        self._idle: list[asyncio.Future[None]] = []

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Delivery]:
        return iter(self._held.values())

    # ------------------------------------------------ the books

    def take(self, batch: Iterable[Delivery]) -> None:
        """Take a batch in, in the order of each partition's log."""
        held = self._held
        for delivery in batch:
            held[id(delivery)] = delivery
            self.bytes += len(delivery.message.data)

    def settled(self, settlements: Sequence[Settlement]) -> None:
        """The road has heard these answers."""
        held = self._held
        number = 0
        for settlement in settlements:
            delivery = held.pop(id(settlement.delivery), None)
            if delivery is not None:
                self.bytes -= len(delivery.message.data)
                number += 1
        if self.parking is not None:
            self.parking.settled(settlements)
        self.window.worked(number)
        if self._lost:
            self._lost.intersection_update(held)
        self.room.set()
        self.quiet.set()

    def lose(self, deliveries: Iterable[Delivery]) -> None:
        """These are another consumer's by now."""
        self._lost.update({id(delivery) for delivery in deliveries} & self._held.keys())

    def is_lost(self, delivery: Delivery) -> bool:
        """Whether it is another consumer's by now."""
        return bool(self._lost) and id(delivery) in self._lost

    def next(self) -> Delivery | None:
        """The next that may start and is still ours; None if there is none."""
        while (delivery := self.lanes.pop()) is not None:
            if not self._lost or id(delivery) not in self._lost:
                return delivery
            self.holding.finished(delivery)
            self.lanes.done(delivery)
            self.settled([Settlement(delivery)])
        return None

    def take_out(
        self, wanted: Callable[[Delivery], bool] = lambda _: True
    ) -> tuple[list[Held], list[Delivery]]:
        """Remove what has not started and is wanted: those that wait for their retry, and the
        others."""
        queued = self.lanes.take(wanted)
        return self.holding.drop(wanted), queued

    def of(self, partitions: Iterable[Partition]) -> list[Delivery]:
        """What is in hand of these partitions."""
        places = set(partitions)
        return [one for one in self._held.values() if (one.topic, one.partition) in places]

    # ------------------------------------------------ who works

    @property
    def starving(self) -> bool:
        """Whether a worker has nothing to do."""
        return bool(self._idle) and not len(self.lanes)

    async def wait_for_work(self) -> None:
        """Return when there may be something in the lanes."""
        waiter = asyncio.get_running_loop().create_future()
        self._idle.append(waiter)
        self.room.set()
        await waiter

    def wake(self) -> None:
        """Let as many idle workers look as there are messages that may start."""
        if not self._idle:
            return
        for _ in range(min(len(self.lanes), len(self._idle))):
            waiter = self._idle.pop()
            if not waiter.done():
                waiter.set_result(None)

    # ------------------------------------------------ waiting

    async def when(self, condition: Callable[[], bool]) -> None:
        """Return when it is true, asked whenever `quiet` is set."""
        while not condition():
            self.quiet.clear()
            await self.quiet.wait()

    async def empty(self) -> None:
        """Return when nothing is in hand."""
        await self.when(lambda: not self._held)

    async def at_rest(self) -> None:
        """Return when no handler runs."""
        await self.when(lambda: not self.running)

    async def tried(self) -> None:
        """Return when everything has had its turn: what is left waits for another one."""
        await self.when(lambda: not self.running and not len(self.lanes))

    async def until(self, condition: Callable[[], bool], deadline: float) -> None:
        """Return when it is true, asked whenever `quiet` is set; or at the deadline, by the
        monotonic clock."""
        rest = max(0.0, deadline - self._clock.monotonic())
        alarm = asyncio.create_task(self._clock.sleep(rest))
        alarm.add_done_callback(lambda _: self.quiet.set())
        try:
            while not condition() and not alarm.done():
                self.quiet.clear()
                await self.quiet.wait()
        finally:
            alarm.cancel()
