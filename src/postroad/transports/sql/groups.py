"""Groups in the database: one row for each topic that a group reads, and where it stands."""

from __future__ import annotations

from dataclasses import dataclass

from postroad.core.delivery import Start
from postroad.core.pattern import is_pattern, matches
from postroad.errors import NotFoundError
from postroad.storage.connection import Connection
from postroad.storage.statements import load
from postroad.transports.sql import places

_SQL = load("groups")
_TOPIC, _TOPICS = load("log")["topic"], load("log")["topics"]


@dataclass(frozen=True, slots=True)
class Membership:
    """One topic that a group reads."""

    group_id: int
    topic_id: int
    topic: str
    partitions: int


def scope(group: str) -> str:
    """The lock under which a group claims and settles; see `Database.write`."""
    return f"group {group}"


def reads(source: str, topic: str) -> bool:
    """Whether a subscription's source is or fits the topic."""
    return source == topic or (is_pattern(source) and matches(source, topic))


def subscribe(
    connection: Connection, name: str, source: str, start: Start, now_us: int
) -> list[Membership]:
    """Note the subscription for topics yet to come, and join every topic that is there. A topic
    that the group already reads goes on where it was."""
    connection.lock("topics")
    connection.execute(_SQL["subscription_insert"], (name, source, now_us))
    found = []
    for topic_id, topic, partitions in connection.execute(_TOPICS).fetchall():
        if reads(source, topic):
            group_id = _ensure(connection, topic_id, name, start, now_us)
            found.append(Membership(group_id, topic_id, topic, partitions))
    return found


def _ensure(connection: Connection, topic_id: int, name: str, start: Start, now_us: int) -> int:
    row = connection.execute(_SQL["group"], (topic_id, name)).fetchone()
    if row is not None:
        return int(row[0])
    connection.execute(_SQL["group_insert"], (topic_id, name, now_us))
    group_id = int(connection.execute(_SQL["group"], (topic_id, name)).fetchone()[0])
    move(connection, topic_id, group_id, start)
    return group_id


def join_new_topic(connection: Connection, topic_id: int, topic: str, now_us: int) -> None:
    """Let every group that subscribed to a fitting name read a new topic from its first message,
    also a group that has no consumer just now."""
    for name, source in connection.execute(_SQL["subscriptions"]).fetchall():
        if reads(source, topic):
            connection.execute(_SQL["group_insert"], (topic_id, name, now_us))


def move(connection: Connection, topic_id: int, group_id: int, to: Start) -> None:
    """Set the group's cursors, and what it has to account for from there."""
    ends = connection.execute(_SQL["ends"], (topic_id,)).fetchall()
    chosen = places.offsets(connection, [row[:5] for row in ends], to)
    for stream, _, _, _, next_offset, published in ends:
        offset = chosen[stream]
        base = published - (next_offset - offset)
        connection.execute(_SQL["cursor_set"], (group_id, stream, offset, base))


def restart(connection: Connection, topic_id: int, group_id: int, to: Start, now_us: int) -> None:
    """Move the group and forget what it had not settled; its account starts anew. It carries
    along its dead letters, which park nothing any more, and what waits for a retry and is in the
    log no more: reading the log again would not bring that back."""
    dead = int(connection.execute(_SQL["dead_count"], (group_id,)).fetchone()[0])
    forget = ("forget_counters", "forget_claims", "forget_retries", "unpark_lanes", "wake_lines")
    for statement in forget:
        connection.execute(_SQL[statement], (group_id,))
    kept = int(connection.execute(_SQL["retries_count"], (group_id,)).fetchone()[0])
    connection.execute(_SQL["group_restart"], (now_us, dead + kept, group_id))
    if dead:
        count(connection, group_id, "dead", dead)
    move(connection, topic_id, group_id, to)


def find(connection: Connection, topic: str, group: str) -> tuple[int, int, int, int]:
    """(group id, topic id, since, carried) of a group on a topic.

    Raises:
        NotFoundError: no such topic or group.
    """
    row = connection.execute(_TOPIC, (topic,)).fetchone()
    if row is None:
        raise NotFoundError(f"no topic {topic!r} on this road")
    found = connection.execute(_SQL["group"], (row[0], group)).fetchone()
    if found is None:
        raise NotFoundError(f"no group {group!r} on topic {topic!r}")
    return int(found[0]), int(row[0]), int(found[1]), int(found[2])


def count(connection: Connection, group: int, outcome: str, number: int) -> None:
    """Add to a counter, in the transaction of what it counts."""
    connection.defer(_SQL["count"], (group, outcome, number))


def fitting(connection: Connection, source: str) -> list[tuple[int, int]]:
    """(id, partitions) of every topic that a subscription's source reads."""
    found = connection.execute(_TOPICS).fetchall()
    return [(id_, partitions) for id_, topic, partitions in found if reads(source, topic)]
