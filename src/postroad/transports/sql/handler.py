"""A handler's own transaction on the road's database: its writes, what it publishes and the record
that its message is handled are one commit. Where there is one writer at a time, so is the
settlement; elsewhere it follows with others, and a message that comes again finds its record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, Self

from postroad.core.delivery import Delivery, Settled, Settlement
from postroad.core.message import Message
from postroad.core.topic import Topic
from postroad.storage.connection import Connection
from postroad.storage.handling import DeliveryTransaction, duplicate, lost
from postroad.storage.inbox import Records, name_of, record
from postroad.storage.statements import load
from postroad.transports.sql import sessions
from postroad.transports.sql.log import Log
from postroad.transports.sql.rows import OFFSET_MASK
from postroad.transports.sql.settle import Settling, sort
from postroad.transports.sql.tokens import Claim

_FENCE, _RECORD_HELD = load("inbox")["fence"], load("inbox")["record_held"]
_SETTLED, _HELD = load("claims")["settled"], load("retries")["held"]


class _Settles(Protocol):
    async def settle_and_publish(
        self, settlements: Sequence[Settlement], messages: Sequence[tuple[Topic[Any], Message]]
    ) -> Sequence[Settled]: ...


class HandlerTransaction(DeliveryTransaction):
    """A `Transaction`. With one writer at a time it opens at the first statement, and from then
    on has the only write lock of the database: transactional handlers take turns, and so does
    everything else that writes. Untouched, it costs nothing and settles with the others.

    Elsewhere it waits for nobody but another one with the same message. The lock of its session's
    row lets the lease be renewed; whoever would take the session's work away leaves it alone.
    """

    def __init__(
        self,
        log: Log,
        settling: Settling,
        consumer: _Settles,
        records: Records,
        delivery: Delivery,
        source: str,
    ) -> None:
        self._log = log
        self._settling = settling
        self._consumer = consumer
        self._records = records
        self._name = name_of(delivery.message)
        self._reader = 0
        transactions = log.database.transactions
        eager = not transactions.place.one_writer
        super().__init__(transactions, delivery, log.clock, source, eager=eager)

    async def __aenter__(self) -> Self:
        self._reader = await self._records.reader(self._delivery.topic)
        return await super().__aenter__()

    def _first(self, connection: Connection) -> None:
        now, delivery = self._clock.now_us(), self._delivery
        if self._eager and _record_held(connection, delivery, self._reader, self._name, now):
            return
        if self._eager:
            held = _fenced(connection, delivery)
        else:
            held = sessions.alive(connection, delivery.token.session, now) is not None
        if not held:
            raise lost(delivery)
        if not record(connection, self._reader, self._name, now):
            raise duplicate(delivery)

    def _last(self, connection: Connection) -> None:
        now = self._clock.now_us()
        if not self._eager:
            answers = sort([Settlement(self._delivery)], self._delivery.token.session)
            results = self._settling.settle(connection, answers, now, held_lock=True)
            if results[0] != "done":
                raise lost(self._delivery)
        self._log.appender.append(connection, self._published, now)

    def _done(self) -> None:
        self._log.wake()

    async def _count_duplicate(self) -> None:
        await self._records.count_duplicate(self._reader)

    async def _untouched(self) -> None:
        settlement = Settlement(self._delivery)
        results = await self._consumer.settle_and_publish([settlement], [])
        if results[0] != "done":
            raise lost(self._delivery)


def _record_held(
    connection: Connection, delivery: Delivery, reader: int, name: str, now_us: int
) -> bool:
    """All that `_first` does in one round trip, where that can be said in one statement and
    everything is as it should be."""
    token = delivery.token
    if connection.dialect != "postgresql" or not isinstance(token, Claim):
        return False
    bit = (delivery.offset & OFFSET_MASK) - token.first  # type: ignore[operator]
    values = (reader, name, now_us, token.session, token.id, bit)
    return connection.execute(_RECORD_HELD, values).rowcount == 1


def _fenced(connection: Connection, delivery: Delivery) -> bool:
    """Whether the delivery is its session's and not answered; and until the transaction ends,
    nobody else can make it another one's."""
    token = delivery.token
    if connection.execute(_FENCE, (token.session,)).fetchone() is None:
        return False
    if not isinstance(token, Claim):
        held = (token.number, token.session, token.turn)
        return connection.execute(_HELD, held).fetchone() is not None
    row = connection.execute(_SETTLED, (token.id, token.session)).fetchone()
    if row is None:
        return False
    done = int.from_bytes(row[0], "little") if row[0] else 0
    bit = (delivery.offset & OFFSET_MASK) - token.first  # type: ignore[operator]
    return not done >> bit & 1
