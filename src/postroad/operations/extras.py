"""Which optional dependencies are there, read from the metadata of the installed package."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata

_REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9._-]+).*\bextra\s*==\s*['\"](?P<extra>[^'\"]+)['\"]")
_OURS = ("dev",)
"""Extras for work on Postroad itself: nobody else misses them."""


@dataclass(frozen=True)
class Extra:
    """An extra and the distributions behind it; None stands for one that is missing."""

    name: str
    needs: Mapping[str, str | None]

    @property
    def complete(self) -> bool:
        """Whether nothing of it is missing."""
        return None not in self.needs.values()


def installed() -> list[Extra]:
    """Every extra that users may want, by name."""
    needs: dict[str, dict[str, str | None]] = {}
    for requirement in metadata.requires("postroad") or ():
        found = _REQUIREMENT.match(requirement)
        if found is not None and found["extra"] not in _OURS:
            needs.setdefault(found["extra"], {})[found["name"]] = _version(found["name"])
    return [Extra(name, needs[name]) for name in sorted(needs)]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
