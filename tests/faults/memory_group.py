"""A memory control group, in which the kernel's OOM killer ends a process that takes too much."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_LIMIT = 400 << 20
VARIABLE = "POSTROAD_TEST_MEMORY_GROUP"
"""Tells a child process which group to join."""


@contextmanager
def memory_group() -> Iterator[Path | None]:
    """A group of its own with a limit; None where this process may not make one."""
    parent = _ROOT / "memory" if (_ROOT / "memory").is_dir() else _ROOT
    limit = "memory.limit_in_bytes" if parent.name == "memory" else "memory.max"
    group = parent / f"postroad-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError:
        yield None
        return
    try:
        made = True
        try:
            (group / limit).write_text(str(_LIMIT))
        except OSError:
            made = False
        yield group if made else None
    finally:
        group.rmdir()


def join(group: str) -> None:
    """Enter the group, for good."""
    (Path(group) / "cgroup.procs").write_text(str(os.getpid()))
