"""Settling: every answer of a call in one write transaction, counted where it is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from postroad.core.clock import duration_us
from postroad.core.delivery import Settled, Settlement
from postroad.storage.connection import Connection
from postroad.storage.statements import load
from postroad.transports.sql import groups, sessions
from postroad.transports.sql.lines import due_behind
from postroad.transports.sql.rows import OFFSET_BITS, OFFSET_MASK, attempts_in, failures_in
from postroad.transports.sql.tokens import Claim, Held, Lane, Numbers

_CLAIMS, _RETRIES = load("claims"), load("retries")
_WHOLE, _SETTLED = _CLAIMS["settle_whole"], _CLAIMS["settled"]


@dataclass(slots=True)
class _Range:
    """The answers to one claim."""

    claim: Claim
    indices: list[int] = field(default_factory=list)
    bits: int = 0
    acks: Counter[str] = field(default_factory=Counter)
    others: bool = False


@dataclass(slots=True)
class Answers:
    """The answers of one call, by the row that they concern. Made on the loop, read by the
    writer, which may read it twice."""

    settlements: Sequence[Settlement]
    ranges: list[_Range]
    held: list[tuple[int, Held]]
    foreign: list[int]


def sort(settlements: Sequence[Settlement], session: int) -> Answers:
    """Group the answers by claim. What another session received is foreign."""
    found: dict[Claim, _Range] = {}
    answers = Answers(settlements, [], [], [])
    for index, settlement in enumerate(settlements):
        delivery = settlement.delivery
        token = delivery.token
        if not isinstance(token, Claim | Held) or token.session != session:
            answers.foreign.append(index)
        elif isinstance(token, Claim):
            place = found.get(token)
            if place is None:
                place = found[token] = _Range(token)
            place.indices.append(index)
            place.bits |= 1 << (delivery.offset & OFFSET_MASK) - token.first  # type: ignore[operator]
            if settlement.action == "ack":
                place.acks[settlement.outcome] += 1
            else:
                place.others = True
        else:
            answers.held.append((index, token))
    answers.ranges = list(found.values())
    return answers


class Settling:
    """Settles for one consumer, on the writer's thread."""

    def __init__(self, session: int, numbers: Numbers, lane: Lane, *, parks: bool) -> None:
        self._session = session
        self._numbers = numbers
        self._lane = lane
        self._parks = int(parks)

    def settle(
        self, connection: Connection, answers: Answers, now_us: int, *, held_lock: bool = False
    ) -> list[Settled]:
        """Write the answers. With `held_lock` the write lock was held since the lease was last
        seen alive: only the session's absence is stale then, since nobody could take over."""
        results: list[Settled] = ["stale"] * len(answers.settlements)
        if held_lock:
            if not sessions.exists(connection, self._session):
                return results
        elif sessions.alive(connection, self._session, now_us) is None:
            return results
        counts: Counter[tuple[int, str]] = Counter()
        for place in answers.ranges:
            if not self._settle_whole(connection, place, counts, results):
                self._settle_part(connection, place, answers, counts, results, now_us)
        for index, token in answers.held:
            results[index] = self._settle_held(
                connection, token, answers.settlements[index], counts, now_us
            )
        for (group, outcome), number in counts.items():
            groups.count(connection, group, outcome, number)
        return results

    def _settle_whole(
        self,
        connection: Connection,
        place: _Range,
        counts: Counter[tuple[int, str]],
        results: list[Settled],
    ) -> bool:
        claim = place.claim
        whole = place.bits == (1 << claim.size) - 1 and len(place.indices) == claim.size
        if place.others or not whole:
            return False
        if connection.execute(_WHOLE, (claim.id, self._session)).rowcount != 1:
            return False
        for outcome, number in place.acks.items():
            counts[claim.group_id, outcome] += number
        if claim.size == len(results):
            results[:] = ["done"] * claim.size
        else:
            for index in place.indices:
                results[index] = "done"
        return True

    def _settle_part(
        self,
        connection: Connection,
        place: _Range,
        answers: Answers,
        counts: Counter[tuple[int, str]],
        results: list[Settled],
        now_us: int,
    ) -> None:
        claim = place.claim
        row = connection.execute(_SETTLED, (claim.id, self._session)).fetchone()
        if row is None:
            return
        done = int.from_bytes(row[0], "little") if row[0] else 0
        returned: list[int] = []
        for index in place.indices:
            settlement = answers.settlements[index]
            bit = (settlement.delivery.offset & OFFSET_MASK) - claim.first  # type: ignore[operator]
            if done >> bit & 1:
                continue  # answered before: stale, so that its results are not published twice
            results[index] = "done"
            done |= 1 << bit
            if settlement.action == "ack":
                counts[claim.group_id, settlement.outcome] += 1
            elif settlement.action == "reject":
                self._bury(connection, claim, bit, settlement, now_us)
                counts[claim.group_id, "dead"] += 1
            elif not (settlement.failure or settlement.delay or settlement.delivery.attempts):
                returned.append(claim.first + bit)
            else:
                self._retry(connection, claim, bit, settlement, now_us)
        if done == (1 << claim.size) - 1:
            connection.defer(_CLAIMS["delete"], (claim.id,))
        else:
            bitmap = done.to_bytes((claim.size + 7) // 8, "little")
            connection.defer(_CLAIMS["settle_part"], (bitmap, claim.id))
        for first, size in _runs(returned):
            span = (claim.group_id, claim.stream_id, first, size)
            values = (self._numbers.take(), *span, None, row[1], row[2], 0, 0, None)
            connection.defer(_CLAIMS["insert"], values)
        if place.others:
            connection.announce("")

    def _bury(
        self, connection: Connection, claim: Claim, bit: int, settlement: Settlement, now_us: int
    ) -> None:
        offset = claim.first + bit
        where = (claim.group_id, claim.stream_id, offset)
        lane = self._lane_of(settlement)
        values = (lane, self._parks, now_us, failures_in(settlement))
        position = claim.stream_id << OFFSET_BITS | offset
        connection.defer(_RETRIES["bury"], (*where, *values, position))
        if self._parks:
            self._park_line(connection, *where, lane)

    def _retry(
        self,
        connection: Connection,
        claim: Claim,
        bit: int,
        settlement: Settlement,
        now_us: int,
    ) -> None:
        offset = claim.first + bit
        where = (claim.group_id, claim.stream_id, offset)
        due, lane = _due_us(now_us, settlement), self._lane_of(settlement)
        waits = due_behind(connection, claim.group_id, claim.stream_id, lane, offset, due)
        # Its handler answered, so whatever crash it was suspected of was another's: starts 0.
        values = (lane, waits, attempts_in(settlement), 0, 0, 0, failures_in(settlement))
        position = claim.stream_id << OFFSET_BITS | offset
        connection.defer(_RETRIES["insert"], (*where, *values, position))
        self._hush(connection, *where, lane, due)

    def _lane_of(self, settlement: Settlement) -> str | None:
        if self._lane == "total":
            return ""
        return settlement.delivery.message.key if self._lane == "key" else None

    def _hush(
        self,
        connection: Connection,
        group: int,
        stream: int,
        offset: int,
        lane: str | None,
        due_us: int,
    ) -> None:
        """What stood first in the lane until now goes out with the one before it."""
        if lane is not None:
            connection.defer(_RETRIES["hush"], (group, stream, lane, offset, due_us))

    def _park_line(
        self, connection: Connection, group: int, stream: int, offset: int, lane: str | None
    ) -> None:
        """What waits behind a dead letter waits for that."""
        if lane is not None:
            connection.defer(_RETRIES["park_line"], (group, stream, lane, offset))

    def _settle_held(
        self,
        connection: Connection,
        token: Held,
        settlement: Settlement,
        counts: Counter[tuple[int, str]],
        now_us: int,
    ) -> Settled:
        row = connection.execute(
            _RETRIES["held"], (token.number, self._session, token.turn)
        ).fetchone()
        if row is None:
            return "stale"
        group, stream, lane, offset = row
        failures = failures_in(settlement)
        if settlement.action == "nack":
            due = _due_us(now_us, settlement)
            waits = due_behind(connection, group, stream, lane, offset, due)
            values = (waits, attempts_in(settlement), failures, token.number)
            connection.defer(_RETRIES["again"], values)
            self._hush(connection, group, stream, offset, lane, due)
            return "done"
        if settlement.action == "reject":
            values = (self._parks, now_us, failures, token.number)
            connection.defer(_RETRIES["bury_held"], values)
            if self._parks:
                self._park_line(connection, group, stream, offset, lane)
        connection.defer(_RETRIES["delete"], (token.number,))
        if lane is not None:
            connection.defer(_RETRIES["next_in_line"], (group, stream, lane))
        outcome = "dead" if settlement.action == "reject" else settlement.outcome
        counts[group, outcome] += 1
        return "done"


def _due_us(now_us: int, settlement: Settlement) -> int:
    """When it may go out again. Without a delay that is on any clock: one that is set back an
    hour must not hold it up, and its key with it."""
    return now_us + duration_us(settlement.delay) if settlement.delay else 0


def begin(connection: Connection, session: int, tokens: Iterable[Claim | Held]) -> None:
    """Note that work on suspects starts now: a crash from here on is on their account."""
    for token in tokens:
        if isinstance(token, Claim):
            connection.defer(_CLAIMS["begin"], (token.id, session))
        else:
            connection.defer(_RETRIES["begin"], (token.number, session, token.turn))


def give_back(
    connection: Connection, session: int, tokens: Sequence[Claim | Held], *, lost: bool
) -> None:
    """Return whole claims, as they are, to go out again first."""
    for token in tokens:
        if isinstance(token, Claim):
            connection.defer(_CLAIMS["give_back"], (int(lost), token.id, session))
        else:
            connection.defer(_RETRIES["give_back"], (token.number, session, token.turn))


def _runs(offsets: list[int]) -> list[tuple[int, int]]:
    """Contiguous runs of offsets as (first, size)."""
    runs: list[tuple[int, int]] = []
    for offset in sorted(offsets):
        if runs and sum(runs[-1]) == offset:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((offset, 1))
    return runs
