"""Named SQL: every file parses, every statement is one that SQLite can prepare."""

from __future__ import annotations

import re
import sqlite3
from importlib import resources

import pytest

from postroad.storage.migrations import migrations, split
from postroad.storage.statements import load, parse


def test_blocks_are_named() -> None:
    assert parse("-- a file\n-- name: one\nSELECT 1;\n\n-- name: two\nSELECT\n  2;\n") == {
        "one": "SELECT 1",
        "two": "SELECT\n  2",
    }


def test_a_name_occurs_once() -> None:
    with pytest.raises(ValueError, match="twice"):
        parse("-- name: one\nSELECT 1;\n-- name: one\nSELECT 2;")


def test_sql_needs_a_name() -> None:
    with pytest.raises(ValueError, match="before the first"):
        parse("SELECT 1;\n-- name: one\nSELECT 2;")


def test_every_statement_fits_the_schema() -> None:
    connection = sqlite3.connect(":memory:")
    for script in migrations():
        for statement in split(script):
            connection.execute(statement)
    folder = resources.files("postroad.storage").joinpath("sqlite")
    subjects = [item.name.removesuffix(".sql") for item in folder.iterdir() if item.is_file()]
    assert {"log", "groups", "claims", "retries", "sessions", "schema"} <= set(subjects)
    connection.execute(load("sqlite", "schema")["create_meta"])
    for subject in subjects:
        for statement in load("sqlite", subject).values():
            numbered = max(map(int, re.findall(r"\?(\d+)", statement)), default=0)
            connection.execute(f"EXPLAIN {statement}", [None] * (numbered or statement.count("?")))
    connection.close()


def test_every_table_is_ours_by_name() -> None:
    connection = sqlite3.connect(":memory:")
    for script in migrations():
        for statement in split(script):
            connection.execute(statement)
    names = [row[0] for row in connection.execute("SELECT name FROM sqlite_schema")]
    connection.close()
    assert all(name.startswith(("postroad_", "sqlite_")) for name in names)
