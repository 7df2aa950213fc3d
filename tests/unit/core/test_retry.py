"""Retry policies: whether, and when."""

from __future__ import annotations

from datetime import timedelta

import pytest

from postroad.core.retry import Retry
from postroad.errors import DeclarationError

SECOND = timedelta(seconds=1)
ERROR = ValueError()


def test_it_ends_after_its_attempts() -> None:
    retry = Retry(attempts=3, backoff="fixed")
    assert [retry.delay(failed, ERROR) for failed in (1, 2, 3, 4)] == [SECOND, SECOND, None, None]
    assert Retry(attempts=1).delay(1, ERROR) is None


def test_immediate_does_not_wait() -> None:
    assert Retry(backoff="immediate").delay(1, ERROR) == timedelta(0)


def test_a_first_wait_beyond_the_longest_is_refused() -> None:
    with pytest.raises(DeclarationError, match="raise longest"):
        Retry(backoff="fixed", first=60 * SECOND, longest=SECOND)


@pytest.mark.parametrize(
    ("failed", "ceiling"), [(1, 2.0), (2, 4.0), (3, 8.0), (5, 20.0), (5000, 20.0)]
)
def test_exponential_has_full_jitter_below_its_ceiling(failed: int, ceiling: float) -> None:
    retry = Retry(attempts=10_000, first=2 * SECOND, longest=20 * SECOND)
    waits = [retry.delay(failed, ERROR) for _ in range(2000)]
    seconds = [wait.total_seconds() for wait in waits if wait is not None]
    assert len(seconds) == 2000
    assert 0 <= min(seconds) < 0.05 * ceiling
    assert 0.95 * ceiling < max(seconds) <= ceiling
    assert sum(seconds) / 2000 == pytest.approx(ceiling / 2, rel=0.1)


def test_a_huge_first_does_not_overflow() -> None:
    retry = Retry(attempts=10**9, first=timedelta.max, longest=timedelta.max)
    wait = retry.delay(10**8, ERROR)
    assert wait is not None
    assert wait <= timedelta.max


def test_only_these_exceptions_and_never_those() -> None:
    retry = Retry(on=(OSError, ValueError), never=(FileNotFoundError,), backoff="immediate")
    assert retry.delay(1, ConnectionError()) is not None
    assert retry.delay(1, ERROR) is not None
    assert retry.delay(1, FileNotFoundError()) is None
    assert retry.delay(1, KeyError()) is None


def test_by_default_a_base_exception_is_not_tried_again() -> None:
    assert Retry().delay(1, SystemExit()) is None


@pytest.mark.parametrize(
    "wrong",
    [{"attempts": 0}, {"hold": 0}, {"first": -SECOND}, {"longest": -SECOND}],
)
def test_what_cannot_work_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(DeclarationError, match=next(iter(wrong))):
        Retry(**wrong)  # type: ignore[arg-type]
