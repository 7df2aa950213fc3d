"""Sessions: the lease of one consumer, and which partitions of an ordered group it owns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from postroad.core.delivery import Partition
from postroad.storage.connection import Connection
from postroad.storage.statements import load
from postroad.transports.sql.groups import Membership, reads

_SQL = load("sessions")
_LEASE, _RENEW, _EXPIRED = _SQL["lease"], _SQL["renew"], _SQL["expired"]
_GLANCE = _SQL["glance"]
_REVOCATION_US = 10_000_000
"""How long an owner may finish what it has of a partition that is wanted elsewhere."""


@dataclass(frozen=True, slots=True)
class Session:
    """One consumer's membership."""

    id: int
    name: str
    lease_us: int


@dataclass(slots=True)
class Changes:
    """What rebalancing did to one consumer."""

    assigned: list[Partition] = field(default_factory=list)
    revoking: list[Partition] = field(default_factory=list)
    lost: list[Partition] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.assigned or self.revoking or self.lost)


def join(
    connection: Connection, name: str, source: str, owner: str, lease_us: int, now_us: int
) -> Session:
    """Become a member."""
    values = (name, source, owner, lease_us, now_us + lease_us)
    connection.announce("")  # the others have to share
    return Session(connection.insert(_SQL["join"], values), name, lease_us)


def alive(connection: Connection, session: int, now_us: int) -> int | None:
    """Until when the session's lease runs; None if it is over or the session is gone."""
    row = connection.execute(_LEASE, (session,)).fetchone()
    return None if row is None or row[0] <= now_us else int(row[0])


def exists(connection: Connection, session: int) -> bool:
    """Whether nobody has removed the session, however old its lease."""
    return connection.execute(_SQL["exists"], (session,)).fetchone() is not None


def renew(connection: Connection, session: Session, now_us: int) -> int | None:
    """Renew a lease that still runs; returns until when it runs now, None if it is over."""
    until = now_us + session.lease_us
    found = connection.execute(_SQL["renew_running"], (until, session.id, now_us))
    return until if found.rowcount else None


def prolong(connection: Connection, session: Session, now_us: int) -> int:
    """Renew a lease that is known to run; returns until when it runs now."""
    connection.defer(_RENEW, (now_us + session.lease_us, session.id))
    return now_us + session.lease_us


def revocation_us(lease_us: int) -> int:
    """How long an owner may take to finish with a partition that is wanted elsewhere: as long
    as it may be silent, and ten seconds at the least."""
    return max(_REVOCATION_US, lease_us)


def sweep(connection: Connection, name: str, now_us: int) -> bool:
    """Remove the members of a group whose lease is over; what they held goes out again, counted
    as a start that did not end. Whether there were any.

    A lease that ends further away than one can is of a clock that was set back; it is shortened,
    and its owner, if it lives, renews it. One with a handler's transaction open is left alone until
    that ends, so that nobody waits for it.
    """
    connection.defer(_SQL["clamp"], (now_us, name))
    gone = connection.execute(_SQL["ended"], (name, now_us)).fetchall()
    for (session,) in gone:
        end(connection, session, crashed=True)
    return bool(gone)


def needs_sweep(connection: Connection, name: str, now_us: int) -> bool:
    """Whether a member's lease is over, or ends further away than one can. Only reads."""
    found = connection.execute(_EXPIRED, (name, now_us)).fetchone()
    return bool(found or connection.execute(_SQL["far"], (name, now_us)).fetchone())


def next_over(connection: Connection, name: str) -> int:
    """When the first lease of the group's members is over, if it is not renewed."""
    over: int | None = connection.execute(_SQL["next_over"], (name,)).fetchone()[0]
    return 0 if over is None else over


def end(connection: Connection, session: int, *, crashed: bool) -> None:
    """Remove a member; what it held goes out again, as a hand-back or as a crash."""
    flags = (int(crashed), session)
    connection.defer(_SQL["orphan_claims"], flags)
    connection.defer(_SQL["orphan_retries"], flags)
    connection.defer(_SQL["disown"], (session,))
    connection.defer(_SQL["leave"], (session,))
    connection.announce("")  # what it held can be had, and its partitions


@dataclass(frozen=True, slots=True)
class Glance:
    """What one statement tells of a group's members.

    Attributes:
        over_us: when the first of their leases is over, if it is not renewed; 0 without members.
        far: whether a lease ends further away than one can.
        signs: equal to those of a later glance if no member and no topic came, went or changed.
    """

    over_us: int
    far: bool
    signs: tuple[Any, ...]


def glance(connection: Connection, name: str, now_us: int) -> Glance:
    """A look at the members that costs next to nothing."""
    over, far, *signs = connection.execute(_GLANCE, (name,)).fetchone()
    return Glance(over or 0, far is not None and far > now_us, tuple(signs))


