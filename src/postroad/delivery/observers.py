"""In-process observers: a publish calls them with the very object that was published."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from types import CoroutineType
from typing import Any, TypeAlias
from weakref import WeakMethod

from postroad.core.hooks import Hooks
from postroad.core.message import Message
from postroad.core.pattern import check_pattern, is_pattern, matches
from postroad.errors import DeclarationError

Observer: TypeAlias = Callable[[Any], object]
MakeMessage: TypeAlias = Callable[[], Message]

_PLAIN, _WEAK, _MESSAGE, _WEAK_MESSAGE = range(4)
_MOST_COMPILED = 10_000
"""Topic names whose observers are kept compiled; more only cost time."""

_Compiled: TypeAlias = tuple[tuple[Any, int], ...]


class _Registration:
    """One observer of one topic or pattern."""

    __slots__ = ("call", "kind", "source")

    def __init__(self, source: str, call: Any, kind: int) -> None:
        self.source = source
        self.call = call
        self.kind = kind

    def reads(self, topic: str) -> bool:
        return self.source == topic or (is_pattern(self.source) and matches(self.source, topic))


class Observers:
    """Who is called when a topic is published on in this process.

    Observers run one after another, in the order in which they were added, before the publish
    returns. An error of one goes to `Hooks.observer_failed` and reaches neither the publisher nor
    the others; a cancellation of the publisher reaches all. A bound method is held weakly and
    goes with its object; any other callable is held until it is removed. Adding and removing are
    cheap but not free: each forgets what was compiled. For one event loop.
    """

    def __init__(self, hooks: Hooks) -> None:
        self._hooks = hooks
        self._registrations: list[_Registration] = []
        self._compiled: dict[str, _Compiled] = {}

    def __len__(self) -> int:
        return len(self._registrations)

    def add(self, source: str, function: Observer, wants_message: bool) -> Callable[[], None]:
        """Register a sync or async callable of one argument; returns what removes it.

        The same callable may be added twice and is then called twice. The remover is idempotent.
        A dispatch that is under way when observers come or go still calls those it began with.

        Args:
            source: a topic's name or a pattern.
            function: called with the payload.
            wants_message: call it with the envelope instead.

        Raises:
            DeclarationError: a malformed pattern, or a method of an object without weak references.
        """
        check_pattern(source)
        weak = inspect.ismethod(function)
        registration = _Registration(source, function, 2 * wants_message + weak)
        remove = partial(self._remove, registration)
        if weak:
            registration.call = _weak(function, remove)
        self._registrations.append(registration)
        self._compiled.clear()
        return remove

    def _remove(self, registration: _Registration) -> None:
        if registration in self._registrations:
            self._registrations.remove(registration)
            self._compiled.clear()

    def observed(self, name: str) -> bool:
        """Whether anybody observes the topic."""
        return bool(self._compiled.get(name) or self._compile(name))

    async def dispatch(self, name: str, payload: object, make_message: MakeMessage) -> None:
        """Call a topic's observers with the payload, or with the envelope, which is made at most
        once and only if one of them wants it. Raises nothing of theirs."""
        observers = self._compiled.get(name)
        if observers is None:
            observers = self._compile(name)
        message: Message | None = None
        for call, kind in observers:
            try:
                if not kind:  # _PLAIN
                    result = call(payload)
                else:
                    target = call() if kind & _WEAK else call
                    if target is None:  # its object died
                        continue
                    if kind & _MESSAGE:
                        if message is None:
                            message = make_message()
                        result = target(message)
                    else:
                        result = target(payload)
                if type(result) is CoroutineType:
                    await result
                elif result is not None:
                    await _awaited(result)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is the observer's
                self._failed(name, call, error)

    def _compile(self, name: str) -> _Compiled:
        if len(self._compiled) >= _MOST_COMPILED:
            self._compiled.clear()
        found = tuple((r.call, r.kind) for r in self._registrations if r.reads(name))
        self._compiled[name] = found
        return found

    def _failed(self, topic: str, call: Any, error: Exception) -> None:
        observer = call() if isinstance(call, WeakMethod) else call
        try:
            self._hooks.observer_failed(topic, _name(observer), error)
        except Exception as fault:  # noqa: BLE001 - a hook's fault is not the publisher's either
            asyncio.get_running_loop().call_exception_handler(
                {"message": "Hooks.observer_failed raised", "exception": fault}
            )


def _weak(method: Any, gone: Callable[[], None]) -> WeakMethod[Any]:
    try:
        return WeakMethod(method, lambda _: gone())
    except TypeError:
        raise DeclarationError(
            f"{_name(method)} cannot observe: its object takes no weak references; add "
            "__weakref__ to the class's __slots__, or register a function that calls it"
        ) from None


async def _awaited(result: object) -> None:
    """Await what a plain function returned, if it can be awaited."""
    if isinstance(result, Awaitable):
        await result


def _name(observer: object) -> str:
    return getattr(observer, "__qualname__", None) or repr(type(observer).__qualname__)
