"""Sphinx configuration; `make docs` turns every warning into an error."""

from __future__ import annotations

import re
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

from sphinx.pycode import ModuleAnalyzer

import postroad
from postroad.app import Postroad, catalog
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


def _gather_sides() -> None:
    """Show what the files of `postroad.road` bring to `Postroad` as its own, file by file and in
    the order of their sources; autodoc would leave it out, or sort it by name."""
    app = ModuleAnalyzer.for_module("postroad.app")
    app.analyze()
    sides = sorted(Postroad.__mro__[1:-1], key=lambda side: len(side.__mro__))
    names = [name for side in sides for name in vars(side) if not name.startswith("_")]
    for place, name in enumerate(names):
        app.tagorder[f"Postroad.{name}"] = place
        setattr(Postroad, name, getattr(Postroad, name))


def _hide_sides(app: object, name: str, obj: object, options: object, bases: list[type]) -> None:
    """Leave them out of the bases: they are not public."""
    if obj is Postroad:
        bases[:] = [object]


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
    _gather_sides()
    _write_capabilities()
    app.connect("autodoc-process-docstring", _markdown_code)
    app.connect("autodoc-process-bases", _hide_sides)
