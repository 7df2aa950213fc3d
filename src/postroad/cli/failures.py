"""From an error to what a person or a script reads, and to the exit code."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Any

import typer

from postroad.cli.exits import ExitCode
from postroad.cli.output import error_console, json_line, plain
from postroad.errors import DeclarationError, PostroadError

_USAGE: type[Exception] = next(
    base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException"
)


def report(error: BaseException, *, as_json: bool) -> int:
    """Tell about an error on standard error; returns the exit code.

    What Postroad raises on purpose is one message that names the remedy; anything else is a bug
    and comes with its traceback.
    """
    if isinstance(error, BrokenPipeError):  # the reader had enough, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        _tell("Interrupted", "interrupted", ExitCode.INTERRUPTED, as_json)
        return ExitCode.INTERRUPTED
    if isinstance(error, _USAGE):
        return _report_usage(error, as_json)
    if isinstance(error, PostroadError):
        code = ExitCode.USAGE if isinstance(error, DeclarationError) else ExitCode.FAILURE
        _tell(type(error).__name__, str(error), code, as_json)
        return code
    trace = "".join(traceback.format_exception(error))
    if as_json:
        _tell(type(error).__name__, str(error), ExitCode.BUG, as_json, traceback=trace)
    else:
        sys.stderr.write(trace)
    return ExitCode.BUG


def _report_usage(error: Any, as_json: bool) -> int:
    text = error.format_message()
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":  # its text is the help
        sys.stderr.write(text + "\n")
        return ExitCode.USAGE
    if context is not None and not as_json:
        sys.stderr.write(f"{context.get_usage()}\nMore: {context.command_path} --help\n\n")
    _tell("UsageError", text, ExitCode.USAGE, as_json)
    return ExitCode.USAGE


def _tell(kind: str, text: str, code: ExitCode, as_json: bool, **more: str) -> None:
    if as_json:
        found = {"type": kind, "message": text, "exit_code": int(code), **more}
        sys.stderr.write(json_line({"error": found}) + "\n")
        return
    console = error_console()
    console.print("[bold red]Error:[/] " if code != ExitCode.INTERRUPTED else "", end="")
    console.print(plain(text, lines=True), style="red", markup=False, highlight=False)
