"""In-process observers: isolation, weak references, patterns, lazy envelopes."""

from __future__ import annotations

import asyncio
import functools
import gc
from collections.abc import Callable
from typing import Any

import pytest

from postroad.core.hooks import Hooks
from postroad.core.message import Message
from postroad.delivery.observers import Observers
from postroad.errors import DeclarationError


class Recorder(Hooks):
    def __init__(self) -> None:
        self.failures: list[tuple[str, str, Exception]] = []

    def observer_failed(self, topic: str, observer: str, error: Exception) -> None:
        self.failures.append((topic, observer, error))


@pytest.fixture
def hooks() -> Recorder:
    return Recorder()


@pytest.fixture
def observers(hooks: Recorder) -> Observers:
    return Observers(hooks)


def no_message() -> Message:
    raise AssertionError("nobody wanted a message")


def message_maker(made: list[Message]) -> Callable[[], Message]:
    def make() -> Message:
        made.append(Message(id=str(len(made)), type="a", source="s", data=b"1", time_us=0))
        return made[-1]

    return make


async def test_sync_and_async_observers_get_the_very_object_in_order(observers: Observers) -> None:
    seen: list[tuple[str, object]] = []

    async def slow(payload: object) -> None:
        await asyncio.sleep(0)
        seen.append(("async", payload))

    def quick(payload: object) -> None:
        seen.append(("sync", payload))

    observers.add("a", slow, False)
    observers.add("a", quick, False)
    payload = object()
    await observers.dispatch("a", payload, no_message)
    assert seen == [("async", payload), ("sync", payload)]
    assert all(found is payload for _, found in seen)


async def test_only_the_topic_s_observers_are_called(observers: Observers) -> None:
    seen: list[object] = []
    observers.add("a", seen.append, False)
    await observers.dispatch("b", 1, no_message)
    await observers.dispatch("a", 2, no_message)
    assert seen == [2]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("orders.*", ["orders.created", "orders.paid"]),
        ("orders.#", ["orders", "orders.created", "orders.paid", "orders.eu.paid"]),
        ("#", ["orders", "orders.created", "orders.paid", "orders.eu.paid", "other"]),
        ("*.paid", ["orders.paid"]),
    ],
)
async def test_patterns(observers: Observers, pattern: str, expected: list[str]) -> None:
    seen: list[str] = []
    observers.add(pattern, seen.append, False)
    for name in ("orders", "orders.created", "orders.paid", "orders.eu.paid", "other"):
        await observers.dispatch(name, name, no_message)
    assert seen == expected


async def test_an_observer_that_comes_later_is_seen_where_a_topic_was_compiled(
    observers: Observers,
) -> None:
    seen: list[object] = []
    await observers.dispatch("a.b", 1, no_message)
    observers.add("a.*", seen.append, False)
    await observers.dispatch("a.b", 2, no_message)
    assert seen == [2]


def test_a_malformed_pattern_is_refused(observers: Observers) -> None:
    with pytest.raises(DeclarationError, match="pattern"):
        observers.add("orders.#.x", print, False)


async def test_an_error_reaches_the_hook_and_nobody_else(
    observers: Observers, hooks: Recorder
) -> None:
    seen: list[str] = []

    def bad(payload: object) -> None:
        raise ValueError("sync")

    async def worse(payload: object) -> None:
        raise KeyError("async")

    async def good(payload: object) -> None:
        seen.append("good")

    for observer in (bad, worse, good):
        observers.add("a", observer, False)
    await observers.dispatch("a", 1, no_message)
    assert seen == ["good"]
    assert [(topic, type(error)) for topic, _, error in hooks.failures] == [
        ("a", ValueError),
        ("a", KeyError),
    ]
    assert hooks.failures[0][1].endswith("bad")
    assert hooks.failures[1][1].endswith("worse")


async def test_a_hook_that_raises_is_reported_to_the_loop(observers: Observers) -> None:
    class BadHooks(Hooks):
        def observer_failed(self, topic: str, observer: str, error: Exception) -> None:
            raise RuntimeError("hook")

    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    bad = Observers(BadHooks())
    bad.add("a", lambda payload: 1 / 0, False)
    await bad.dispatch("a", 1, no_message)
    assert [type(context["exception"]) for context in reported] == [RuntimeError]


