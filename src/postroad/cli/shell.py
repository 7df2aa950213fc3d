"""How commands look in a shell: usage lines, help, and errors about arguments."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperCommand

from postroad.cli.exits import EPILOG


class BadUsage(typer.BadParameter):
    """Wrong arguments; the text says all of it."""

    def format_message(self) -> str:
        return self.message


class PlainCommand(TyperCommand):
    """A command whose usage line and help show its arguments as they are written, without the
    brackets and types that are put around them elsewhere."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        metavars = [parameter.metavar for parameter in _arguments(self)]
        return [piece for piece in (self.options_metavar, *metavars) if piece]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        arguments = [
            (parameter.metavar or "", parameter.help or "") for parameter in _arguments(self)
        ]
        if arguments:
            with formatter.section("Arguments"):
                formatter.write_dl(arguments)
        options = [
            record
            for parameter in self.get_params(ctx)
            if parameter.param_type_name == "option"
            and (record := parameter.get_help_record(ctx)) is not None
        ]
        with formatter.section("Options"):
            formatter.write_dl(options)


def _arguments(command: TyperCommand) -> list[Any]:
    return [parameter for parameter in command.params if parameter.param_type_name == "argument"]


HELP_NAMES = {"help_option_names": ["-h", "--help"]}

COMMAND: dict[str, Any] = {
    "cls": PlainCommand,
    "epilog": EPILOG,
    "context_settings": HELP_NAMES,
}
"""What every `@app.command(**COMMAND)` has in common."""


def command_app(*, group: bool = False) -> typer.Typer:
    """The Typer of one command, or of a group of them."""
    return typer.Typer(
        rich_markup_mode=None,
        add_completion=False,
        no_args_is_help=group,
        epilog=EPILOG,
        context_settings=HELP_NAMES,
    )
