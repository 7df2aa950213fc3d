"""Every Python block of the README and the docs runs, and every example prints what it says.

The blocks of one page are one program, run in an empty folder. What a comment says that it prints
(`# prints: balanced`) is what the page prints. A block that cannot run says why in its info string:
```` ```python no-run needs a broker ````.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")])
EXAMPLES = sorted(ROOT.glob("examples/*.py"))

_BLOCK = re.compile(r"^```python *(?P<info>[^\n]*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
_PRINTS = re.compile(r"# prints: (.*)")
_SAYS = re.compile(r"^It prints:\n\n((?:    .*\n)+)", re.MULTILINE)


class Block(NamedTuple):
    """A block of a page."""

    line: int
    info: str
    code: str


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(text.count("\n", 0, found.start("code")), found["info"], found["code"])
        for found in _BLOCK.finditer(text)
    ]


def program_of(page: Path) -> str:
    """The page's blocks at their own lines, so that a traceback names the page's lines."""
    lines: list[str] = []
    for block in blocks_of(page):
        if not block.info:
            lines += [""] * (block.line - len(lines))
            lines += block.code.splitlines()
    return "\n".join(lines) + "\n"


def run(command: list[str], folder: Path, **environment: str) -> str:
    """Run Python in a folder, warnings being errors; returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize(
    "page", [p for p in PAGES if blocks_of(p)], ids=lambda page: str(page.relative_to(ROOT))
)
def test_the_blocks_of_a_page_run(page: Path, tmp_path: Path) -> None:
    program = program_of(page)
    file = tmp_path / f"{page.stem}.py"
    file.write_text(program)
    assert run([str(file)], tmp_path).splitlines() == _PRINTS.findall(program)


def test_a_block_that_is_not_run_says_why() -> None:
    infos = [(page.name, block.info) for page in PAGES for block in blocks_of(page) if block.info]
    for page, info in infos:
        word, _, reason = info.partition(" ")
        assert word == "no-run", f"{page}: {info!r} is no info string of a block"
        assert reason, f"{page}: say why it is not run"


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_prints_what_it_says(example: Path, tmp_path: Path) -> None:
    said = _SAYS.search(example.read_text())
    assert said is not None, "its docstring says what it prints"
    printed = run(["-m", f"examples.{example.stem}"], tmp_path)
    assert [f"    {line}" for line in printed.splitlines()] == said[1].splitlines()


def test_outgrow_prints_the_same_on_a_durable_road(tmp_path: Path) -> None:
    command = ["-m", "examples.outgrow"]
    assert run(command, tmp_path, SHOP_ROAD="sqlite:///shop.db") == run(command, tmp_path)
    assert (tmp_path / "shop.db").exists()


def test_the_invoices_run_from_the_command_line(tmp_path: Path) -> None:
    """As its docstring says: a publisher here, handlers in processes of their own."""
    postroad = ["-m", "postroad"]
    assert "effectively-once" in run([*postroad, "explain", "examples.invoices:road"], tmp_path)
    serving = subprocess.Popen(
        [sys.executable, "-u", *postroad, "run", "examples.invoices:road", "--workers", "2"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        order = '{"order_id": 1, "customer": "ada", "total": "9.90"}'
        # Groups begin when they are first declared, which publishing through the app does too.
        run([*postroad, "publish", "examples.invoices:road", "orders.created", order], tmp_path)
        assert serving.stdout is not None
        assert any("invoice for ada: 9.90" in line for line in serving.stdout)
    finally:
        serving.send_signal(signal.SIGTERM)
        serving.communicate(timeout=60)
    assert "balanced" in run([*postroad, "audit", "examples.invoices:road"], tmp_path)
