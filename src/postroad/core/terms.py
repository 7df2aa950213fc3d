"""What a contract is written in: its terms, who keeps them, and what bears on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from postroad.core.capabilities import Capabilities

Keeper = Literal["road", "engine", "store", "database", "nobody"]


@dataclass(frozen=True)
class Term:
    """One line of a contract.

    Attributes:
        subject: what it is about, e.g. `order`.
        asked: what was asked for.
        keeper: who keeps it: the road natively, the engine, a store, the business database;
            `nobody` is a gap.
        detail: how, and what it costs or risks; for a gap, why not and the remedy.
    """

    subject: str
    asked: str
    keeper: Keeper
    detail: str


@dataclass(frozen=True)
class Stored:
    """What of one subscription goes to the store, because its road cannot keep it.

    Attributes:
        retries: what is to come again later, and the keys that it blocks.
        dead_letters: what was given up; also wherever retries go, so that they are in one place.
    """

    retries: bool = False
    dead_letters: bool = False


NOTHING_STORED = Stored()


@dataclass(frozen=True)
class Business:
    """The business database, where `tx` writes and the inbox lives.

    Attributes:
        name: for people; holds no secret.
        at_once: handlers' transactions in one process; 1 where a write keeps all others waiting.
        outbox: whether what `tx` publishes can go through an outbox there.
    """

    name: str
    at_once: int = 1
    outbox: bool = False


@dataclass(frozen=True)
class Setting:
    """What the check needs to know beside the road.

    Attributes:
        database: the business database, where it is not the road; on a road with `transactions`
            that is the road itself.
        road: the road as the business database, where it is one and more is known of it.
        peers: subscriptions of this app to the same topic and group, this one included.
        wants_tx: whether the handler takes a `Transaction`.
        is_async: whether the handler can be cancelled.
        store: what keeps what the road cannot, if one is given.
    """

    database: Business | None = None
    road: Business | None = None
    peers: int = 1
    wants_tx: bool = False
    is_async: bool = True
    store: Capabilities | None = None


PLAIN = Setting()
