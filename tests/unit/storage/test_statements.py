"""Named SQL: every file parses, every statement is one that SQLite can prepare."""

from __future__ import annotations

import re
import sqlite3
from importlib import resources

import pytest

from postroad.storage.migrations import migrations, split
from postroad.storage.statements import load, parse, styled

SUBJECTS = sorted(
    {
        item.name.removesuffix(".sql")
        for folder in ("common", "sqlite", "postgresql", "mysql")
        for item in resources.files("postroad.storage").joinpath(folder).iterdir()
        if item.name.endswith(".sql")
    }
)


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
    for script in migrations("sqlite"):
        for statement in split(script):
            connection.execute(statement)
    connection.execute(load("schema")["create_meta"].sqlite)
    for subject in SUBJECTS:
        for found in load(subject).values():
            sql = found.many(2).sqlite
            if not sql:
                continue  # of another dialect
            numbered = max(map(int, re.findall(r"\?(\d+)", sql)), default=0)
            connection.execute(f"EXPLAIN {sql}", [None] * (numbered or sql.count("?")))
    connection.close()


def test_parameters_in_each_style() -> None:
    written = "SELECT '?' -- why?\n FROM t WHERE a = ?2 AND b = ?1 OR c = ?2 AND d LIKE '%'"
    assert styled(written, "qmark").sql == written
    dollar = styled(written, "dollar")
    assert dollar.sql.split("\n")[1] == " FROM t WHERE a = $2 AND b = $1 OR c = $2 AND d LIKE '%'"
    assert dollar.arranged("xy") == "xy"
    percent = styled(written, "format")
    assert percent.sql.split("\n")[1] == " FROM t WHERE a = %s AND b = %s OR c = %s AND d LIKE '%%'"
    assert percent.arranged("xy") == ["y", "x", "y"]
    names = """UPDATE "a?--'" SET `b?"` = ?"""
    assert styled(names, "dollar").sql == names[:-1] + "$1"
    assert styled("VALUES (?, ?)", "named").sql == "VALUES (:p1, :p2)"
    assert styled("VALUES (?, ?)", "format") == ("VALUES (%s, %s)", None)


def test_every_table_is_ours_by_name() -> None:
    connection = sqlite3.connect(":memory:")
    for script in migrations("sqlite"):
        for statement in split(script):
            connection.execute(statement)
    names = [row[0] for row in connection.execute("SELECT name FROM sqlite_schema")]
    connection.close()
    assert all(name.startswith(("postroad_", "sqlite_")) for name in names)
