"""Handing a batch to a road: patient while it is down, and one bad message spoils no other."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

from postroad.core.message import Message
from postroad.core.topic import Topic
from postroad.delivery.outbox.parking import detail_of, reason_of
from postroad.delivery.outbox.rows import Record
from postroad.delivery.outbox.settings import RelayHooks, RelaySettings
from postroad.delivery.patience import is_transient
from postroad.errors import ClosedError, PublishError

Publish: TypeAlias = Callable[[Sequence[tuple[Topic[Any], Message]]], Awaitable[object]]
"""As `Transport.publish`: returns when all are accepted; raises `PublishError` that says for each
which is not."""


class Entry(NamedTuple):
    """A row, ready to be published."""

    record: Record
    topic: Topic[Any]
    message: Message


class Poison(NamedTuple):
    """A row that can never be published, and why."""

    record: Record
    reason: str
    detail: str


class Sent:
    """What became of a batch: rows that are published, rows that are poison."""

    def __init__(self) -> None:
        self.published: list[Record] = []
        self.poison: list[Poison] = []


class Sender:
    """Publishes batches.

    Args:
        pause: waits between two tries; may raise to give the batch up.
    """

    def __init__(
        self,
        publish: Publish,
        settings: RelaySettings,
        hooks: RelayHooks,
        pause: Callable[[float], Awaitable[None]],
    ) -> None:
        self._publish = publish
        self._settings = settings
        self._hooks = hooks
        self._pause = pause
        self._attempts: dict[Any, int] = {}

    async def send(self, entries: Sequence[Entry], sent: Sent) -> None:
        """Publish in order until each is in `sent`. What `pause` raises leaves the rest out.

        Raises:
            ClosedError: the road was closed.
        """
        todo = list(entries)
        wait = first = self._settings.first_wait.total_seconds()
        while todo:
            try:
                await self._publish([(entry.topic, entry.message) for entry in todo])
            except ClosedError:
                raise
            except Exception as error:  # noqa: BLE001 - the road's error decides what comes next
                left, halves = self._sort(error, todo, sent)
                if halves:
                    for half in halves:
                        await self.send(half, sent)
                    return
                if not left:
                    return
                wait = first if len(left) < len(todo) else wait
                todo = left
                seconds = random.uniform(wait / 2, wait)
                self._hooks.waiting(_first_cause(error), seconds)
                await self._pause(seconds)
                wait = min(wait * 2, self._settings.longest_wait.total_seconds())
            else:
                sent.published += [entry.record for entry in todo]
                return

    def _sort(
        self, error: Exception, todo: list[Entry], sent: Sent
    ) -> tuple[list[Entry], list[list[Entry]]]:
        """What is left of a batch that failed: to be tried again after a wait; or in halves, to
        find out which one is bad, since the error is of them all."""
        causes = _causes(error, len(todo))
        shared = len(causes) > 1 and len({id(cause) for cause in causes.values()}) == 1
        if shared and not is_transient(next(iter(causes.values()))):
            bad = [todo[index] for index in sorted(causes)]
            self._accept(todo, causes, sent)
            middle = len(bad) // 2
            return [], [bad[:middle], bad[middle:]]
        self._accept(todo, causes, sent)
        left = []
        for index in sorted(causes):
            entry = todo[index]
            poison = self._poison(entry, causes[index])
            if poison is None:
                left.append(entry)
            else:
                self._attempts.pop(entry.record.row, None)
                sent.poison.append(poison)
        return left, []

    def _accept(self, todo: list[Entry], causes: dict[int, Exception], sent: Sent) -> None:
        sent.published += [e.record for index, e in enumerate(todo) if index not in causes]

    def _poison(self, entry: Entry, cause: Exception) -> Poison | None:
        if is_transient(cause):
            return None
        reason = reason_of(cause)
        if reason is None:
            row = entry.record.row
            self._attempts[row] = self._attempts.get(row, 0) + 1
            if self._attempts[row] < self._settings.attempts:
                return None
            reason = "attempts"
        return Poison(entry.record, reason, detail_of(cause))


def _causes(error: Exception, count: int) -> dict[int, Exception]:
    """Which of a batch failed, and why. An error that says nothing is of all of them."""
    if isinstance(error, PublishError) and (error.failed or error.unknown):
        return {**error.failed, **error.unknown}
    return dict.fromkeys(range(count), error)


def _first_cause(error: Exception) -> Exception:
    if isinstance(error, PublishError):
        return next(iter([*error.failed.values(), *error.unknown.values()]), error)
    return error
