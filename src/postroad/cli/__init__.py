"""Floor 7: the command line. Parses arguments, calls what is below, prints."""

from __future__ import annotations


def main() -> None:
    """The `postroad` program."""
    from postroad.cli.program import run

    raise SystemExit(run())
