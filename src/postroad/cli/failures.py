"""From an error to what a person or a script reads, and to the exit code."""

from __future__ import annotations

import os
import sys
import traceback
from types import TracebackType
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
        _tell(
            "Interrupted",
            "\ninterrupted" if not as_json else "interrupted",
            ExitCode.INTERRUPTED,
            as_json,
        )
        return ExitCode.INTERRUPTED
    if isinstance(error, _USAGE):
        return _report_usage(error, as_json)
    if isinstance(error, PostroadError):
        code = ExitCode.USAGE if isinstance(error, DeclarationError) else ExitCode.FAILURE
        text = "\n".join([str(error), *getattr(error, "__notes__", ())])
        _tell(type(error).__name__, text, code, as_json)
        return code
    own = _without_our_frames(error.__traceback__)
    trace = "".join(traceback.format_exception(type(error), error, own))
    if as_json:
        _tell(type(error).__name__, str(error), ExitCode.BUG, as_json, traceback=trace)
    else:
        sys.stderr.write(trace)
    return ExitCode.BUG


def _without_our_frames(trace: TracebackType | None) -> TracebackType | None:
    """The part of an app's module, where importing that raised; else all of it."""
    link = trace
    while link is not None and not _is_importlib(link):
        link = link.tb_next
    if link is None:
        return trace
    while link is not None and _is_importlib(link):
        link = link.tb_next
    return link


def _is_importlib(link: TracebackType) -> bool:
    return "importlib" in link.tb_frame.f_code.co_filename


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
    from rich.text import Text

    line = Text(plain(text, lines=True), style="red")
    if code != ExitCode.INTERRUPTED:
        line = Text("Error: ", style="bold red") + line
    error_console().print(line)
