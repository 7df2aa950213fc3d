"""What the log answers when asked: topics, lag and accounts, each figure from its own rows."""

from __future__ import annotations

import math
from datetime import timedelta

from postroad.core.pattern import matches
from postroad.core.reports import Account, Lag, PartitionLag, TopicInfo
from postroad.storage.connection import Connection
from postroad.storage.statements import load
from postroad.transports.sql import groups, places
from postroad.transports.sql.rows import OFFSET_BITS

_SQL, _GROUPS = load("reports"), load("groups")
_CLAIMS, _RETRIES, _LOG = load("claims"), load("retries"), load("log")
_ASIDE = ("trimmed", "duplicates")


def topics(connection: Connection, pattern: str) -> list[TopicInfo]:
    """Topics that fit, with the messages that are kept and their groups."""
    found = []
    for topic_id, name, partitions, messages in connection.execute(_SQL["topics"]).fetchall():
        if name == pattern or matches(pattern, name):
            names = connection.execute(_SQL["group_names"], (topic_id,))
            found.append(TopicInfo(name, partitions, messages, [row[0] for row in names]))
    return found


def group_list(connection: Connection, pattern: str) -> list[tuple[str, str]]:
    """(topic, group) of every group on every topic that fits."""
    found = connection.execute(_GROUPS["groups"]).fetchall()
    return [(row[0], row[1]) for row in found if row[0] == pattern or matches(pattern, row[0])]


def lag(connection: Connection, topic: str, group: str, now_us: int) -> Lag:
    """How far behind: arithmetic over cursors, plus what is handed out or waits."""
    group_id, topic_id, _, _ = groups.find(connection, topic, group)
    counts: dict[int, int] = {}
    oldest: dict[int, float] = {}
    streams: dict[int, tuple[int, int]] = {}
    standing = connection.execute(_GROUPS["standing"], (group_id, topic_id)).fetchall()
    for stream, partition, _, first, after, _, cursor, _ in standing:
        streams[stream] = (partition, after)
        start = max(first, cursor)
        counts[partition] = counts.get(partition, 0) + after - start
        head = places.appended_us(connection, stream, start, after) if start < after else math.inf
        oldest[partition] = min(oldest.get(partition, math.inf), head)
    for stream, first, size, _, settled in connection.execute(_CLAIMS["of_group"], (group_id,)):
        partition, after = streams[stream]
        done = int.from_bytes(settled, "little") if settled else 0
        counts[partition] += size - done.bit_count()
        unsettled = (~done & (done + 1)).bit_length() - 1
        head = places.appended_us(connection, stream, first + unsettled, after)
        oldest[partition] = min(oldest[partition], head)
    for partition, _, number, appended in connection.execute(_RETRIES["standing"], (group_id,)):
        counts[partition] += number
        oldest[partition] = min(oldest[partition], appended)
    return Lag(
        topic,
        group,
        [
            PartitionLag(partition, counts[partition], _age(oldest[partition], now_us))
            for partition in sorted(counts)
        ],
    )


def _age(oldest_us: float, now_us: int) -> timedelta:
    if oldest_us == math.inf:
        return timedelta(0)
    return timedelta(microseconds=max(0, now_us - int(oldest_us)))


def account(connection: Connection, topic: str, group: str) -> Account:
    """Every figure by itself: what was accepted from the publishing side's counters, the backlog
    by counting rows, what is out or waits from claims and retries, the dead by counting them,
    other outcomes from counters."""
    group_id, topic_id, since, carried = groups.find(connection, topic, group)
    scheduled = int(connection.execute(_SQL["scheduled"], (topic_id,)).fetchone()[0])
    accepted, backlog = carried + scheduled, 0
    for row in connection.execute(_GROUPS["standing"], (group_id, topic_id)).fetchall():
        stream, _, _, _, after, published, cursor, base = row
        accepted += published - base
        span = (stream << OFFSET_BITS | cursor, stream << OFFSET_BITS | after)
        backlog += connection.execute(_LOG["count"], span).fetchone()[0]
    leased, waiting = _out(connection, group_id)
    counts = dict(connection.execute(_GROUPS["counters"], (group_id,)).fetchall())
    if "dead" in counts:
        counts["dead"] = connection.execute(_GROUPS["dead_count"], (group_id,)).fetchone()[0]
    return Account(
        topic=topic,
        group=group,
        accepted=accepted,
        backlog=backlog,
        leased=leased,
        waiting=waiting,
        scheduled=scheduled,
        outcomes={name: number for name, number in counts.items() if name not in _ASIDE},
        trimmed=counts.get("trimmed", 0),
        duplicates=counts.get("duplicates", 0),
        since_us=since,
    )


def _out(connection: Connection, group_id: int) -> tuple[int, int]:
    """(handed out, waiting to go out again)."""
    leased = waiting = 0
    for _, _, size, session, settled in connection.execute(_CLAIMS["of_group"], (group_id,)):
        done = int.from_bytes(settled, "little") if settled else 0
        if session is None:
            waiting += size - done.bit_count()
        else:
            leased += size - done.bit_count()
    for _, free, number, _ in connection.execute(_RETRIES["standing"], (group_id,)):
        if free:
            waiting += number
        else:
            leased += number
    return leased, waiting


def is_live(connection: Connection, topic: str, group: str, now_us: int) -> bool:
    """Whether the group has a consumer on the topic whose lease runs."""
    found = connection.execute(_SQL["live"], (group, now_us))
    return any(groups.reads(row[0], topic) for row in found)
