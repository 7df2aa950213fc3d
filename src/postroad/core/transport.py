"""The seam: what a road has to be for the engine. Small, batch-shaped, pull-shaped.

Not calling `receive` is the backpressure, also over brokers that push. Every method is called
from one event loop. A transport raises only `postroad.errors`; a driver's error never passes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol, runtime_checkable

import msgspec

from postroad.core.capabilities import Capabilities
from postroad.core.delivery import (
    Delivery,
    Failure,
    Partition,
    Receipt,
    Settled,
    Settlement,
    Start,
)
from postroad.core.filters import Filter
from postroad.core.flow import Rate
from postroad.core.message import Message
from postroad.core.notices import Notice
from postroad.core.reports import Account, DeadLetter, Lag, TopicInfo
from postroad.core.sequence import Change, LineId, Standing
from postroad.core.subscription import Subscription
from postroad.core.topic import Topic


@dataclass(frozen=True)
class Plan:
    """What the check decided that the road does itself for one subscription.

    Attributes:
        filter: the native part; the engine does the residual one.
        lease: how long deliveries may be held without `extend`.
        ordered: the group needs each partition to have one owner at a time.
        parks: a message that dies parks its lane: see `Capabilities.parking`.
    """

    filter: Filter | None = None
    lease: timedelta = timedelta(seconds=30)
    ordered: bool = False
    parks: bool = False


class Transport(Protocol):
    """A road that can be published to."""

    @property
    def capabilities(self) -> Capabilities:
        """What this configured instance does natively; constant after construction."""
        ...

    async def open(
        self, topics: Sequence[Topic[Any]], subscriptions: Sequence[Subscription]
    ) -> None:
        """Connect; create or verify what was declared, groups included. Idempotent over
        processes: two that declare the same at once both succeed.

        Raises:
            TopicMismatchError: the road holds a topic with settings that cannot be changed.
        """
        ...

    async def publish(self, messages: Sequence[tuple[Topic[Any], Message]]) -> Sequence[Receipt]:
        """Accept a batch. Returns when all of it is as durable as declared, in order.

        Cancelling the call leaves the fate of the batch open: it may be accepted.

        Raises:
            PublishError: says for each message that is not accepted, or may not be.
        """
        ...

    def notices(self) -> AsyncIterator[Notice]:
        """What happens to the publishing side; ends when the transport is closed."""
        ...

    async def close(self) -> None:
        """Finish what was accepted, let go of everything. Idempotent, also ten at once."""
        ...


class Consumer(Protocol):
    """One member of a group, or one ephemeral reader. Used by one runner."""

    async def receive(self, limit: int, max_bytes: int, wait: timedelta) -> Sequence[Delivery]:
        """Up to `limit` messages and about `max_bytes` payload bytes, at least one if there is
        any; returns empty after `wait`. Each is leased from now on. Within a partition they come
        in the order of the log. Cancellable: what was leased for a cancelled call is given back.
        """
        ...

    async def begin(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """Mark durably that work on them starts, one write a batch (or none). Returns those
        still owned."""
        ...

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        """Answer deliveries; returns when durable. Idempotent: a second answer is `stale` or
        `done` and changes nothing."""
        ...

    async def extend(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """Renew leases, and the consumer's membership (also with no deliveries). Returns those
        still owned."""
        ...

    async def pause(self, partitions: Sequence[Partition]) -> None:
        """Receive nothing from them until `resume`; ownership stays."""
        ...

    async def resume(self, partitions: Sequence[Partition]) -> None:
        """Undo `pause`."""
        ...

    async def release(self, partitions: Sequence[Partition]) -> None:
        """End a revocation: what is in flight from them is settled or given up."""
        ...

    def notices(self) -> AsyncIterator[Notice]:
        """What happens to this consumer; ends when it is closed. A notice may be read late: what
        was received of a partition before its loss and after it came back tell themselves apart
        by `extend`, which returns what is still owned."""
        ...

    async def close(self) -> None:
        """Leave; hand what is unsettled back without an attempt. Idempotent."""
        ...


@runtime_checkable
class Source(Protocol):
    """A road that can be read."""

    async def topics(self, pattern: str) -> Sequence[TopicInfo]:
        """The topics on the road that fit."""
        ...

    async def subscribe(self, subscription: Subscription, plan: Plan) -> Consumer:
        """Join the group (creating it at `subscription.start` if it is new)."""
        ...

    async def browse(self, topic: str, start: Start, limit: int) -> Sequence[Delivery]:
        """Read without a group and without effect, oldest first within a partition. To go on,
        give the position after the last one; a `Position` reads its partition only.

        Raises:
            NotFoundError: no such topic.
            NotSupportedError: the road keeps nothing to browse.
        """
        ...

    async def seek(self, topic: str, group: str, to: Start) -> None:
        """Move a group. Its unsettled messages are forgotten, but for those that retention has
        removed from the log since they were read; the audit starts anew.

        Raises:
            GroupActiveError: it has live consumers.
            NotFoundError: no such topic or group.
        """
        ...

    async def lag(self, topic: str, group: str) -> Lag:
        """How far a group is behind; needs no consumer.

        Raises:
            NotFoundError: no such topic or group.
        """
        ...


@runtime_checkable
class AtomicSettle(Protocol):
    """A consumer whose settlements and results commit together."""

    async def settle_and_publish(
        self, settlements: Sequence[Settlement], messages: Sequence[tuple[Topic[Any], Message]]
    ) -> Sequence[Settled]:
        """As `settle`; the messages are published in the same commit. If any settlement turns
        out stale, nothing of the call is committed and all that are not stale say `unknown`: the
        engine then answers them one by one, so that a stale delivery never publishes."""
        ...


class Transaction(Protocol):
    """The business database inside one delivery: what it writes commits with the settlement.

    Parameters are written `?` (or `?1`, `?2`) on every database, or in the style of its own driver:
    `$1` on PostgreSQL, `%s` on MySQL. Tasks may use it at the same time; statements run one after
    the other. Which of its databases is asked decides what follows a failed statement: SQLite and
    MySQL undo the statement, PostgreSQL the transaction.
    """

    async def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Run one statement; returns the number of rows that it changed."""
        ...

    async def execute_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> int:
        """Run one statement for each row; returns the number of rows changed."""
        ...

    async def fetch(self, sql: str, parameters: Sequence[Any] = ()) -> Sequence[tuple[Any, ...]]:
        """Run one query; returns its rows."""
        ...

    async def publish(self, topic: Topic[Any], payload: Any) -> None:
        """Publish a payload (or a ready `Message`) with the commit, or not at all."""
        ...


