"""Finds programs that are installed on this machine."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.services.harness.accounts import server_account
from tests.services.harness.program import Program, Unavailable


@dataclass(frozen=True)
class Local:
    """Executables that lie together in a folder of PATH, or in one that `folders` (globs) match.

    Several matches of a glob are tried from the highest version down.
    """

    executables: tuple[str, ...]
    folders: tuple[str, ...] = ()

    def find(self) -> Program:
        account = server_account()
        closed = []
        for folder in self._candidates():
            paths = {name: folder / name for name in self.executables}
            if not all(os.access(path, os.X_OK) for path in paths.values()):
                continue
            if all(account.can_reach(path) for path in paths.values()):
                return Program(paths, origin=f"installed in {folder}")
            closed.append(str(folder))
        if closed:
            raise Unavailable(f"{closed[0]} is closed to the account that servers run as")
        raise Unavailable(f"no {' and '.join(self.executables)} on PATH")

    def _candidates(self) -> Iterator[Path]:
        yield from map(Path, filter(None, os.get_exec_path()))
        for pattern in self.folders:
            matches = Path("/").glob(pattern.lstrip("/"))
            yield from sorted(matches, key=_version_in, reverse=True)


def _version_in(path: Path) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", str(path)))
