"""What roads do natively, as facts for a table or for JSON."""

from __future__ import annotations

from dataclasses import fields
from datetime import timedelta
from typing import TypeAlias

from postroad.core.capabilities import ANY_DELAY, Capabilities

Fact: TypeAlias = "bool | int | str | list[str] | None"


def facts(capabilities: Capabilities) -> dict[str, Fact]:
    """Every capability by name, in the order of their declaration."""
    return {field.name: _fact(getattr(capabilities, field.name)) for field in fields(capabilities)}


def _fact(value: object) -> Fact:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, timedelta):
        if not value:
            return None
        return "any" if value >= ANY_DELAY else str(value)
    raise TypeError(f"a capability of type {type(value).__name__}")


def cell(value: Fact) -> str:
    """A fact as the text of a table's cell."""
    if isinstance(value, bool):
        return "✓" if value else "-"
    if isinstance(value, list):
        return ", ".join(value) or "-"
    return "-" if value is None else str(value)
