"""From an error to an exit code and to what is said."""

from __future__ import annotations

import json

import pytest
import typer

from postroad.cli.exits import ExitCode
from postroad.cli.failures import report
from postroad.cli.shell import BadUsage
from postroad.errors import (
    GuaranteeError,
    InvalidURLError,
    NotFoundError,
    PublishError,
    StorageBusyError,
)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotFoundError("no topic 'a'"), ExitCode.FAILURE),
        (StorageBusyError("locked"), ExitCode.FAILURE),
        (PublishError({0: NotFoundError("x")}), ExitCode.FAILURE),
        (InvalidURLError("no file"), ExitCode.USAGE),
        (GuaranteeError("a → b", ["order key: none"]), ExitCode.USAGE),
        (BadUsage("needs a TOPIC"), ExitCode.USAGE),
        (KeyboardInterrupt(), ExitCode.INTERRUPTED),
        (typer.Abort(), ExitCode.INTERRUPTED),
        (ZeroDivisionError("oh"), ExitCode.BUG),
    ],
)
def test_every_error_has_its_exit_code(
    error: BaseException, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(error, as_json=False) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err
    assert report(error, as_json=True) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert json.loads(said.err)["error"]["exit_code"] == code


def test_what_postroad_raises_has_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    error = NotFoundError("no topic '[bold]a[/]'")
    error.add_note("the 3 lines before are published")
    report(error, as_json=False)
    said = capsys.readouterr().err
    assert said == "Error: no topic '[bold]a[/]'\nthe 3 lines before are published\n"


def test_a_bug_has_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def broken() -> None:
        raise ZeroDivisionError("oh")

    try:
        broken()
    except ZeroDivisionError as error:
        report(error, as_json=False)
        assert "in broken" in capsys.readouterr().err
        report(error, as_json=True)
        assert "in broken" in json.loads(capsys.readouterr().err)["error"]["traceback"]
