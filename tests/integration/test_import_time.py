"""Importing Postroad costs next to nothing: what is heavy is imported when it is used.

Structural, since a clock lies on a busy machine; `make bench BENCH=startup` measures.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {
    "asyncio",
    "concurrent.futures",
    "cronsim",
    "ctypes",
    "dataclasses",
    "email",
    "http",
    "importlib.metadata",
    "importlib.resources",
    "inspect",
    "logging",
    "msgspec",
    "multiprocessing",
    "pydantic",
    "random",
    "rich",
    "socket",
    "sqlite3",
    "ssl",
    "subprocess",
    "tempfile",
    "traceback",
    "typer",
    "urllib.parse",
    "uuid",
}


def modules_after(code: str) -> set[str]:
    """What a fresh interpreter has imported after the code and had not before it."""
    script = (
        "import sys; before = set(sys.modules)\n"
        f"{code}\n"
        "print(*sorted(set(sys.modules) - before), sep='\\n', file=sys.stderr)"
    )
    # -S: what the environment's site-packages import at every start is not ours to answer for.
    paths = f"import sys; sys.path[:] = {sys.path!r}\n"
    done = subprocess.run(
        [sys.executable, "-S", "-c", paths + script],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return set(done.stderr.split())


def test_importing_postroad_imports_nothing_heavy() -> None:
    found = modules_after("import postroad")
    assert found & HEAVY == set()
    assert {name for name in found if name.startswith("postroad")} == {"postroad"}


@pytest.mark.parametrize(
    ("code", "unneeded"),
    [
        (
            "from postroad import Topic, Retry, Message",
            {"sqlite3", "rich", "typer", "postroad.app"},
        ),
        ("from postroad import Postroad; Postroad('memory://')", {"sqlite3", "rich", "typer"}),
        (
            "from postroad import Postroad; Postroad('sqlite:///shop.db')",
            {"rich", "typer", "postroad.transports.memory", "http", "multiprocessing"},
        ),
        (
            "import postroad; postroad.idempotency",
            {"asyncio", "sqlite3", "msgspec", "postroad.idempotency.keys"},
        ),
        (
            "from postroad.cli.program import run; run(['--help'])",
            {"asyncio", "sqlite3", "rich", "msgspec", "postroad.app", "importlib.metadata"},
        ),
    ],
)
def test_what_is_not_used_is_not_imported(code: str, unneeded: set[str]) -> None:
    assert modules_after(code) & unneeded == set()


def test_every_public_name_is_found_and_listed() -> None:
    code = (
        "import postroad\n"
        "assert set(postroad.__all__) <= set(dir(postroad))\n"
        "for name in postroad.__all__: getattr(postroad, name)"
    )
    assert "postroad.app" in modules_after(code)
