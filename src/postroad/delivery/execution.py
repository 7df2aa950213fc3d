"""From a delivery to its answer: decode, call the handler, judge what it did."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import traceback
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import msgspec

from postroad.core.clock import Clock
from postroad.core.delivery import Delivery, Failure, Settlement
from postroad.core.message import Message
from postroad.core.outcome import Discard, Later, PartialFailure, Reject
from postroad.core.retry import Retry
from postroad.core.topic import Outgoing, Topic
from postroad.core.transport import SqlLog, Transaction
from postroad.delivery.breaker import Circuit
from postroad.delivery.handler import Handler
from postroad.errors import (
    DecodeError,
    DuplicateError,
    HandlerTypeError,
    LeaseLostError,
    PayloadError,
    PayloadTooLargeError,
    StorageError,
    TransportError,
)

Decode = Callable[[bytes], Any]
_LONGEST_DELAY = timedelta(days=365 * 100)
_ROAD_PAUSE = timedelta(seconds=1)


class Scope:
    """The extent of one transactional call. Tasks that it started keep a copy of the context
    variable, and may publish again once the call is over."""

    over = False


_scope: contextvars.ContextVar[Scope | None] = contextvars.ContextVar(
    "postroad_in_transaction", default=None
)


def inside_transaction() -> bool:
    """Whether a transactional handler is running in this context."""
    scope = _scope.get()
    return scope is not None and not scope.over


class Held(msgspec.Struct, frozen=True):
    """Not answered yet: the delivery, with the failure added, runs again after `delay`."""

    delivery: Delivery
    delay: timedelta


class Answer(msgspec.Struct, frozen=True):
    """An answer that publishes results, or that its own transaction has given already."""

    settlement: Settlement
    results: list[tuple[Topic[Any], Message]]
    settled: bool = False


Verdict = Settlement | Answer | Held


@dataclass(frozen=True)
class Rules:
    """How one subscription's failures and calls are treated.

    Attributes:
        retry: the policy.
        gives_back: a retry goes back to the road (it keeps delay and attempts, and no order
            depends on it); else the message is held in process.
        timeout: for one call of the handler.
        source: CloudEvents `source` of what handlers publish.
        max_payload: topic name → bytes.
    """

    retry: Retry
    gives_back: bool
    timeout: timedelta | None
    source: str
    max_payload: Callable[[str], int | None]


class Executor:
    """Runs one handler. Never raises for what a handler or payload does; only cancellation
    passes."""

    def __init__(
        self,
        handler: Handler,
        rules: Rules,
        clock: Clock,
        *,
        decode_for: Callable[[str], Decode],
        sql_log: SqlLog | None,
        threads: int,
        on_failure: Callable[[Delivery, Failure], None],
        on_duplicate: Callable[[Delivery], None] = lambda _: None,
        circuit: Circuit | None = None,
        is_lost: Callable[[Delivery], bool] = lambda _: False,
    ) -> None:
        self._handler = handler
        self._function = handler.function
        self._rules = rules
        self._clock = clock
        self._decode_for = decode_for
        self._decoders: dict[str, Decode] = {}
        self._sql_log = sql_log if handler.wants_tx else None
        self._on_failure = on_failure
        self._on_duplicate = on_duplicate
        self._circuit = circuit
        self._is_lost = is_lost
        self._plain = handler.is_async and not handler.yields and not handler.extras
        self._pool = None if handler.is_async else ThreadPoolExecutor(threads, "postroad-handler")

    def close(self) -> None:
        """Let the threads end. A handler that still runs in one finishes by itself."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    async def run(self, delivery: Delivery) -> Verdict:
        """The verdict on one delivery."""
        try:
            payload = self._payload(delivery)
            if self._plain and self._rules.timeout is None:
                result = await self._function(payload)
                if result is None:
                    return Settlement(delivery)
                return self._answer(delivery, self._outgoing(result))
            if self._sql_log is not None:
                return await self._run_in_transaction(delivery, payload, self._sql_log)
            return self._answer(delivery, await self._call(payload, delivery, None))
        except asyncio.CancelledError as error:
            return self.judge(delivery, _interruption(error))
        except Exception as error:  # noqa: BLE001 - the fate of a message
            return self.judge(delivery, error)

    async def run_batch(self, deliveries: list[Delivery]) -> list[Verdict]:
        """The verdicts on a batch. A failing one is halved until the bad message stands alone,
        so only that one costs an attempt."""
        payloads, sound, verdicts = [], [], []
        for delivery in deliveries:
            try:
                payloads.append(self._payload(delivery))
                sound.append(delivery)
            except PayloadError as error:
                verdicts.append(self.judge(delivery, error))
        return verdicts + (await self._run_part(sound, payloads) if sound else [])

    async def _run_part(self, deliveries: list[Delivery], payloads: list[Any]) -> list[Verdict]:
        try:
            try:
                results = await self._call(payloads, deliveries, None)
            except asyncio.CancelledError as error:
                raise _interruption(error) from None
        except PartialFailure as error:
            strange = error.failed.keys() - range(len(deliveries))
            if strange:
                # Which message it means is not known, so none of them may count as handled.
                wrong = HandlerTypeError(
                    f"PartialFailure names {sorted(strange)} of a batch of {len(deliveries)}; "
                    "indices count from 0"
                )
                return [self.judge(delivery, wrong) for delivery in deliveries]
            return [
                self.judge(delivery, error.failed[index])
                if index in error.failed
                else Settlement(delivery)
                for index, delivery in enumerate(deliveries)
            ]
        except Exception as error:  # noqa: BLE001 - the fate of a message
            if len(deliveries) == 1:
                return [self.judge(deliveries[0], error)]
            middle = len(deliveries) // 2
            first = await self._run_half(deliveries[:middle], payloads[:middle])
            return first + await self._run_half(deliveries[middle:], payloads[middle:])
        # What a batch publishes settles with its last message: nothing of it goes out twice
        # unless all of it is repeated.
        head: list[Verdict] = [Settlement(delivery) for delivery in deliveries[:-1]]
        return [*head, self._answer(deliveries[-1], results)]

    async def _run_half(self, deliveries: list[Delivery], payloads: list[Any]) -> list[Verdict]:
        """As `_run_part`, without those that were lost while the whole batch ran."""
        ours = [n for n, delivery in enumerate(deliveries) if not self._is_lost(delivery)]
        lost: list[Verdict] = [
            Settlement(delivery, "nack") for delivery in deliveries if self._is_lost(delivery)
        ]
        if not ours:
            return lost
        part = [deliveries[n] for n in ours], [payloads[n] for n in ours]
        return lost + await self._run_part(*part)

    def judge(self, delivery: Delivery, error: BaseException) -> Verdict:
        """What becomes of a delivery that ended with `error`."""
        if isinstance(error, Discard):
            return Settlement(delivery, "ack", "discarded")
        failure = describe(error, self._clock.now_us())
        self._on_failure(delivery, failure)
        pause = self._pause(error)
        if pause is not None:
            return (
                Settlement(delivery, "nack", delay=pause)
                if self._rules.gives_back
                else Held(delivery, pause)
            )
        delay = self._delay(delivery, error)
        if delay is None:
            return Settlement(delivery, "reject", failure=failure)
        if self._rules.gives_back:
            return Settlement(delivery, "nack", delay=delay, failure=failure)
        delivery.attempts += 1
        delivery.failures = (*delivery.failures, failure)
        return Held(delivery, delay)

    def _pause(self, error: BaseException) -> timedelta | None:
        """How long to keep a message whose failure is the road's or the downstream's, and so
        costs no attempt."""
        if isinstance(error, TransportError | StorageError) and error.transient:
            return _ROAD_PAUSE
        if self._circuit is None:
            return None
        if self._circuit.concerns(error):
            return self._circuit.failed()
        if isinstance(error, PayloadError):
            self._circuit.unanswered()
        else:
            self._circuit.succeeded()
        return None

    def _delay(self, delivery: Delivery, error: BaseException) -> timedelta | None:
        failed = delivery.attempts + 1
        if isinstance(error, Reject | PayloadError | HandlerTypeError):
            return None
        if isinstance(error, Later):
            return min(error.delay, _LONGEST_DELAY) if failed < self._rules.retry.attempts else None
        return self._rules.retry.delay(failed, error)

    def _payload(self, delivery: Delivery) -> Any:
        data = delivery.message.data
        topic = delivery.topic
        decode = self._decoders.get(topic)
        if decode is None:
            decode = self._decoders[topic] = self._checked_decoder(topic)
        try:
            return decode(data)
        except PayloadError:
            raise
        except Exception as error:
            raise DecodeError(f"the codec raised {type(error).__name__}") from error

    def _checked_decoder(self, topic: str) -> Decode:
        decode = self._decode_for(topic) if self._handler.wants_payload else _nothing
        limit = self._rules.max_payload(topic)
        if limit is None:
            return decode

        def checked(data: bytes) -> Any:
            if len(data) > limit:
                raise _too_large(topic, len(data), limit)
            return decode(data)

        return checked

    async def _run_in_transaction(
        self, delivery: Delivery, payload: Any, sql_log: SqlLog
    ) -> Verdict:
        try:
            async with sql_log.transaction(delivery, self._rules.source) as tx:
                scope = Scope()
                token = _scope.set(scope)
                try:
                    results = await self._call(payload, delivery, tx)
                finally:
                    scope.over = True
                    _scope.reset(token)
                for topic, message in results:
                    await tx.publish(topic, message)
        except LeaseLostError:
            # Another consumer has it: neither a failure of the handler nor ours to answer.
            return Settlement(delivery, "nack")
        except DuplicateError:
            self._on_duplicate(delivery)
            return Settlement(delivery)
        if sql_log.settles:
            return Answer(Settlement(delivery), [], settled=True)
        return Settlement(delivery)

    async def _call(
        self, payload: Any, delivery: Any, tx: Transaction | None
    ) -> list[tuple[Topic[Any], Message]]:
        handler = self._handler
        positional = (payload,) if handler.wants_payload else ()
        named = handler.extra_arguments(delivery, tx)
        async with self._deadline():
            if not handler.is_async:
                result = await self._in_thread(positional, named)
                if inspect.isawaitable(result):
                    result = await result
            elif handler.yields:
                result = [item async for item in self._function(*positional, **named)]
            else:
                result = await self._function(*positional, **named)
        return self._outgoing(result)

    def _deadline(self) -> AbstractAsyncContextManager[Any]:
        if self._rules.timeout is None:
            return nullcontext()
        return _Timeout(self._rules.timeout.total_seconds())

    async def _in_thread(self, positional: tuple[Any, ...], named: dict[str, Any]) -> Any:
        def call() -> Any:
            try:
                result = self._function(*positional, **named)
                return list(result) if self._handler.yields else result
            except StopIteration as error:
                # A future cannot carry it: whoever awaits it would wait for ever.
                raise RuntimeError("the handler raised StopIteration") from error

        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, context.run, call)

    def _outgoing(self, result: Any) -> list[tuple[Topic[Any], Message]]:
        if result is None:
            return []
        items: Iterable[Any] = result if isinstance(result, list | tuple) else [result]
        now = self._clock.now_us()
        return [self._envelope(item, now) for item in items if item is not None]

    def _envelope(self, item: Any, now_us: int) -> tuple[Topic[Any], Message]:
        if not isinstance(item, Outgoing):
            raise HandlerTypeError(
                f"the handler {self._handler.name} returned {type(item).__name__}; it may return "
                "or yield topic.message(payload), or None"
            )
        topic = item.topic
        source = self._rules.source
        return topic, topic.envelope_with(item.payload, item.options, now_us, source)

    def _answer(
        self, delivery: Any, results: list[tuple[Topic[Any], Message]]
    ) -> Settlement | Answer:
        if not results:
            return Settlement(delivery)
        cause = delivery.message
        linked = [(topic, message.caused_by(cause)) for topic, message in results]
        return Answer(Settlement(delivery), linked)


