"""Runs the tools of the package managers, which end by themselves."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.services.harness.program import Unavailable

# Downloads of some tens of megabytes over a slow line.
DEADLINE_SECONDS = 600.0


def require_tool(name: str) -> str:
    """Return the path of a tool on PATH, else raise Unavailable."""
    found = shutil.which(name)
    if found is None:
        raise Unavailable(f"{name} is not installed")
    return found


def output_of(
    command: Sequence[str],
    *,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run a package tool and return what it printed; raise Unavailable with its complaint."""
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env={**os.environ, "LC_ALL": "C", **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=DEADLINE_SECONDS,
            check=False,
        )
    except FileNotFoundError:
        raise Unavailable(f"{command[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{_title(command)} took over {DEADLINE_SECONDS:.0f} s") from None
    if done.returncode != 0:
        raise Unavailable(f"{_title(command)} failed: {_gist(done.stdout + done.stderr)}")
    return done.stdout


def _title(command: Sequence[str]) -> str:
    words = [word for word in command[1:] if not word.startswith("-") and "=" not in word]
    return " ".join([Path(command[0]).name, *words[:3]])


def _gist(report: str) -> str:
    """Return what a tool complained of: its first error lines, else its last words."""
    report = _ADDRESS.sub("(address)", _COLOUR.sub("", report))
    lines = [line.strip() for line in report.splitlines() if line.strip()]
    errors = [line for line in lines if _ERROR.match(line)]
    return " / ".join(errors[:2] or lines[-2:]) or "it said nothing"


_COLOUR = re.compile(r"\x1b\[[\d;]*m")
# apt-get, pip and Maven.
_ERROR = re.compile(r"(E: |ERROR: |\[ERROR\] )(?=\S)")
# A mirror's address is the machine's own affair, and may hold a password.
_ADDRESS = re.compile(r"\bhttps?://\S+")
