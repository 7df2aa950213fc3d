"""The declaration: which table is polled, which rows of it are ready, and what becomes of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from postroad.core.clock import Clock
from postroad.core.subscription import Subscription
from postroad.core.ticks import ticks_of
from postroad.core.topic import Topic
from postroad.errors import DeclarationError
from postroad.transports.polling.rows import RowCodec

if TYPE_CHECKING:
    from postroad.transports.polling.transport import PollingTransport

_IDENTIFIER = re.compile(r"[^\W\d][\w$]*")
_LONGEST = 63
"""Characters of a name that PostgreSQL keeps; MySQL keeps 64."""
_LARGEST_BATCH = 1000
_TENTH = 0.1
_CRON_JITTER = timedelta(seconds=5)


@dataclass(frozen=True, kw_only=True, eq=False)
class PollingSource:
    """A business table with a status column as a topic, with no change to what writes it.

    Declare it once and share it. A row is ready while `where` holds. It is claimed by setting the
    columns of `claim`; after that `where` must not hold any more. What the claim overwrote is put
    back when the row is to come again. A row that somebody else changed while it was claimed, so
    that the values of `claim` no longer stand, is left as it is: its answer counts as `stale`.

    Names are quoted, so they are written as the database has them, and values are bound. `where`
    is SQL of your own and goes into statements as it is: make it a constant, and give what varies
    as `parameters`.

    Attributes:
        table: its name, or `schema.name`.
        where: the SQL condition of a ready row, with `?` for each of `parameters`.
        claim: the columns that mark a row as taken, with their values.
        done: what is set when it was handled; also when its handler raised `Discard`.
        failed: what is set when it died; its dead letter is kept beside the table.
        key: the column that tells rows apart: unique, of integers, text or UUIDs; never changed.
        every: how often to look: an interval, or a cron line in UTC.
        jitter: the most that a look is put off or ahead at random, so that processes do not look
            at once; by default a tenth of the interval, 5 s of a cron line.
        batch: how many rows are claimed at once; after a full batch the next look is at once.
        parameters: bound to the `?` of `where`, in turn.
        columns: what of the row goes into the payload; all by default.
        order_by: the column by which ready rows are taken; by default `time`, else `key`.
        time: the column that says when the fact was stated; the age of the backlog is read from
            it, and unknown without.
        type: the payload's type, by the names of the columns; by default a dict of what JSON can
            hold, in which decimals, instants and UUIDs are text.
        name: the topic's name; by default the table's.
        database: the URL of its database; by default the road's business database.

    Raises:
        DeclarationError: at construction, if anything of this cannot work.
        MissingExtraError: a cron line, and cronsim is not installed.
    """

    table: str
    where: str
    claim: Mapping[str, Any]
    done: Mapping[str, Any]
    failed: Mapping[str, Any]
    key: str = "id"
    every: timedelta | str = timedelta(minutes=1)
    jitter: timedelta | None = None
    batch: int = 100
    parameters: Sequence[Any] = ()
    columns: Sequence[str] | None = None
    order_by: str | None = None
    time: str | None = None
    type: Any = dict[str, Any]
    name: str | None = None
    database: str | None = None
    topic: Topic[Any] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._check_names()
        ticks_of(self.every)
        if not 1 <= self.batch <= _LARGEST_BATCH:
            raise DeclarationError(f"{self}: batch must be 1 … {_LARGEST_BATCH}")
        if self.jitter is not None and self.jitter < timedelta(0):
            raise DeclarationError(f"{self}: jitter must not be negative")
        if not self.where.strip() or ";" in self.where:
            raise DeclarationError(f"{self}: where is one SQL condition, such as status = 'ready'")
        topic = Topic(self.name or self.table, self.type, codec=RowCodec(self.type))
        object.__setattr__(self, "topic", topic)

    def __str__(self) -> str:
        return f"PollingSource(table={self.table!r})"

    def _check_names(self) -> None:
        parts = self.table.split(".")
        if len(parts) > 2:
            raise DeclarationError(f"{self}: a table is `name` or `schema.name`")
        for column, values in (("claim", self.claim), ("done", self.done), ("failed", self.failed)):
            if not values:
                raise DeclarationError(f"{self}: {column} names no column to set")
            if self.key in values:
                raise DeclarationError(f"{self}: {column} sets the key, which must never change")
        optional = [name for name in (self.order_by, self.time) if name is not None]
        names = [*parts, self.key, *optional, *self.claim, *self.done, *self.failed]
        for name in [*names, *(self.columns or ())]:
            if not _IDENTIFIER.fullmatch(name) or len(name) > _LONGEST:
                raise DeclarationError(
                    f"{self}: {name!r} is no name of a table or column here: letters, digits, _ "
                    f"and $, at most {_LONGEST}; a view can give it another one"
                )

    @property
    def spread(self) -> timedelta:
        """`jitter`, resolved."""
        if self.jitter is not None:
            return self.jitter
        return _CRON_JITTER if isinstance(self.every, str) else self.every * _TENTH

    def subscription(self, wanted: Subscription) -> Subscription:
        """See `ExternalSource.subscription`. What is ready is handled, whenever it became so:
        `start` has no meaning here."""
        for name, given, remedy in (
            ("filter", wanted.filter, "say it in `where`: what is filtered would be set to done"),
            ("shed", wanted.shed, "a row that is shed would be set to done"),
        ):
            if given is not None:
                raise DeclarationError(
                    f"{self}: a subscription of a table takes no {name}; {remedy}"
                )
        if wanted.start not in ("latest", "earliest"):
            raise DeclarationError(f"{self}: a table has no history to start in; take start away")
        return replace(wanted, source=self.topic, start="earliest")

    def transport(self, database: str | None, clock: Clock) -> PollingTransport:
        """See `ExternalSource.transport`."""
        url = self.database or database
        if url is None:
            raise DeclarationError(
                f"{self}: no database to read it from; give Postroad(…, database=…) or "
                "PollingSource(…, database=…)"
            )
        from postroad.transports.polling.transport import PollingTransport

        return PollingTransport(self, url, clock=clock)
