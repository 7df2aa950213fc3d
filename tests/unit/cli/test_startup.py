"""The program answers at once: nothing heavy is imported before it is needed."""

from __future__ import annotations

import resource
import subprocess
import sys

HELP = [sys.executable, "-m", "postroad", "--help"]


def test_help_takes_less_than_a_quarter_of_a_second() -> None:
    best = min(_seconds(HELP) for _ in range(5))
    assert best < 0.250, f"postroad --help took {best * 1000:.0f} ms"


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from postroad.cli.program import run; run(['--help']); "
        "heavy = {'asyncio', 'sqlite3', 'msgspec', 'rich', 'postroad.app', 'postroad.core'}; "
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_completion_lists_the_commands() -> None:
    asked = {"_POSTROAD_COMPLETE": "complete_bash", "COMP_WORDS": "postroad l", "COMP_CWORD": "1"}
    done = subprocess.run(
        HELP[:-1], env=asked, capture_output=True, text=True, check=False, timeout=30
    )
    assert done.stdout.split() == ["lag"]


def _seconds(command: list[str]) -> float:
    """Of processor time, which is the whole time on a machine that has nothing else to do, and
    does not depend on what else this one has to do."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
