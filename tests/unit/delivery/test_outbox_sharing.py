"""Slices have one owner at a time, all of them have one soon, and the parts are fair."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from postroad.core.clock import SystemClock
from postroad.delivery.outbox.sharing import Membership
from postroad.storage.connection import Connection
from postroad.storage.sqlite.url import parse

SECOND = 1_000_000


class Clock(SystemClock):
    def __init__(self) -> None:
        self.now = 0

    def now_us(self) -> int:
        return self.now


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    place = parse(f"sqlite:///{tmp_path}/outbox.db")
    place.prepare()
    opened = place.connect()
    yield opened
    opened.close()


def settle(connection: Connection, members: list[Membership], rounds: int = 3) -> None:
    for _ in range(rounds):
        for member in members:
            member.hand_over(connection, member.renew(connection).surplus)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 32, 40])
def test_the_parts_are_fair_and_whole(connection: Connection, count: int) -> None:
    clock = Clock()
    members = [Membership("o", 32, SECOND, clock) for _ in range(count)]
    settle(connection, members)
    shares = [member.renew(connection) for member in members]
    assert sorted(s for share in shares for s in share.slices) == list(range(32))
    sizes = [len(share.slices) for share in shares]
    assert max(sizes) - min(sizes) <= 1
    assert all(share.surplus == () and share.relays == count for share in shares)


def test_nothing_is_taken_from_one_that_lives(connection: Connection) -> None:
    clock = Clock()
    first, second = Membership("o", 8, SECOND, clock), Membership("o", 8, SECOND, clock)
    assert first.renew(connection).slices == tuple(range(8))
    assert second.renew(connection).slices == ()
    share = first.renew(connection)
    assert len(share.slices) == len(share.surplus) == 4
    assert second.renew(connection).slices == ()
    first.hand_over(connection, share.surplus)
    assert second.renew(connection).slices == share.surplus


def test_a_dead_ones_part_goes_to_others_after_its_lease(connection: Connection) -> None:
    clock = Clock()
    dead, heir = Membership("o", 8, SECOND, clock), Membership("o", 8, SECOND, clock)
    dead.renew(connection)
    clock.now = SECOND - 1
    assert heir.renew(connection).slices == ()
    clock.now = SECOND
    assert heir.renew(connection).slices == tuple(range(8))
    clock.now += 1
    assert dead.renew(connection).slices == ()  # it was only asleep
    dead.hand_over(connection, range(8))  # and gives away nothing of others
    assert len(heir.renew(connection).slices) == 4


def test_one_that_leaves_frees_its_part_at_once(connection: Connection) -> None:
    clock = Clock()
    first, second = Membership("o", 8, SECOND, clock), Membership("o", 8, SECOND, clock)
    first.renew(connection)
    first.leave(connection)
    assert second.renew(connection).slices == tuple(range(8))


def test_outboxes_are_apart(connection: Connection) -> None:
    clock = Clock()
    assert Membership("a", 4, SECOND, clock).renew(connection).slices == (0, 1, 2, 3)
    assert Membership("b", 4, SECOND, clock).renew(connection).slices == (0, 1, 2, 3)