class _Timeout:
    """`asyncio.timeout` whose expiry is told apart from a TimeoutError of the handler's own."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._timeout = asyncio.timeout(seconds)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(self, *exc: Any) -> None:
        try:
            await self._timeout.__aexit__(*exc)
        except TimeoutError:
            if self._timeout.expired():
                raise HandlerTimeout(f"took longer than {self._seconds:g} s") from None
            raise


class HandlerTimeout(TimeoutError):
    """A handler ran past its subscription's timeout and was cancelled."""


class HandlerCancelled(Exception):
    """A handler ended with a cancellation that nobody asked for, such as that of a task of its
    own which it awaited."""


def _interruption(error: asyncio.CancelledError) -> Exception:
    """The failure of a handler that was cancelled by itself; raises if the worker is meant."""
    task = asyncio.current_task()
    if task is None or task.cancelling():
        raise error
    return HandlerCancelled("it awaited something that was cancelled")


def describe(error: BaseException, now_us: int) -> Failure:
    """An exception as a failure to keep: class, its message's first line, traceback."""
    if isinstance(error, PayloadError):
        return Failure(reason=error.reason, detail=str(error), at_us=now_us)
    if isinstance(error, Reject | Later):
        reason = "rejected" if isinstance(error, Reject) else "later"
        return Failure(reason=reason, detail=_text(lambda: str(error.reason)), at_us=now_us)
    if isinstance(error, HandlerTimeout):
        return Failure(reason="timeout", detail=str(error), at_us=now_us)
    kind = type(error)
    return Failure(
        reason="exception",
        detail=_text(lambda: (str(error).splitlines() or [""])[0][:500]),
        exception=f"{kind.__module__}.{kind.__qualname__}",
        traceback=_text(lambda: "".join(traceback.format_exception(error))[-8000:]),
        at_us=now_us,
    )


def _text(make: Callable[[], str]) -> str:
    """Text that any road can keep, of an exception that may not even have any."""
    try:
        return make().encode("utf-8", "replace").decode()
    except Exception as error:  # noqa: BLE001 - its __str__ is the user's
        return f"(its text cannot be had: {type(error).__name__})"


def _nothing(data: bytes) -> None:
    return None


def _too_large(topic: str, size: int, limit: int) -> PayloadError:
    return PayloadTooLargeError(f"{size} bytes on {topic!r}, which takes {limit}")
