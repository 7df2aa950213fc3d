"""Finds programs that a PyPI wheel ships as a binary."""

from __future__ import annotations

import os
import platform
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.services.harness.cache import cached
from tests.services.harness.commands import output_of
from tests.services.harness.program import Program, Unavailable


@dataclass(frozen=True)
class Wheel:
    """Executables at `paths` (globs below the installed wheel) of a pinned requirement.

    The wheel is installed into the cache, apart from the environment of the tests, and
    without its dependencies.
    """

    requirement: str
    paths: tuple[str, ...]

    def find(self) -> Program:
        root = cached(self._name(), self._fill)
        return Program(
            {path.name: path for path in (self._match(root, glob) for glob in self.paths)},
            origin=f"PyPI wheel {self.requirement}, in {root}",
        )

    def _name(self) -> str:
        slug = re.sub(r"[^\w.]+", "-", self.requirement)
        return f"wheels/{platform.machine()}/{slug}"

    def _fill(self, root: Path) -> None:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        output_of(
            [*pip, "--no-deps", "--only-binary=:all:", f"--target={root}", self.requirement],
            # Root is told not to use pip, but this installs into a folder of our own.
            environment={"PIP_ROOT_USER_ACTION": "ignore"},
        )

    def _match(self, root: Path, pattern: str) -> Path:
        for path in sorted(root.glob(pattern)):
            if os.access(path, os.X_OK):
                return path
        raise Unavailable(f"the wheel {self.requirement} has no executable {pattern}")
