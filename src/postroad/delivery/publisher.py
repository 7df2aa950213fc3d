"""Publishing: many tasks that publish at once share one batch, and so one commit."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Protocol

from postroad.core.delivery import Receipt
from postroad.core.hooks import Hooks
from postroad.core.message import Message
from postroad.core.topic import Topic
from postroad.errors import ClosedError, PostroadError, PublishError

CHUNK = 1000
"""Messages in one batch at the most: a commit's cost is spread thin by then, and one caller's
flood does not hold up the others for long."""
BACKLOG = 10 * CHUNK
"""Fire-and-forget messages on their way before a publisher has to wait."""

_Entry = tuple[Topic[Any], Message]


class Accepts(Protocol):
    """What a publisher hands its batches to: a transport, or what stands before it."""

    async def publish(self, messages: Sequence[_Entry]) -> Sequence[Receipt]:
        """See `Transport.publish`."""
        ...


class Publisher:
    """Collects single publishes into batches and sends them one after another, in order.

    While a batch is on its way the next one fills, so the batch size follows the road's latency:
    a thousand tasks share a commit. Who was alone the last time is taken to be alone again and
    sends by itself, without a task in between.
    """

    def __init__(self, transport: Accepts, hooks: Hooks) -> None:
        self._transport = transport
        self._hooks = hooks
        self._entries: list[_Entry] = []
        self._waiters: list[asyncio.Future[Receipt] | None] = []
        self._sending: asyncio.Future[None] | None = None
        self._alone = False
        self._sent = asyncio.Event()
        self._closed = False

    async def publish(self, topic: Topic[Any], message: Message) -> Receipt:
        """Return when the road has accepted it. Cancelling leaves open whether it was.

        Raises:
            PublishError: it was not accepted, or nobody knows.
        """
        if self._alone and self._sending is None:
            return await self._send_alone((topic, message))
        waiter = asyncio.get_running_loop().create_future()
        self._add((topic, message), waiter)
        receipt: Receipt = await waiter
        return receipt

    async def post(self, topic: Topic[Any], message: Message) -> None:
        """Fire and forget: a failure is counted by the hooks and told to nobody else. Waits only
        while as many as `BACKLOG` are on their way, so that a flood meets its road's pace."""
        self._add((topic, message), None)
        if len(self._entries) % CHUNK == 0:
            await asyncio.sleep(0)
        while len(self._entries) >= BACKLOG:
            self._sent.clear()
            await self._sent.wait()

    async def publish_many(self, entries: Iterator[_Entry]) -> list[Receipt]:
        """Publish in chunks, in order; the next one is made while the last one commits.

        Raises:
            PublishError: indices count from the first entry. What is before the failed chunk is
                accepted, what is after it was not sent.
        """
        receipts: list[Receipt] = []
        sending: asyncio.Task[Sequence[Receipt]] | None = None
        try:
            while chunk := list(islice(entries, CHUNK)):
                if sending is not None:
                    last, sending = sending, None
                    receipts.extend(await _outcome(last, len(receipts)))
                sending = asyncio.create_task(self._send_chunk(chunk))
                # The sending starts before the next chunk is encoded.
                await asyncio.sleep(0)
        except BaseException as error:
            if sending is not None:
                if isinstance(error, asyncio.CancelledError):
                    sending.cancel()
                await asyncio.wait({sending})
                if not sending.cancelled():
                    sending.exception()  # what ended the entries goes first
            raise
        if sending is not None:
            receipts.extend(await _outcome(sending, len(receipts)))
        return receipts

    async def _send_chunk(self, chunk: Sequence[_Entry]) -> Sequence[Receipt]:
        self._check_open()
        try:
            return await self._send_now(chunk)
        except PublishError:
            raise
        except PostroadError as error:
            raise PublishError(dict.fromkeys(range(len(chunk)), error)) from error

    async def close(self) -> None:
        """Send what was given, then take no more. Idempotent."""
        self._closed = True
        while self._sending is not None:
            await asyncio.wait({self._sending})

    def _add(self, entry: _Entry, waiter: asyncio.Future[Receipt] | None) -> None:
        self._check_open()
        self._entries.append(entry)
        self._waiters.append(waiter)
        if self._sending is None:
            self._sending = asyncio.get_running_loop().create_task(self._drain())

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the road is closed; publish inside `async with road`")

    async def _send_alone(self, entry: _Entry) -> Receipt:
        self._check_open()
        sending = self._sending = asyncio.get_running_loop().create_future()
        try:
            return (await self._send_now([entry]))[0]
        except PublishError:
            raise
        except Exception as error:
            raise _unknown(error) from error
        finally:
            # Others may have come meanwhile.
            self._alone = not self._entries
            self._sending = None if self._alone else asyncio.create_task(self._drain())
            sending.set_result(None)

    async def _drain(self) -> None:
        try:
            while self._entries:
                self._alone = len(self._entries) == 1
                entries, waiters = self._entries[:CHUNK], self._waiters[:CHUNK]
                del self._entries[:CHUNK], self._waiters[:CHUNK]
                await self._send(entries, waiters)
                self._sent.set()
        finally:
            self._sending = None
            self._sent.set()

    async def _send(
        self, entries: list[_Entry], waiters: list[asyncio.Future[Receipt] | None]
    ) -> None:
        try:
            receipts = await self._send_now(entries)
        except PublishError as error:
            _answer_partly(error, waiters)
        except (Exception, asyncio.CancelledError) as error:
            for waiter in waiters:
                if waiter is not None and not waiter.done():
                    waiter.set_exception(_unknown(error))
            if isinstance(error, asyncio.CancelledError):
                raise
        else:
            for waiter, receipt in zip(waiters, receipts, strict=True):
                if waiter is not None and not waiter.done():
                    waiter.set_result(receipt)

    async def _send_now(self, entries: Sequence[_Entry]) -> Sequence[Receipt]:
        try:
            receipts = await self._transport.publish(entries)
        except Exception as error:
            self._count_failures(entries, error)
            raise
        if len(entries) == 1:
            self._hooks.published(entries[0][0].name, 1)
            return receipts
        for name, count in Counter(topic.name for topic, _ in entries).items():
            self._hooks.published(name, count)
        return receipts

    def _count_failures(self, entries: Sequence[_Entry], error: Exception) -> None:
        indices: Sequence[int] = range(len(entries))
        if isinstance(error, PublishError):
            indices = [*error.failed, *error.unknown]
            accepted = Counter(topic.name for topic, _ in entries)
            accepted.subtract(entries[index][0].name for index in indices)
            for name, count in accepted.items():
                if count:
                    self._hooks.published(name, count)
        for name, count in Counter(entries[index][0].name for index in indices).items():
            self._hooks.publish_failed(name, count, error)


async def _outcome(sending: asyncio.Task[Sequence[Receipt]], offset: int) -> Sequence[Receipt]:
    try:
        return await sending
    except PublishError as error:
        raise PublishError(
            {offset + index: cause for index, cause in error.failed.items()},
            {offset + index: cause for index, cause in error.unknown.items()},
        ) from None


def _answer_partly(error: PublishError, waiters: Sequence[asyncio.Future[Receipt] | None]) -> None:
    for index, waiter in enumerate(waiters):
        if waiter is None or waiter.done():
            continue
        if index in error.failed:
            waiter.set_exception(PublishError(failed={0: error.failed[index]}))
        elif index in error.unknown:
            waiter.set_exception(PublishError(unknown={0: error.unknown[index]}))
        else:
            waiter.set_result(Receipt())


def _unknown(error: BaseException) -> PublishError:
    if isinstance(error, PostroadError):
        return PublishError(failed={0: error})
    return PublishError(unknown={0: ClosedError(f"interrupted: {type(error).__name__}")})
