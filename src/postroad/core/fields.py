"""Payload types from inside: fields that they do not know, parts that have no JSON form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import repeat
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from msgspec import inspect


def unknown_fields(value: object, payload_type: Any) -> list[str]:
    """Paths (`order.lines[].colour`) of fields in `value` that `payload_type` lacks, sorted.

    Walks structs, dataclasses, TypedDicts, attrs and pydantic models through lists, dicts and
    unions; where a union leaves several types possible, a field known to one of them is known.
    """
    if hasattr(payload_type, "model_fields"):
        return sorted(set(_walk_pydantic(value, payload_type, "")))
    return sorted(set(_walk(value, _type_info(payload_type), "")))


@lru_cache(maxsize=1024)
def _type_info(payload_type: Any) -> inspect.Type:
    return inspect.type_info(payload_type)


def _walk(value: object, info: inspect.Type, path: str) -> Iterator[str]:
    if isinstance(info, inspect.UnionType):
        yield from _walk_union(value, info, path)
    elif isinstance(value, dict):
        yield from _walk_object(value, info, path)
    elif isinstance(value, list):
        yield from _walk_array(value, info, path)


def _walk_object(value: dict[str, Any], info: inspect.Type, path: str) -> Iterator[str]:
    if isinstance(info, inspect.DictType):
        for name, item in value.items():
            yield from _walk(item, info.value_type, _join(path, name))
        return
    fields = getattr(info, "fields", None)
    if fields is None:
        return
    known = {field.encode_name: field.type for field in fields}
    tag = getattr(info, "tag_field", None)
    for name, item in value.items():
        if name in known:
            yield from _walk(item, known[name], _join(path, name))
        elif name != tag:
            yield _join(path, name)


def _walk_array(value: list[Any], info: inspect.Type, path: str) -> Iterator[str]:
    if isinstance(info, inspect.TupleType):
        for item, kind in zip(value, info.item_types, strict=False):
            yield from _walk(item, kind, f"{path}[]")
        return
    item_type = getattr(info, "item_type", None)
    if item_type is not None:
        for item in value:
            yield from _walk(item, item_type, f"{path}[]")


def _walk_union(value: object, info: inspect.UnionType, path: str) -> Iterator[str]:
    kinds = [kind for kind in info.types if _could_be(value, kind)]
    if not kinds:
        return
    findings = [set(_walk(value, kind, path)) for kind in kinds]
    yield from set.intersection(*findings)


def _could_be(value: object, info: inspect.Type) -> bool:
    if isinstance(value, dict):
        tag = getattr(info, "tag_field", None)
        if tag is not None:
            return value.get(tag) == getattr(info, "tag", None)
        return isinstance(info, inspect.DictType) or hasattr(info, "fields")
    if isinstance(value, list):
        return isinstance(info, inspect.CollectionType | inspect.TupleType)
    return False


def _walk_pydantic(value: object, kind: Any, path: str) -> Iterator[str]:
    if hasattr(kind, "model_fields"):
        yield from _walk_model(value, kind, path)
        return
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        yield from _walk_pydantic(value, inner[0], path)
    elif origin in (Union, UnionType):
        findings = [set(_walk_pydantic(value, one, path)) for one in inner if _holds(value, one)]
        yield from set.intersection(*findings) if findings else ()
    elif isinstance(value, list) and inner:
        kinds = inner if origin is tuple and Ellipsis not in inner else repeat(inner[0])
        for item, one in zip(value, kinds, strict=False):
            yield from _walk_pydantic(item, one, f"{path}[]")
    elif isinstance(value, dict) and len(inner) == 2:
        for name, item in value.items():
            yield from _walk_pydantic(item, inner[1], _join(path, name))


def _walk_model(value: object, model: Any, path: str) -> Iterator[str]:
    if not isinstance(value, dict) or model.model_config.get("extra") == "allow":
        return
    known = _pydantic_fields(model)
    for name, item in value.items():
        if name in known:
            yield from _walk_pydantic(item, known[name], _join(path, name))
        else:
            yield _join(path, name)


@lru_cache(maxsize=1024)
def _pydantic_fields(model: Any) -> dict[str, Any]:
    """Every name under which the model reads a field → the field's type."""
    config = model.model_config
    by_name = config.get("populate_by_name") or config.get("validate_by_name")
    known: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        alias = field.validation_alias or field.alias
        names = {name} if by_name or alias is None else set()
        for one in getattr(alias, "choices", [alias]):
            first = getattr(one, "path", [one])[0]
            names |= {first} if isinstance(first, str) else set()
        known |= dict.fromkeys(names, field.annotation)
    return known


def _holds(value: object, kind: Any) -> bool:
    """Whether a JSON object or array may be of the kind, by its shape alone."""
    if get_origin(kind) is Annotated:
        return _holds(value, get_args(kind)[0])
    origin = get_origin(kind) or kind
    if isinstance(value, dict):
        return hasattr(kind, "model_fields") or origin in (dict, Mapping, Any)
    return isinstance(value, list) and origin in (list, tuple, set, frozenset, Sequence, Any)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def formless(payload_type: Any) -> list[str]:
    """Names of the types that occur in it and that msgspec knows no JSON form of, sorted.

    Raises:
        TypeError: msgspec cannot read the type at all.
        NameError: an annotation names what cannot be found from the module's top level.
    """
    found: set[str] = set()
    seen: set[int] = set()
    pending: list[Any] = [_type_info(payload_type)]
    while pending:
        info = pending.pop()
        if id(info) in seen:
            continue
        seen.add(id(info))
        if isinstance(info, inspect.CustomType):
            found.add(getattr(info.cls, "__qualname__", repr(info.cls)))
        pending += _parts(info)
    return sorted(found)


def _parts(info: inspect.Type) -> Iterator[Any]:
    for name in ("item_type", "key_type", "value_type", "type"):
        part = getattr(info, name, None)
        if isinstance(part, inspect.Type):
            yield part
    for name in ("types", "item_types"):
        yield from getattr(info, name, ())
    for field in getattr(info, "fields", ()):
        yield field.type
