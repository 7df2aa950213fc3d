"""`postroad migrate`: our tables in a database, created or brought up to date."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from postroad.cli.exits import ExitCode
from postroad.cli.options import Json, split_road
from postroad.cli.shell import COMMAND, BadUsage, command_app

if TYPE_CHECKING:
    from postroad.operations.migrating import Schema

app = command_app()


@app.command(**COMMAND)
def migrate(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[DATABASE]",
            help="The database's URL; or an app, for the database that it names.",
            show_default=False,
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; end with 3 if something is to be done.")
    ] = False,
    sql: Annotated[
        bool, typer.Option("--sql", help="Change nothing; print the statements to be run.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Create our tables in a database, or bring them up to date.

    Opening a road does the same, if its user may; so this is for a user that may, before a release,
    while the app itself runs as one that may only use the tables. It can be run again, and several
    at once. It refuses while consumers of an older version are at work.
    """
    from postroad.operations.migrating import bring_up_to_date, database_of, look

    if check and sql:
        raise BadUsage("--check and --sql answer two questions; ask one of them")
    url = database_of(split_road(words, most=0)[0])
    schema = look(url) if check or sql else bring_up_to_date(url)
    if as_json:
        _print_json(schema, changed=not (check or sql))
    elif sql:
        for statement in schema.statements:
            typer.echo(statement)
    else:
        typer.echo(_sentence(schema, changed=not check))
    if check and schema.found < schema.known:
        raise typer.Exit(ExitCode.CHECK)


def _print_json(schema: Schema, *, changed: bool) -> None:
    from postroad.cli.output import print_json

    print_json(
        {
            "database": schema.database,
            "found": schema.found,
            "version": schema.known,
            "up_to_date": changed or schema.found == schema.known,
            "statements": list(schema.statements),
        }
    )


def _sentence(schema: Schema, *, changed: bool) -> str:
    if schema.found == schema.known:
        return f"{schema.database}: version {schema.known}, nothing to do"
    if not changed:
        what = f"version {schema.found}" if schema.found else "no tables of ours"
        return f"{schema.database}: {what}, version {schema.known} is needed"
    what = f"from version {schema.found}" if schema.found else "created"
    return f"{schema.database}: {what}, now version {schema.known}"
