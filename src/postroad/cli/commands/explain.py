"""`postroad explain`: the contract that the check compiled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from postroad.cli.exits import ExitCode
from postroad.cli.options import Json, split_road
from postroad.cli.shell import COMMAND, command_app

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from postroad.core.capabilities import Capabilities
    from postroad.core.contract import Contract

app = command_app()

_MARKS = {
    "road": ("✓ road", "green"),
    "engine": ("+ engine", "cyan"),
    "store": ("+ store", "cyan"),
    "database": ("+ database", "cyan"),
    "nobody": ("✗ nobody", "bold red"),
}


@app.command(**COMMAND)
def explain(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ROAD]",
            help="An app, for its contracts; or a URL, for what its road does natively.",
            show_default=False,
        ),
    ] = None,
    capabilities: Annotated[
        bool, typer.Option("--capabilities", help="What each known road does natively, instead.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Print what the road keeps of each guarantee, and who keeps it.

    Nothing is opened and nothing is sent. Each wish of a subscription or topic is kept by the
    road itself, added by the engine or a store, or kept by nobody: then it ends with 3, and an
    app that is opened like this refuses.
    """
    if capabilities:
        from postroad.app import catalog

        _explain_roads(catalog(), as_json)
        return
    reference = split_road(words, most=0)[0]
    from postroad.operations.loading import is_url

    if is_url(reference):
        from postroad.app import Postroad

        road = Postroad(reference)
        _explain_roads({road.url: road.capabilities}, as_json)
    else:
        _explain_app(reference, as_json)


def _explain_app(reference: str, as_json: bool) -> None:
    from postroad.cli.output import print_json
    from postroad.cli.shapes import contract_shape
    from postroad.operations.loading import load_app

    road = load_app(reference)
    contracts = road.explain()
    if as_json:
        shapes = [contract_shape(contract) for contract in contracts]
        print_json({"road": road.url, "contracts": shapes})
    else:
        _print(road.url, contracts)
    if any(contract.gaps for contract in contracts):
        raise typer.Exit(ExitCode.CHECK)


def _print(url: str, contracts: Sequence[Contract]) -> None:
    from postroad.cli.output import console, plain

    out = console()
    out.print(f"road {plain(url)}", style="bold", markup=False)
    if not contracts:
        out.print("declares no topic and no subscription")
    for contract in contracts:
        print_contract(contract)
    gaps = sum(len(contract.gaps) for contract in contracts)
    if gaps:
        out.print(f"\n[bold red]✗ {gaps} kept by nobody[/]: this road refuses to open like this")


def print_contract(contract: Contract) -> None:
    """One contract as a table without lines."""
    from rich.table import Table
    from rich.text import Text

    from postroad.cli.output import console, plain

    console().print()
    console().print(Text(plain(contract.subject), style="bold"))
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(max_width=26, overflow="fold")
    grid.add_column()
    for term in contract.terms:
        mark, style = _MARKS[term.keeper]
        detail_style = "red" if term.keeper == "nobody" else "dim"
        grid.add_row(
            Text(f"  {mark}", style=style),
            term.subject,
            Text(plain(term.asked)),
            Text(plain(term.detail), style=detail_style),
        )
    console().print(grid)


def _explain_roads(roads: Mapping[str, Capabilities], as_json: bool) -> None:
    from postroad.cli.output import print_json
    from postroad.operations.roads import facts

    if as_json:
        print_json({scheme: facts(road) for scheme, road in roads.items()})
    else:
        _print_roads(roads)


def _print_roads(roads: Mapping[str, Capabilities]) -> None:
    from postroad.cli.output import console, table
    from postroad.operations.roads import cell, facts

    columns = {scheme: facts(road) for scheme, road in roads.items()}
    names = list(next(iter(columns.values())))
    rows = [
        [name.replace("_", " "), *(cell(column[name]) for column in columns.values())]
        for name in names
    ]
    console().print(table(["capability", *columns], rows))
