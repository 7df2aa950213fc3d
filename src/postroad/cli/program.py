"""The program: one lazy group of commands, and the one place where errors become exit codes.

A command's module is imported when the command is used. The list below is all that
`postroad --help` needs, so that it prints before anything heavy is imported.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.main
from typer.core import TyperGroup

from postroad.cli.exits import EPILOG, ExitCode
from postroad.cli.shell import HELP_NAMES, BadUsage

if TYPE_CHECKING:
    from collections.abc import Callable

COMMANDS = {
    "run": "Run an app's handlers, in one or more worker processes.",
    "relay": "Publish what business transactions left in an outbox.",
    "publish": "Publish a message, or one for each line of a file.",
    "tail": "Print messages as they arrive, without a group and without effect.",
    "topics": "List the topics on a road.",
    "lag": "Show how far groups are behind, in messages and in seconds.",
    "dead-letters": "List, show, redrive and discard messages that a group gave up.",
    "replay": "Move a group at rest to another place in a topic's history.",
    "explain": "Print what the road keeps of each guarantee, and who keeps it.",
    "audit": "Prove that every accepted message is in exactly one state.",
    "migrate": "Create our tables in a database, or bring them up to date.",
    "doctor": "Check this environment and a road, and say what to install.",
    "demo": "Replay real departures of New York through a road of your own.",
    "bench": "Measure a road from here: rates and latencies.",
}
"""Every command with the first line of its help; a test holds the two together."""


class Commands(TyperGroup):
    """A group that imports a command when it is asked for it."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"postroad.cli.commands.{cmd_name.replace('-', '_')}")
        command = typer.main.get_command(module.app)
        command.name = cmd_name
        return command

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            near = get_close_matches(args[0], COMMANDS, n=1)
            raise BadUsage(
                f"there is no command {args[0]!r}" + (f"; did you mean {near[0]}?" if near else "")
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


program = typer.Typer(
    name="postroad",
    cls=Commands,
    rich_markup_mode=None,
    no_args_is_help=True,
    epilog=EPILOG,
    context_settings=HELP_NAMES,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"postroad {version('postroad')}")
        raise typer.Exit


@program.callback()
def _program(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Messaging over any road, from in-process to a broker.

    A ROAD is an app as module:attribute (shop:road, looked up in the current directory) or a URL
    (sqlite:///shop.db). Where it is left out, the environment variable POSTROAD_ROAD names it.
    Every command takes --json: then standard output is JSON and nothing else, and so are errors
    on standard error.
    """


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command line (by default this process's) and return its exit code. Never raises."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    command: Callable[..., Any] = typer.main.get_command(program).main
    try:
        code = command(args=words, prog_name="postroad", standalone_mode=False)
    except SystemExit as end:  # shell completion ends so
        return end.code if isinstance(end.code, int) else 0
    except BaseException as error:  # noqa: BLE001 - the one place where errors become exit codes
        from postroad.cli.failures import report

        return report(error, as_json="--json" in words)
    if code == ExitCode.INTERRUPTED and sys.stderr.isatty():
        sys.stderr.write("\n")  # behind the terminal's ^C
    return code if isinstance(code, int) else 0
