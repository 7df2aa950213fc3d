"""Exit codes: what a script can rely on."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """How a command ended."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    CHECK = 3
    BUG = 70
    INTERRUPTED = 130


MEANINGS = {
    ExitCode.OK: "done",
    ExitCode.FAILURE: "the road, its storage or a message failed",
    ExitCode.USAGE: "wrong arguments, or a declaration that cannot work",
    ExitCode.CHECK: "a check failed: audit, explain, doctor or migrate found something wrong",
    ExitCode.BUG: "an exception that nobody expected, with its traceback",
    ExitCode.INTERRUPTED: "interrupted",
}

EPILOG = "\b\nExit codes:\n" + "\n".join(
    f"  {code.value:>3}  {meaning}" for code, meaning in MEANINGS.items()
)
"""Stands at the end of every command's help, its lines as they are."""
