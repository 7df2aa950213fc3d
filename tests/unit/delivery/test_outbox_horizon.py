"""From which row on a relay looks: nothing is skipped for good, and the beginning is not read
all the time."""

from __future__ import annotations

from postroad.delivery.outbox.horizon import Horizon


def test_it_begins_at_the_beginning() -> None:
    assert Horizon().start(5.0) == 0


def test_with_a_backlog_it_goes_on_where_it_was_and_looks_back_now_and_then() -> None:
    horizon = Horizon()
    horizon.read(0, 0.0, 0.001, 100, full=True)
    assert horizon.start(0.5) == 100
    horizon.read(100, 0.5, 0.501, 200, full=True)
    assert horizon.start(0.9) == 200
    assert horizon.start(1.1) == 0


def test_without_one_it_reads_again_what_may_still_be_committed() -> None:
    horizon = Horizon()
    horizon.read(0, 0.0, 1.0, 100, full=False)  # reading everything took a second: dear
    assert horizon.start(2.0) == 0 or horizon.start(2.0) == horizon._floor
    horizon.read(0, 2.0, 3.0, 200, full=False)
    assert horizon.start(3.5) == 100  # read at 1.0, which is long enough ago
    assert horizon.start(5.5) == 200
    assert horizon.start(24.0) == 0


def test_what_is_cheap_is_done_again_at_once() -> None:
    horizon = Horizon()
    horizon.read(0, 0.0, 0.0001, 100, full=False)
    assert horizon.start(0.003) == 0


def test_an_empty_read_changes_no_place() -> None:
    horizon = Horizon()
    horizon.read(0, 0.0, 1.0, 100, full=True)
    horizon.read(100, 1.0, 1.1, None, full=False)
    assert horizon.start(1.2) == 0
    assert horizon.start(3.2) == 100


def test_it_begins_anew() -> None:
    horizon = Horizon()
    horizon.read(0, 0.0, 1.0, 100, full=True)
    horizon.reset()
    assert horizon.start(1.1) == 0
