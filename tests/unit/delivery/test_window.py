"""The window follows the measured rate, between concurrency and prefetch."""

from __future__ import annotations

from postroad.delivery.window import HORIZON, Window


class Time:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_it_begins_with_the_least_and_a_slow_worker_stays_there() -> None:
    time = Time()
    window = Window(4, 1000, time)
    assert window.size() == 4
    for _ in range(10):
        time.now += 1
        window.worked(2)
        assert window.size() == 4


def test_a_fast_worker_holds_a_moments_work_and_no_more() -> None:
    time = Time()
    window = Window(4, 1000, time)
    time.now += 0.1
    window.worked(100)
    assert abs(window.size() - int(1000 * HORIZON)) <= 1
    time.now += 0.1
    window.worked(100_000)
    assert window.size() == 1000


def test_it_falls_by_halves_when_the_worker_slows_down() -> None:
    time = Time()
    window = Window(4, 1000, time)
    time.now += 0.1
    window.worked(100)
    sizes = []
    for _ in range(12):
        time.now += 0.1
        sizes.append(window.size())
    assert sizes[0] == 125
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 4


def test_the_most_binds_the_least() -> None:
    assert Window(16, 3, Time()).size() == 3


def test_a_burst_within_one_instant_divides_by_no_zero() -> None:
    time = Time()
    window = Window(1, 10, time)
    window.worked(50)
    assert window.size() == 10