@runtime_checkable
class SqlLog(Protocol):
    """What gives a delivery its transaction in the business database: a consumer whose road is
    that database, or an inbox beside the road."""

    @property
    def settles(self) -> bool:
        """Whether the settlement is in the commit. Elsewhere the engine settles after it, and a
        delivery that comes again in between is a duplicate."""
        ...

    def transaction(
        self, delivery: Delivery, source: str
    ) -> AbstractAsyncContextManager[Transaction]:
        """The delivery's transaction. Leaving it commits what the handler wrote, that the message
        is handled, and where it `settles`, the settlement as handled; an exception rolls all of
        it back and passes on. `source` stamps what it publishes.

        Raises:
            LeaseLostError: the delivery is no longer ours; nothing is committed.
            DuplicateError: the message was handled before; nothing is committed.
        """
        ...


@runtime_checkable
class Cancels(Protocol):
    """A transport that can withdraw a scheduled message."""

    async def cancel(self, message_id: str) -> bool:
        """Withdraw it; False if there is none such any more (delivered, or never there)."""
        ...


@runtime_checkable
class OnceTokens(Protocol):
    """A transport that accepts a publish at most once for a token."""

    async def publish_once(
        self, token: str, messages: Sequence[tuple[Topic[Any], Message]]
    ) -> bool:
        """Publish and remember the token in one commit; False and nothing if it was known."""
        ...


