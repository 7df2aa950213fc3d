"""Sphinx configuration; `make docs` turns every warning into an error."""

from __future__ import annotations

import re
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

import postroad
from postroad.app import catalog
from postroad.operations.roads import cell, facts

project = "Postroad"
author = "The Postroad developers"
copyright = "The Postroad developers"
release = version = version_of("postroad")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "_generated"]

html_theme = "furo"
html_title = f"Postroad {version}"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}

# Names of the standard library and of dependencies are not looked up elsewhere, because
# the build needs no network; nor are names that are not public, such as those in
# postroad.core, which annotations mention. A reference to a public name must resolve.
nitpick_ignore_regex = [
    (r"py:.*", r"(?!postroad\.).*"),
    (r"py:.*", r"postroad\.\w+\..*"),
]

_SINGLE_BACKTICKS = re.compile(r"(?<![`:\w])`([^`\n]+)`(?![`_])")


def _markdown_code(
    app: object, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Let docstrings write code as Markdown does, in single backticks."""
    lines[:] = [_SINGLE_BACKTICKS.sub(r"``\1``", line) for line in lines]


def _import_public_names() -> None:
    """Put names that `postroad` imports on first use where autodoc looks for them."""
    for name in getattr(postroad, "__all__", ()):
        vars(postroad)[name] = getattr(postroad, name)


def _write_capabilities() -> None:
    """The table of roads, from what each of them declares."""
    columns = {scheme: facts(road) for scheme, road in catalog().items()}
    names = list(next(iter(columns.values())))
    lines = [
        "| | " + " | ".join(f"`{scheme}`" for scheme in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for name in names:
        cells = (cell(column[name]) for column in columns.values())
        lines.append(f"| {name.replace('_', ' ')} | " + " | ".join(cells) + " |")
    target = Path(__file__).parent / "_generated" / "capabilities.md"
    target.parent.mkdir(exist_ok=True)
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")


def setup(app: Any) -> None:
    _import_public_names()
    _write_capabilities()
    app.connect("autodoc-process-docstring", _markdown_code)
