"""Writes docs/cli.md from the commands' own help: `python -m tools.cli_page`."""

from __future__ import annotations

import io
import os
from contextlib import redirect_stdout
from pathlib import Path
from unittest.mock import patch

from postroad.cli.commands.dead_letters import app as dead_letters
from postroad.cli.exits import MEANINGS
from postroad.cli.program import COMMANDS, run

PAGE = Path(__file__).parent.parent / "docs" / "cli.md"

_HEAD = """\
# The command line

<!-- Written by `python -m tools.cli_page` from the commands' own help; a test compares. -->

## Which road

A command needs a ROAD, its first argument:

- an app as `module:attribute`, for example `shop:road`: the module is looked up in the current
  directory first. What the app declares is known: types, keys, owners, subscriptions;
- or a URL, for example `sqlite:///shop.db`: then topics and groups are those that the road has.
  Nothing is declared through a URL, so a topic's settings stay as they are, and a file that is not
  there is not created.

Where ROAD is left out, the environment variable `POSTROAD_ROAD` names it:

```
export POSTROAD_ROAD=shop:road
postroad lag --watch
postroad tail 'orders.*'
postroad dead-letters redrive --topic orders.created
```

Durations are written `500ms`, `30s`, `5m`, `2h` or `1d`; places in a log `earliest`, `latest`, an
instant with its zone (`2026-01-31T12:00:00Z`) or `partition:offset` (`0:1042`).

## For scripts

Every command takes `--json`: then standard output is JSON and nothing else, and an error is one
JSON object on standard error. Commands that go on (`tail`, `run`, `lag --watch`) print one JSON
value a line. Unknown is `null`, never 0; durations are seconds, instants ISO 8601 in UTC. A
payload is never printed unless `--payload` asks for it.

{codes}

Completion for the current shell: `postroad --install-completion`.
"""


def page() -> str:
    """The whole page."""
    codes = ["| exit code | |", "|---|---|"]
    codes += [f"| {code.value} | {meaning} |" for code, meaning in MEANINGS.items()]
    sections = [_HEAD.replace("{codes}", "\n".join(codes))]
    sections += [_section(words) for words in command_lines()]
    return "\n".join(sections)


def command_lines() -> list[list[str]]:
    """Every command, those inside a group too."""
    lines = []
    for name in COMMANDS:
        lines.append([name])
        if name == "dead-letters":
            names = [command.name for command in dead_letters.registered_commands]
            lines += [[name, inner] for inner in names if inner]
    return lines


def help_of(words: list[str]) -> str:
    """What a command's --help prints on a terminal of 80 columns."""
    printed = io.StringIO()
    with patch.dict(os.environ, COLUMNS="80"), redirect_stdout(printed):
        code = run([*words, "--help"])
    if code:
        raise RuntimeError(f"{' '.join(words)} --help ended with {code}")
    return printed.getvalue()


def _section(words: list[str]) -> str:
    text, _, _ = help_of(words).partition("\n  Exit codes:")
    return f"## {' '.join(words)}\n\n```text\n{text.rstrip()}\n```\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
