"""Every command's help runs, agrees with the list of commands, and with the documentation."""

from __future__ import annotations

import re

import pytest

from postroad.cli.exits import MEANINGS
from postroad.cli.program import COMMANDS, run
from tools.cli_page import PAGE, command_lines, help_of, page


@pytest.mark.parametrize("words", command_lines(), ids=" ".join)
def test_every_command_has_help_with_its_exit_codes(words: list[str]) -> None:
    text = help_of(words)
    assert text.startswith(f"Usage: postroad {' '.join(words)} ")
    for code, meaning in MEANINGS.items():
        assert re.search(rf"^ +{code.value}  {re.escape(meaning)}$", text, re.MULTILINE)
    assert "--help" in text


@pytest.mark.parametrize("words", command_lines(), ids=" ".join)
def test_every_command_takes_json(words: list[str]) -> None:
    if words != ["dead-letters"]:
        assert "--json" in help_of(words)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_says_what_the_command_says_of_itself(name: str) -> None:
    _, first, *_ = help_of([name]).split("\n\n")
    assert " ".join(first.split()) == COMMANDS[name]


def test_the_program_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    listed = capsys.readouterr().out
    for name in COMMANDS:
        assert re.search(rf"^  {name}  ", listed, re.MULTILINE)


def test_the_page_in_the_documentation_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `python -m tools.cli_page`"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert re.fullmatch(r"postroad \d+\.\d+.*\n", capsys.readouterr().out)


def test_a_mistyped_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["lga"]) == 2
    assert "did you mean lag?" in capsys.readouterr().err