@runtime_checkable
class Permits(Protocol):
    """A transport that can keep a rate limit for a whole group."""

    async def permits(self, name: str, rate: Rate, wanted: int) -> tuple[int, float]:
        """Take up to `wanted` permits of the token bucket `name`; returns how many there were,
        and with none, after how many seconds there is one."""
        ...


@runtime_checkable
class DeadLetters(Protocol):
    """A transport that keeps dead letters itself."""

    async def dead_letters(self, topic: str, group: str | None, limit: int) -> Sequence[DeadLetter]:
        """The oldest ones, in the order in which their messages stood in the log; `topic` may be
        a pattern, group None is every group."""
        ...

    async def redrive(self, ids: Sequence[str]) -> int:
        """Send them to their own group again, in the order of the log, with attempts reset;
        returns how many there were."""
        ...

    async def discard(self, ids: Sequence[str]) -> int:
        """Drop them for good, counted as discarded; returns how many there were."""
        ...


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """A message of another road, with what it has been through there.

    Attributes:
        due_us: to go out not before, in microseconds since the epoch; 0 is at once.
        dead: it is a dead letter, and its failures say why.
    """

    message: Message
    attempts: int = 0
    failures: tuple[Failure, ...] = ()
    due_us: int = 0
    dead: bool = False


@runtime_checkable
class Keeps(DeadLetters, Protocol):
    """A transport that can be the store of another one: what that cannot keep is taken in under a
    topic of its own here, and worked off from here."""

    async def keep(
        self,
        topic: Topic[Any],
        group: str,
        kept: Sequence[Kept],
        *,
        ordered: bool,
        parks: bool,
    ) -> None:
        """Take these in for one group, in one commit and in order. With `ordered` each stands
        behind what is there of its key; with `parks` a dead one parks its key."""
        ...

    async def unsettled_keys(
        self, topic: str, group: str, keys: Collection[str] | None
    ) -> Collection[str]:
        """Which keys (of these, or of all) have anything unsettled that was kept for the group, or
        a dead letter that parks them. A topic of which nothing was kept has none."""
        ...


@runtime_checkable
class KeepsSequences(Protocol):
    """A transport that keeps where a group stands with numbered messages."""

    async def sequences(self, group: str, lines: Collection[LineId]) -> Mapping[LineId, Standing]:
        """Where it stands with these; those that it has not begun are left out."""
        ...

    async def advance_sequences(
        self, group: str, changes: Sequence[Change], *, durable: bool = True
    ) -> None:
        """Note where it stands now, in one commit; idempotent. With `durable=False` that need
        survive a power cut only if what is written here later does."""
        ...

    async def forget_sequences(self, group: str, topic: str) -> None:
        """The group begins anew with every key of the topic."""
        ...


@runtime_checkable
class SequencedTransaction(Transaction, Protocol):
    """A delivery's transaction in the database that also keeps where its group stands."""

    async def advance_sequences(self, group: str, changes: Sequence[Change]) -> None:
        """As `KeepsSequences.advance_sequences`, in the transaction's commit."""
        ...


@runtime_checkable
class Numbers(Protocol):
    """A transport that can give a message the next number of its key."""

    async def publish_numbered(
        self, messages: Sequence[tuple[Topic[Any], Message]], epoch: str
    ) -> Sequence[Receipt]:
        """As `publish`; each gets the next number of its topic and key, in the commit that
        accepts it: no number is given twice, and none without a message. All have keys.

        Raises:
            EncodeError: a key has used up its numbers.
        """
        ...


@runtime_checkable
class Audited(Protocol):
    """A transport that counts what becomes of messages."""

    async def account(self, topic: str, group: str) -> Account:
        """What it counted, read in one snapshot.

        Raises:
            NotFoundError: no such topic or group.
        """
        ...

    async def groups(self, pattern: str) -> Sequence[tuple[str, str]]:
        """(topic, group) of every group on every topic that fits."""
        ...
