"""Handing out messages: what was returned or is due again first, then the log, in ranges."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from postroad.storage.connection import Connection
from postroad.storage.statements import load
from postroad.transports.sql import groups, sessions
from postroad.transports.sql.append import Appender
from postroad.transports.sql.groups import Membership
from postroad.transports.sql.lines import NEVER, due_behind
from postroad.transports.sql.rows import OFFSET_BITS, OFFSET_MASK, Origins, Row
from postroad.transports.sql.tokens import FRESH, Chunk, Claim, Claimed, Held, Past, Request

_LOG, _GROUPS = load("log"), load("groups")
_CLAIMS, _RETRIES = load("claims"), load("retries")
_READ, _UNREAD, _ADVANCE = _LOG["read"], _GROUPS["unread"], _GROUPS["cursor_advance"]
_APPENDED, _INSERT, _ANY_RETURNED = _LOG["appended"], _CLAIMS["insert"], _CLAIMS["any_returned"]
_NEXT_DUE, _EXPIRES, _KEY = _RETRIES["next_due"], -3, -6
_FRONT = 16
"""Messages of a lane that waited which may be out at once."""
_WASTE = 20
"""Ranges without a single deliverable message that one claim walks over."""

Returned: TypeAlias = tuple[int, int, int, int, int, int, int, bytes | None, int, int]
"""(id, stream, first, size, starts, alone, lost, settled, partition, priority)"""
Unread: TypeAlias = tuple[int, int, int, int, int, int | None]
"""(stream, partition, priority, first unread offset, end, when its head was accepted)"""


def claim(
    connection: Connection, request: Request, appender: Appender, origins: Origins, now_us: int
) -> Claimed:
    """Hand out what the request asks for, in one write transaction; renews the lease when a
    third of it is over."""
    session = request.session
    until, scheduled = connection.execute(_CLAIMS["standing"], (session.id,)).fetchone()
    if until is None or until <= now_us:
        return Claimed(None)
    if until - now_us < session.lease_us * 2 // 3:
        until = sessions.prolong(connection, session, now_us)
    busy = scheduled is not None and appender.promote(connection, now_us)
    task = _Claim(connection, request, now_us)
    for membership in request.memberships:
        task.from_topic(membership)
    for chunk in task.chunks:
        origins.learn(connection, chunk.rows)
    due = None if task.chunks else min((*task.dues, scheduled or NEVER), default=NEVER)
    return Claimed(until, task.chunks, due if due != NEVER else None, busy and not task.chunks)


def due_for(connection: Connection, request: Request, now_us: int) -> int:
    """When a claim would find something, or has to find out; `NEVER` if nobody publishes. Only
    reads, one statement."""
    groups_ = [member.group_id for member in request.memberships]
    if not groups_:
        return NEVER
    statement = _CLAIMS["any_for"].many(len(groups_))
    row = connection.execute(statement, (request.session.id, now_us, *groups_)).fetchone()
    return now_us if row[0] else min(row[1] or NEVER, row[2] or NEVER)


class _Claim:
    """One claim while it is put together."""

    def __init__(self, connection: Connection, request: Request, now_us: int) -> None:
        self._run = connection.execute
        self._defer = connection.defer
        self._connection = connection
        self._request = request
        self._now = now_us
        self._limit = request.limit
        self._bytes = request.max_bytes
        self._stopped: set[int] = set()
        self._fences: dict[int, int] = {}
        self._claim_fence: int | None = None
        self._lanes_wait = self._any_parking = False
        self.chunks: list[Chunk] = []
        self.dues: list[int] = []

    def from_topic(self, member: Membership) -> None:
        """Everything that may be handed out of one topic."""
        if self._full():
            return
        readable = self._readable(member)
        streams = self._run(_CLAIMS["backlog"], (member.group_id, member.topic_id)).fetchall()
        due, any_returned, any_parking = streams[0][-3:] if streams else (None, False, False)
        has_due = due is not None and due <= self._now
        self.dues += [] if due is None else [due]
        returned: list[Returned] = []
        if any_returned:
            found = self._run(_CLAIMS["returned"], (member.group_id,)).fetchall()
            returned = [row for row in found if readable(row[8])]
        if self._request.ordered:
            self._any_parking = bool(any_parking)
            self._lanes_wait = due is not None or self._any_parking
            self._again_in_order(member, returned, has_due, readable)
        else:
            self._again(member, returned, has_due)
        self._from_log(member, [row[:6] for row in streams if row[3] < row[4] and readable(row[1])])

    def _readable(self, member: Membership) -> Callable[[int], bool]:
        paused = {part for topic, part in self._request.paused if topic == member.topic}
        if not self._request.ordered:
            return lambda partition: partition not in paused
        own = sessions.owned(self._connection, self._request.session.id, member.group_id)
        self._fences = own
        return lambda partition: partition in own and partition not in paused

    def _fence(self, partition: int) -> int:
        """In order, the owner's; else one for this claim, higher than all before."""
        if self._request.ordered:
            return self._fences[partition]
        if self._claim_fence is None:
            self._claim_fence = sessions.next_fence(self._connection)
        return self._claim_fence

    # ------------------------------------------------ what goes out again

    def _again(self, member: Membership, returned: list[Returned], has_due: bool) -> None:
        if has_due:
            args = (member.group_id, self._now, self._limit)
            for row in self._run(_RETRIES["due"], args).fetchall():
                if self._full():
                    return
                if self._take_retry(member, row):
                    self._promote(member, row[1], row[3])
        for claim in sorted(returned, key=lambda row: -row[9]):
            if self._full():
                return
            self._take_returned(member, claim)

    def _again_in_order(
        self,
        member: Membership,
        returned: list[Returned],
        has_due: bool,
        readable: Callable[[int], bool],
    ) -> None:
        """Stream by stream: ranges that came back, whose messages stand behind whatever waits
        before them in their lane; then every lane whose first message is due."""
        found = self._run(_RETRIES["streams"], (member.topic_id,)).fetchall()
        for stream, partition, _ in sorted(found, key=lambda row: (-row[2], row[1])):
            if not readable(partition):
                continue
            claims = sorted((row for row in returned if row[1] == stream), key=_head)
            if not self._take_all_returned(member, claims):
                self._stopped.add(stream)
            elif has_due:
                self._take_due_lanes(member, stream)

    def _take_all_returned(self, member: Membership, claims: list[Returned]) -> bool:
        """Take ranges in the order of the log; whether nothing of them is left."""
        while claims:
            if self._full():
                return False
            # Ranges may lie inside each other; an unsettled offset is in one of them only.
            until = _head(claims[1]) if len(claims) > 1 else None
            rest = self._take_returned(member, claims.pop(0), until)
            if rest is not None:
                claims.append(rest)
                claims.sort(key=_head)
        return True

    def _take_due_lanes(self, member: Membership, stream: int) -> None:
        args = (member.group_id, stream, self._now, self._limit)
        walked: set[str] = set()
        for row in self._run(_RETRIES["due_in_stream"], args).fetchall():
            if self._full():
                return
            lane = row[3]
            if lane is None:
                self._take_retry(member, row)
            elif lane not in walked:
                walked.add(lane)
                self._take_line(member, stream, lane)

    def _take_line(self, member: Membership, stream: int, lane: str) -> None:
        """Take a lane from its first message, if that is due, up to one that is not due yet. Only
        the front of a lane is ever out: one of it runs at a time, and what waits behind it takes
        no room from the other keys. Settling lets the next ones move up."""
        where = (member.group_id, stream, lane)
        parked = self._first_parking(*where)
        for row in self._run(_RETRIES["line"], (*where, _FRONT)).fetchall():
            if row[-1] is not None:
                continue
            if (parked is not None and row[2] > parked) or self._now < row[4] < NEVER:
                return
            if self._full() or not self._take_retry(member, row[:-1]):
                self._promote(member, stream, lane)
                return

    def _promote(self, member: Membership, stream: int, lane: str | None) -> None:
        """What stands first in the lane now is due, if it waited for what was taken."""
        if lane is not None:
            self._defer(_RETRIES["next_in_line"], (member.group_id, stream, lane))

    def _full(self) -> bool:
        return self._limit <= 0 or self._bytes <= 0

    def _must_wait(self, member: Membership, stream: int, row: Row) -> bool:
        """Whether something stands before the row in its lane: a message that waits for its
        retry, or a dead letter that parks it."""
        lane = "" if self._request.lane == "total" else row[_KEY]
        if lane is None:
            return False
        first = self._first_of(member, stream, lane)
        return first is not None and first < row[0] & OFFSET_MASK

    def _first_of(self, member: Membership, stream: int, lane: str) -> int | None:
        where = (member.group_id, stream, lane)
        waiting = self._run(_RETRIES["first_waiting"], where).fetchone()
        parking = self._first_parking(*where)
        found = [offset for offset in (waiting and waiting[0], parking) if offset is not None]
        return min(found, default=None)

    def _first_parking(self, group: int, stream: int, lane: str) -> int | None:
        if not self._any_parking:
            return None
        found = self._run(_RETRIES["first_parking"], (group, stream, lane)).fetchone()[0]
        return None if found is None else int(found)

    def _take_retry(self, member: Membership, row: Row) -> bool:
        """Hand out one that waited; whether it waits no more."""
        number, stream, offset, _, _, attempts, starts, alone, lost, turn, failures = row[:11]
        partition, priority = self._run(_RETRIES["stream"], (stream,)).fetchone()
        if (member.topic, partition) in self._request.paused:
            return False
        if row[_EXPIRES] is not None and row[_EXPIRES] <= self._now:
            self._defer(_RETRIES["delete"], (number,))
            groups.count(self._connection, member.group_id, "expired", 1)
            return True
        if starts and self.chunks:
            self._limit = 0  # a suspect goes out alone, next time
            return False
        self._defer(_RETRIES["take"], (self._request.session.id, number))
        if lost or attempts:
            groups.count(self._connection, member.group_id, "duplicates", 1)
        self._limit = 0 if starts else self._limit - 1
        self._bytes -= len(row[-2])
        moved = (stream << OFFSET_BITS | offset, *row[11:])
        self.chunks.append(
            Chunk(
                Held(number, self._request.session.id, turn + 1),
                member.topic,
                partition,
                priority,
                (moved,),
                self._fence(partition),
                Past(starts, alone),
                attempts,
                failures,
            )
        )
        return True

    def _take_returned(
        self, member: Membership, row: Returned, until: int | None = None
    ) -> Returned | None:
        """Take what fits of a returned range, up to the offset `until`; the rest of it, if any,
        stays returned and comes back."""
        id_, stream, first, size, starts, alone, lost, settled, partition, priority = row
        if starts and self.chunks:
            self._limit = 0  # suspects go out alone, next time
            return row
        past = Past(starts, alone)
        done = int.from_bytes(settled, "little") if settled else 0
        end = first + size if until is None else min(until, first + size)
        base = stream << OFFSET_BITS
        found = self._run(_READ, (base + first, base + end, size)).fetchall()
        waiting = [r for r in found if not done >> ((r[0] & OFFSET_MASK) - first) & 1]
        if starts:
            # One of them may have killed its process: half of them finds out which half.
            self._limit = min(self._limit, max(1, len(waiting) // 2))
        fit = self._fitting(waiting)
        cut = (waiting[len(fit)][0] & OFFSET_MASK) if len(fit) < len(waiting) else end
        self._defer(_CLAIMS["delete"], (id_,))
        rest: Returned | None = None
        if cut < first + size:
            left = done >> (cut - first)
            remaining = first + size - cut
            if left != (1 << remaining) - 1:
                rest = (
                    self._request.numbers.take(), stream, cut, remaining, starts, alone, lost,
                    _bitmap(left, remaining), partition, priority,
                )  # fmt: skip
                self._insert(rest[0], member, rest[1:4], None, past, lost, rest[7])
        if cut > first:
            mask = done & ((1 << (cut - first)) - 1)
            span = (stream, first, cut - first)
            if len(fit) == 1:
                # A range of one message, so that its being alone shows.
                span = (stream, fit[0][0] & OFFSET_MASK, 1)
                mask = 0
            taken = self._hand_out(member, span, fit, mask, partition, priority, past, lost)
            if lost and taken:
                groups.count(self._connection, member.group_id, "duplicates", taken)
            if starts and taken:
                self._limit = 0
        return rest

    # ------------------------------------------------ the log

    def _from_log(self, member: Membership, streams: list[Unread]) -> None:
        # Higher priorities first, then the stream whose head has waited longest.
        streams.sort(key=lambda row: (-row[2], row[5] or 0))
        for stream, partition, priority, start, end, _ in streams:
            if stream in self._stopped or self._stands_still(member, stream):
                continue
            wasted = 0
            while start < end and not self._full() and wasted < _WASTE:
                base = stream << OFFSET_BITS
                found = self._run(_READ, (base + start, base + end, self._limit)).fetchall()
                fit = self._fitting(found)
                if not fit:
                    start = end
                else:
                    first, start = fit[0][0] & OFFSET_MASK, (fit[-1][0] & OFFSET_MASK) + 1
                    span = (stream, first, start - first)
                    gaps = 0 if len(fit) == span[2] else _gaps(fit, first, span[2])
                    taken = self._hand_out(member, span, fit, gaps, partition, priority, FRESH)
                    wasted += not taken
                self._defer(_ADVANCE, (member.group_id, stream, start))
            if self._full():
                return

    def _stands_still(self, member: Membership, stream: int) -> bool:
        """Whether all of the stream waits behind one message."""
        if self._request.lane != "total" or not self._lanes_wait:
            return False
        return self._first_of(member, stream, "") is not None

    # ------------------------------------------------ both

    def _fitting(self, rows: list[Row]) -> list[Row]:
        """As many as the limits allow, at least one while there is room at all."""
        budget = self._bytes
        for index, row in enumerate(rows):
            if index == self._limit or budget <= 0:
                return rows[:index]
            budget -= len(row[-2])
        return rows

    def _hand_out(
        self,
        member: Membership,
        span: tuple[int, int, int],
        rows: list[Row],
        done: int,
        partition: int,
        priority: int,
        past: Past,
        lost: int = 0,
    ) -> int:
        """Claim a range whose unsettled rows are given, without the expired and the blocked
        ones; returns how many are handed out."""
        stream, first, size = span
        expired = 0
        given = []
        for row in rows:
            expires = row[_EXPIRES]
            if expires is not None and expires <= self._now:
                expired += 1
            elif self._lanes_wait and self._must_wait(member, stream, row):
                self._join_line(member, stream, row, past, lost)
            else:
                given.append(row)
                continue
            done |= 1 << ((row[0] & OFFSET_MASK) - first)
        if expired:
            groups.count(self._connection, member.group_id, "expired", expired)
        if not given:
            return 0
        token = Claim(self._request.numbers.take(), member.group_id, stream, first, size)
        bitmap = _bitmap(done, size)
        self._insert(token.id, member, span, self._request.session.id, past, 0, bitmap)
        self._limit -= len(given)
        self._bytes -= sum([len(row[-2]) for row in given])
        fence = self._fence(partition)
        self.chunks.append(Chunk(token, member.topic, partition, priority, given, fence, past))
        return len(given)

    def _join_line(self, member: Membership, stream: int, row: Row, past: Past, lost: int) -> None:
        """Let a message wait behind those of its lane that wait."""
        place = (member.group_id, stream)
        offset = row[0] & OFFSET_MASK
        lane = "" if self._request.lane == "total" else row[_KEY]
        due = due_behind(self._connection, *place, lane, offset, 0)
        values = (offset, lane, due, 0, *past, lost, None)
        self._defer(_RETRIES["insert"], (*place, *values, row[0]))

    def _insert(
        self,
        id_: int,
        member: Membership,
        span: tuple[int, int, int],
        session: int | None,
        past: Past,
        lost: int,
        bitmap: bytes | None,
    ) -> None:
        # A suspect has begun when `begin` says so; anything else when it is handed out.
        begun = int(session is not None and not past.starts)
        self._defer(_INSERT, (id_, member.group_id, *span, session, *past, begun, lost, bitmap))


def _head(row: Returned) -> int:
    """The first unsettled offset of a returned range."""
    done = int.from_bytes(row[7], "little") if row[7] else 0
    return row[2] + (~done & (done + 1)).bit_length() - 1


def _gaps(rows: list[Row], first: int, size: int) -> int:
    """A bit for each offset of a range that has no row: it went to the dead letters at once."""
    there = 0
    for row in rows:
        there |= 1 << (row[0] & OFFSET_MASK) - first
    return ~there & (1 << size) - 1


def _bitmap(bits: int, size: int) -> bytes | None:
    return bits.to_bytes((size + 7) // 8, "little") if bits else None
