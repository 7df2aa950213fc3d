"""The ticks of a schedule: every so often, or by a cron line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, timedelta
from importlib import import_module

from postroad.core.clock import duration_us, from_us
from postroad.errors import DeclarationError, MissingExtraError


def ticks_of(when: timedelta | str) -> Callable[[int], Iterator[int]]:
    """The ticks of an interval (counted from 1970-01-01 UTC, so that all processes agree) or of
    a five-field cron line in UTC.

    Raises:
        DeclarationError: neither a positive interval nor a cron line.
        MissingExtraError: a cron line, and cronsim is not installed.
    """
    if isinstance(when, timedelta):
        if when <= timedelta(0):
            raise DeclarationError("every: the interval must be positive")
        return _interval_ticks(duration_us(when))
    return _cron_ticks(when)


def _interval_ticks(step: int) -> Callable[[int], Iterator[int]]:
    def after(now_us: int) -> Iterator[int]:
        tick = (now_us // step + 1) * step
        while True:
            yield tick
            tick += step

    return after


def _cron_ticks(line: str) -> Callable[[int], Iterator[int]]:
    try:
        cronsim = import_module("cronsim")
    except ImportError:
        raise MissingExtraError(
            f"every {line!r} needs cronsim: pip install 'postroad[cron]'"
        ) from None

    def after(now_us: int) -> Iterator[int]:
        for instant in cronsim.CronSim(line, from_us(now_us)):
            yield int(instant.replace(tzinfo=UTC).timestamp()) * 1_000_000

    try:
        first = next(after(0), None)
    except cronsim.CronSimError as error:
        raise DeclarationError(f"every {line!r}: not a cron line: {error}") from None
    if first is None:
        raise DeclarationError(f"every {line!r}: there is no such day")
    return after
