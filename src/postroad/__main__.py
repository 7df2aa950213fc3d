"""`python -m postroad`: the `postroad` program, where its script is not on the path."""

from __future__ import annotations

from postroad.cli import main

if __name__ == "__main__":
    main()