async def test_cancelling_the_publisher_cancels_the_observer(
    observers: Observers, hooks: Recorder
) -> None:
    started = asyncio.Event()

    async def forever(payload: object) -> None:
        started.set()
        await asyncio.Event().wait()

    observers.add("a", forever, False)
    task = asyncio.create_task(observers.dispatch("a", 1, no_message))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert hooks.failures == []


class Listener:
    def __init__(self, seen: list[object]) -> None:
        self.seen = seen

    def on_event(self, payload: object) -> None:
        self.seen.append(payload)

    async def on_event_async(self, payload: object) -> None:
        self.seen.append(payload)


@pytest.mark.parametrize("name", ["on_event", "on_event_async"])
async def test_a_bound_method_goes_with_its_object(observers: Observers, name: str) -> None:
    seen: list[object] = []
    listener = Listener(seen)
    observers.add("a", getattr(listener, name), False)
    await observers.dispatch("a", 1, no_message)
    assert seen == [1]
    assert len(observers) == 1
    del listener
    gc.collect()
    assert len(observers) == 0
    await observers.dispatch("a", 2, no_message)
    assert seen == [1]


async def test_an_object_that_dies_during_a_dispatch_is_passed_over(
    observers: Observers, hooks: Recorder
) -> None:
    seen: list[object] = []
    listeners = [Listener(seen)]

    def kill(payload: object) -> None:
        listeners.clear()
        gc.collect()

    observers.add("a", kill, False)
    observers.add("a", listeners[0].on_event, False)
    await observers.dispatch("a", 1, no_message)
    assert seen == []
    assert hooks.failures == []


async def test_a_plain_function_is_held(observers: Observers) -> None:
    seen: list[object] = []

    def register() -> None:
        def observer(payload: object) -> None:
            seen.append(payload)

        observers.add("a", observer, False)

    register()
    gc.collect()
    await observers.dispatch("a", 1, no_message)
    assert seen == [1]


def test_a_method_without_weak_references_is_refused(observers: Observers) -> None:
    class Slotted:
        __slots__ = ()

        def on_event(self, payload: object) -> None: ...

    with pytest.raises(DeclarationError, match="__weakref__"):
        observers.add("a", Slotted().on_event, False)
    assert len(observers) == 0


async def test_the_remover_removes_one_registration_and_is_idempotent(
    observers: Observers,
) -> None:
    seen: list[object] = []

    def observer(payload: object) -> None:
        seen.append(payload)

    remove = observers.add("a", observer, False)
    observers.add("a", observer, False)
    await observers.dispatch("a", 1, no_message)
    remove()
    remove()
    await observers.dispatch("a", 2, no_message)
    assert seen == [1, 1, 2]


async def test_the_message_is_made_once_and_only_if_wanted(observers: Observers) -> None:
    made: list[Message] = []
    got: list[object] = []
    observers.add("a", got.append, False)
    await observers.dispatch("a", "payload", message_maker(made))
    assert made == []
    observers.add("a", got.append, True)
    listener = Listener(got)
    observers.add("a", listener.on_event, True)
    await observers.dispatch("a", "payload", message_maker(made))
    assert len(made) == 1
    assert got == ["payload", "payload", made[0], made[0]]


async def test_a_plain_callable_may_return_an_awaitable(
    observers: Observers, hooks: Recorder
) -> None:
    seen: list[object] = []

    async def work(prefix: str, payload: object) -> None:
        seen.append((prefix, payload))

    def future(payload: object) -> asyncio.Future[None]:
        return asyncio.ensure_future(work("f", payload))

    observers.add("a", lambda payload: work("l", payload), False)
    observers.add("a", functools.partial(work, "p"), False)
    observers.add("a", future, False)
    observers.add("a", lambda payload: "no awaitable", False)
    await observers.dispatch("a", 1, no_message)
    assert seen == [("l", 1), ("p", 1), ("f", 1)]
    assert hooks.failures == []


async def test_observers_may_come_and_go_while_one_runs(observers: Observers) -> None:
    seen: list[str] = []
    removers: list[Callable[[], None]] = []

    def first(payload: object) -> None:
        removers[0]()
        observers.add("a", lambda _: seen.append("new"), False)

    removers.append(observers.add("a", first, False))
    await observers.dispatch("a", 1, no_message)
    assert seen == []
    await observers.dispatch("a", 1, no_message)
    assert seen == ["new"]


def test_observed(observers: Observers) -> None:
    assert not observers.observed("a.b")
    remove = observers.add("a.*", print, False)
    assert observers.observed("a.b")
    remove()
    assert not observers.observed("a.b")