def members(connection: Connection, name: str, topic: str) -> list[int]:
    """The sessions of a group that read a topic, oldest first."""
    found = connection.execute(_SQL["members"], (name,)).fetchall()
    return [session for session, source in found if reads(source, topic)]


def quota(partitions: int, members: Sequence[int], session: int, shift: int) -> int:
    """A member's fair share: no two differ by more than one. `shift` (the topic's id) spreads
    the larger shares, so that many topics of one partition do not all go to one member."""
    base, extra = divmod(partitions, len(members))
    rank = (members.index(session) - shift) % len(members)
    return base + (rank < extra)


def balance(
    connection: Connection, session: Session, memberships: Sequence[Membership], now_us: int
) -> Changes:
    """Move towards the fair share: take what is free, mark what is too much as revoked, let go
    of what should have been released by now."""
    changes = Changes()
    for membership in memberships:
        _balance(connection, session, membership, now_us, changes)
    return changes


def _balance(
    connection: Connection, session: Session, member: Membership, now_us: int, changes: Changes
) -> None:
    topic, group = member.topic, member.group_id
    sessions = members(connection, session.name, topic)
    if session.id not in sessions:
        return
    owners = {row[0]: row[1:] for row in connection.execute(_SQL["owners"], (group,))}
    mine = sorted(part for part, row in owners.items() if row[0] == session.id)
    kept = [part for part in mine if owners[part][1] is None]
    for part in mine:
        deadline = owners[part][1]
        if deadline is not None and deadline <= now_us:
            release(connection, session, member, part, lost=True)
            changes.lost.append((topic, part))
    total = int(connection.execute(_SQL["partitions"], (member.topic_id,)).fetchone()[0])
    share = quota(total, sessions, session.id, member.topic_id)
    for part in kept[share:]:
        deadline = now_us + revocation_us(session.lease_us)
        connection.defer(_SQL["revoke"], (deadline, group, part))
        changes.revoking.append((topic, part))
    free = [part for part in range(total) if part not in owners]
    for part in free[: max(0, share - len(mine))]:
        connection.defer(_SQL["own"], (group, part, session.id, next_fence(connection)))
        changes.assigned.append((topic, part))


def would_change(
    connection: Connection, session: Session, memberships: Sequence[Membership], now_us: int
) -> bool:
    """Whether `sweep` or `balance` has anything to do. Only reads, so that a balanced group
    never takes the write lock for it."""
    if needs_sweep(connection, session.name, now_us):
        return True
    for member in memberships:
        sessions = members(connection, session.name, member.topic)
        if session.id not in sessions:
            return True
        owners = connection.execute(_SQL["owners"], (member.group_id,)).fetchall()
        total = int(connection.execute(_SQL["partitions"], (member.topic_id,)).fetchone()[0])
        share = quota(total, sessions, session.id, member.topic_id)
        mine = [row for row in owners if row[1] == session.id]
        if any(row[2] is not None and row[2] <= now_us for row in mine):
            return True
        if sum(row[2] is None for row in mine) > share:
            return True
        if len(mine) < share and len(owners) < total:
            return True
    return False


def is_calm(connection: Connection, session: Session, memberships: Sequence[Membership]) -> bool:
    """Whether the session has just its share of every topic, so that nothing is to be done until
    a member or a topic comes or goes. Only reads."""
    for member in memberships:
        sessions = members(connection, session.name, member.topic)
        owners = connection.execute(_SQL["owners"], (member.group_id,)).fetchall()
        total = int(connection.execute(_SQL["partitions"], (member.topic_id,)).fetchone()[0])
        mine = [row for row in owners if row[1] == session.id]
        if session.id not in sessions or any(row[2] is not None for row in mine):
            return False
        if len(mine) != quota(total, sessions, session.id, member.topic_id):
            return False
    return True


def owned(connection: Connection, session: int, group: int) -> dict[int, int]:
    """The partitions that a session may receive from, with their fences."""
    return dict(connection.execute(_SQL["owned"], (group, session)).fetchall())


def next_fence(connection: Connection) -> int:
    """A higher fence than every one before."""
    return connection.next_fence()


def release(
    connection: Connection, session: Session, member: Membership, partition: int, *, lost: bool
) -> None:
    """Let go of a partition; what is unsettled of it goes out again. `lost`: it may have been
    worked on, so going out again counts as a duplicate."""
    where = (int(lost), session.id, member.topic_id, partition)
    connection.defer(_SQL["release_claims"], where)
    connection.defer(_SQL["release_retries"], where)
    connection.defer(_SQL["release"], (member.group_id, partition, session.id))
    connection.announce("")  # the one who is to have it next waits for it
