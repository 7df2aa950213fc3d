"""Handlers: what a function wants, checked against its topic once, then called without ado."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from postroad.core.delivery import Delivery
from postroad.core.message import Message
from postroad.core.subscription import Subscription
from postroad.core.topic import Topic
from postroad.core.transport import Transaction
from postroad.errors import HandlerTypeError

_EXTRAS = (Message, Delivery, Transaction)
_UNIONS = (Union, types.UnionType)


@dataclass(frozen=True)
class Handler:
    """A function with its wants known.

    Attributes:
        function: what the user wrote.
        name: its qualified name, for people.
        is_async: it is awaited; else it runs in a thread.
        yields: it is an async or plain generator of messages to publish.
        payload_type: what its first parameter is annotated with; None if with nothing.
        wants_payload: it takes the decoded payload (or a list of them).
        extras: name of each further parameter → which of `Message`, `Delivery`, `Transaction`.
    """

    function: Callable[..., Any]
    name: str
    is_async: bool
    yields: bool
    payload_type: Any
    wants_payload: bool
    extras: dict[str, Any]

    @property
    def wants_tx(self) -> bool:
        """Whether it takes a `Transaction`."""
        return Transaction in self.extras.values()

    def extra_arguments(self, delivery: Any, tx: Transaction | None) -> dict[str, Any]:
        """The keyword arguments beside the payload, for one delivery or a list of them."""
        arguments: dict[str, Any] = {}
        for name, kind in self.extras.items():
            if kind is Transaction:
                arguments[name] = tx
            elif kind is Delivery:
                arguments[name] = delivery
            elif isinstance(delivery, list):
                arguments[name] = [item.message for item in delivery]
            else:
                arguments[name] = delivery.message
        return arguments


def inspect_handler(function: Callable[..., Any], subscription: Subscription) -> Handler:
    """Read a handler's signature and hold it against its subscription.

    The first parameter is the payload; it may instead be annotated `Message` or `Delivery`.
    Further ones are recognised by these annotations and `Transaction`. With `batch`, the
    first is a list.

    Raises:
        HandlerTypeError: it cannot take what the topic carries.
    """
    target = _target(function)
    name = getattr(target, "__qualname__", type(function).__qualname__)
    parameters = _parameters(function, name)
    hints = _hints(target, name)
    batch = subscription.batch is not None
    wants_payload, payload_type, extras = _sort_parameters(parameters, hints, name, batch)
    if wants_payload:
        _check_payload(payload_type, subscription, name)
    return Handler(
        function=function,
        name=name,
        is_async=inspect.iscoroutinefunction(target) or inspect.isasyncgenfunction(target),
        yields=inspect.isasyncgenfunction(target) or inspect.isgeneratorfunction(target),
        payload_type=payload_type,
        wants_payload=wants_payload,
        extras=extras,
    )


def _target(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function that a call ends in: below partials, and of an object its `__call__`."""
    while isinstance(function, partial):
        function = function.func
    return function if inspect.isroutine(function) else type(function).__call__


def _parameters(function: Callable[..., Any], name: str) -> list[inspect.Parameter]:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        raise HandlerTypeError(
            f"the handler {name} does not tell its parameters; wrap it in a function"
        ) from None
    if not parameters:
        raise HandlerTypeError(f"the handler {name} takes no parameter; it needs the payload")
    if parameters[0].kind in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD):
        raise HandlerTypeError(
            f"the handler {name} takes no positional parameter; its first one is the payload"
        )
    return parameters


def _hints(target: Callable[..., Any], name: str) -> dict[str, Any]:
    try:
        return get_type_hints(target)
    except NameError as error:
        raise HandlerTypeError(
            f"the handler {name} has an annotation that cannot be resolved ({error}); "
            "define or import the name at module level, outside `if TYPE_CHECKING`"
        ) from None


def _sort_parameters(
    parameters: list[inspect.Parameter], hints: dict[str, Any], name: str, batch: bool
) -> tuple[bool, Any, dict[str, Any]]:
    first = parameters[0]
    extras: dict[str, Any] = {}
    for parameter in parameters:
        kind = _extra_kind(hints.get(parameter.name), name, batch)
        if kind is not None and parameter.kind is not parameter.POSITIONAL_ONLY:
            extras[parameter.name] = kind
        elif parameter is first and kind is None:
            continue
        elif parameter.default is parameter.empty and parameter.kind in (
            parameter.POSITIONAL_ONLY,
            parameter.POSITIONAL_OR_KEYWORD,
            parameter.KEYWORD_ONLY,
        ):
            raise HandlerTypeError(
                f"the handler {name} takes {parameter.name!r}, which nobody fills; beside the "
                "payload a handler may take Message, Delivery and Transaction, by annotation"
            )
    return first.name not in extras, hints.get(first.name), extras


def _extra_kind(annotation: Any, name: str, batch: bool) -> Any:
    element = _element(annotation)
    for kind in _EXTRAS:
        if annotation is not kind and element is not kind:
            continue
        if kind is not Transaction and batch is (annotation is kind):
            wanted, given = (f"list[{kind.__name__}]", "a list of them")
            if not batch:
                wanted, given = kind.__name__, "one at a time"
            raise HandlerTypeError(
                f"the handler {name} takes {_show(annotation)}, but "
                f"{'with' if batch else 'without'} batch it gets {given}; annotate it as {wanted}"
            )
        return kind
    return None


def _element(annotation: Any) -> Any:
    """T of list[T] or Sequence[T]; None for anything else."""
    if get_origin(annotation) in (list, Sequence):
        return get_args(annotation)[0]
    return None


def _check_payload(annotation: Any, subscription: Subscription, name: str) -> None:
    if subscription.batch is not None:
        if annotation in (None, Any, object, list, Sequence):
            return
        element = _element(annotation)
        if element is None:
            raise HandlerTypeError(
                f"the handler {name} takes {_show(annotation)}, but with batch it gets a list; "
                f"annotate it as list[{_show(annotation)}]"
            )
        annotation = element
    source = subscription.source
    if isinstance(source, Topic) and not accepts(annotation, source.type):
        raise HandlerTypeError(
            f"the handler {name} takes {_show(annotation)}, but topic {source.name!r} carries "
            f"{_show(source.type)}; change the annotation, or subscribe it to another topic"
        )


def accepts(annotation: Any, payload_type: Any) -> bool:
    """Whether every payload of the type is what the annotation says; None says nothing."""
    if annotation in (None, Any, object, inspect.Parameter.empty) or annotation == payload_type:
        return True
    if isinstance(annotation, typing.TypeVar):
        return True
    if get_origin(payload_type) is Annotated:
        return accepts(annotation, get_args(payload_type)[0])
    if get_origin(payload_type) in _UNIONS:
        return all(accepts(annotation, option) for option in get_args(payload_type))
    if get_origin(annotation) in _UNIONS:
        return any(accepts(option, payload_type) for option in get_args(annotation))
    if _is_typed_dict(payload_type):
        return annotation in (dict, Mapping) or get_origin(annotation) in (dict, Mapping)
    if _is_typed_dict(annotation):
        return False
    if isinstance(annotation, type) and isinstance(payload_type, type):
        try:
            return issubclass(payload_type, annotation)
        except TypeError:  # a protocol that cannot be asked
            return True
    return annotation is get_origin(payload_type) or get_origin(annotation) is payload_type


def _is_typed_dict(kind: Any) -> bool:
    return isinstance(kind, type) and hasattr(kind, "__total__")


def _show(annotation: Any) -> str:
    name = getattr(annotation, "__name__", None)
    return name if name and not get_args(annotation) else str(annotation)
