"""What a finder returns: a program that this machine can run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


class Unavailable(Exception):
    """A server cannot be had on this machine; the message says why, for a reader."""


@dataclass(frozen=True)
class Program:
    """Executables by name, with what they need to run.

    `origin` tells a reader where they came from. `environment` is added to the environment
    of each process. `classpath` is set where the program is made of Java archives.
    """

    executables: Mapping[str, Path]
    origin: str
    environment: Mapping[str, str] = field(default_factory=dict)
    classpath: str | None = None

    def __getitem__(self, name: str) -> str:
        """Return the path of an executable that the finder was asked for."""
        return str(self.executables[name])


class Finder(Protocol):
    """One way to get a program."""

    def find(self) -> Program:
        """Return the program, or raise Unavailable. May download; must be repeatable."""
        ...


def first_found(finders: Sequence[Finder]) -> Program:
    """Return what the first successful finder found; else raise Unavailable with all reasons."""
    reasons = []
    for finder in finders:
        try:
            return finder.find()
        except Unavailable as reason:
            reasons.append(str(reason))
    raise Unavailable("; ".join(reasons) or "nothing says where to find it")
