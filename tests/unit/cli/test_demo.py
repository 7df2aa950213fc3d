"""`postroad demo` hands its options on; the demo itself is tested elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from postroad.cli.program import run
from postroad.demo.run import DemoOptions


@pytest.mark.parametrize("code", [0, 3, 130])
def test_options_and_exit_code_are_handed_on(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    given: list[DemoOptions] = []

    def main(options: DemoOptions) -> int:
        given.append(options)
        return code

    monkeypatch.setattr("postroad.demo.run.main", main)
    words = ["demo", "--year", "--kill", "--speed", "5", "--workers", "3", "--dir", "d", "--json"]
    assert run(words) == code
    expected = DemoOptions(
        year=True, kill=True, speed=5.0, workers=3, directory=Path("d"), json=True
    )
    assert given == [expected]


@pytest.mark.parametrize(
    "words", [["--speed", "0"], ["--speed", "fast"], ["--workers", "0"], ["extra"]]
)
def test_wrong_options(words: list[str]) -> None:
    assert run(["demo", *words]) == 2
