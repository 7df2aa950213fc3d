"""Floor 7: the command line. Parses arguments, calls what is below, prints."""

from __future__ import annotations


def main() -> None:
    """The `postroad` program."""
    try:
        from postroad.cli.program import run

        code = run()
    except KeyboardInterrupt:  # before or after the place that reports it
        code = 130
    raise SystemExit(code)
