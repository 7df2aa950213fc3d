"""Which fields of a decoded JSON value the payload's type does not know."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

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


def _walk_pydantic(value: object, model: Any, path: str) -> Iterator[str]:
    if not isinstance(value, dict):
        return
    aliases = {field.alias or name: field for name, field in model.model_fields.items()}
    for name, item in value.items():
        if name not in aliases:
            yield _join(path, name)
            continue
        nested = aliases[name].annotation
        if hasattr(nested, "model_fields"):
            yield from _walk_pydantic(item, nested, _join(path, name))


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
