"""What one configured transport really does, natively, with nothing emulated."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

ANY_DELAY = timedelta(days=365 * 100)
"""A native delay without a limit of its own."""


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """The honest word of a transport about itself, read by `check` and tested by conformance.

    Attributes:
        settling: `none` (what is received is gone), `cumulative` (a position: everything before
            is settled too), `each` (any message by itself).
        order: `none`; `key-consumer` (of a key, inside one consumer); `key-group` (of a key, over
            all consumers of a group); `total` is `key-group` on a topic of one partition.
        backlog: of a group that does not read: `kept`, `refused` (publishers wait or fail when
            its bounded queue is full), `dropped`.
        durable: what is accepted survives the death of every process of ours.
        shared: several processes can meet on it.
        groups: named groups that share work, and whose progress the road keeps.
        ephemeral: consumers without a group (`group=None`).
        history: a new group may start before now.
        seek: a group at rest can be moved.
        browse: messages can be read without a group and without effect.
        lag: messages and age of the backlog are known exactly; else they are None.
        audit: `exact` (counters commit with the settlement), `positions`, `none`.
        delay: the longest delay that the road keeps natively; zero is none.
        cancel: a scheduled message can be withdrawn.
        redelivery_delay: a nack may name a delay.
        attempts: failures named with a nack are recorded and come back with the delivery.
        parking: in an ordered group, what comes later of a lane waits on the road, in order and as
            durable as all else, behind a message that was given back with a delay, and behind one
            that died where the plan says so (`Plan.parks`), until that is redriven or discarded.
        expiry: expired messages are dropped and counted by the road.
        dead_letters: rejects are kept natively and can be listed, redriven and discarded.
        priorities: number of levels kept natively; 1 is none.
        filters: dialects of `core.filters` evaluated by the road.
        atomic_settle: settlements and published results commit together.
        transactions: a handler's own writes can commit with its settlement (`tx`).
        once_tokens: a publish can carry a token that the road accepts only once.
        permits: rate limits of a whole group are kept by the road.
        sequences: where a group stands with numbered messages is kept (`KeepsSequences`).
        patterns: one consumer can read every topic that fits a pattern, later ones too.
        retention: of `age`, `size`, `consumed`, what the road keeps.
        lease: deliveries of a silent consumer go to another one after a time that we set.
        max_payload: in bytes; None is no limit of its own.
        risk: one sentence: what can be lost, and by what.
    """

    settling: Literal["none", "cumulative", "each"]
    order: Literal["none", "key-consumer", "key-group"]
    backlog: Literal["kept", "refused", "dropped"]
    durable: bool = False
    shared: bool = False
    groups: bool = False
    ephemeral: bool = False
    history: bool = False
    seek: bool = False
    browse: bool = False
    lag: bool = False
    audit: Literal["exact", "positions", "none"] = "none"
    delay: timedelta = timedelta(0)
    cancel: bool = False
    redelivery_delay: bool = False
    attempts: bool = False
    parking: bool = False
    expiry: bool = False
    dead_letters: bool = False
    priorities: int = 1
    filters: frozenset[str] = frozenset()
    atomic_settle: bool = False
    transactions: bool = False
    once_tokens: bool = False
    permits: bool = False
    sequences: bool = False
    patterns: bool = False
    retention: frozenset[str] = frozenset()
    lease: bool = False
    max_payload: int | None = None
    risk: str = ""
