"""`postroad bench`: what a road gives, from here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from postroad.cli.options import Json
from postroad.cli.shell import COMMAND, command_app

if TYPE_CHECKING:
    from datetime import timedelta

    from postroad.operations.bench import Figures, Load

app = command_app()


@app.command(**COMMAND)
def bench(
    url: Annotated[
        str | None,
        typer.Argument(
            metavar="[URL]", help="The road; a new SQLite file by default.", show_default=False
        ),
    ] = None,
    messages: Annotated[
        int, typer.Option("--messages", "-n", min=1, metavar="N", help="How many.")
    ] = 10_000,
    size: Annotated[
        int, typer.Option(min=0, metavar="N", help="Bytes of text in each payload.")
    ] = 100,
    publishers: Annotated[
        int, typer.Option(min=1, metavar="N", help="Tasks that publish at once.")
    ] = 64,
    concurrency: Annotated[int, typer.Option(min=1, metavar="N", help="Handlers at once.")] = 64,
    as_json: Json = False,
) -> None:
    """Measure a road from here: rates and latencies.

    One process publishes and consumes. On a road of your own it uses topics named
    postroad-bench.*; their messages go once they are handled, the empty topics stay.
    """
    from postroad.cli.output import print_json
    from postroad.operations.bench import Load

    figures = _measure(url, Load(messages, size, publishers, concurrency))
    if as_json:
        print_json(_shape(figures))
    else:
        _print(figures)


def _measure(url: str | None, load: Load) -> Figures:
    import asyncio
    from pathlib import Path
    from tempfile import TemporaryDirectory
    from urllib.parse import quote

    from postroad.operations.bench import measure

    if url is not None:
        return asyncio.run(measure(url, load))
    with TemporaryDirectory(prefix="postroad-bench-") as folder:
        path = quote(str(Path(folder) / "bench.db"))
        return asyncio.run(measure(f"sqlite:///{path}", load))


def _shape(figures: Figures) -> dict[str, object]:
    return {
        "road": figures.road,
        "messages": figures.messages,
        "publish_one_by_one_per_second": round(figures.publish_one_by_one),
        "publish_in_batches_per_second": round(figures.publish_in_batches),
        "consume_per_second": round(figures.consume),
        "latency_p50_seconds": figures.latency_p50.total_seconds(),
        "latency_p99_seconds": figures.latency_p99.total_seconds(),
        "latency_measured_at_per_second": figures.latency_rate,
    }


def _print(figures: Figures) -> None:
    from postroad.cli.output import console, plain, table

    rows = [
        ["publish, one by one", f"{figures.publish_one_by_one:,.0f} / s"],
        ["publish, in batches", f"{figures.publish_in_batches:,.0f} / s"],
        ["consume", f"{figures.consume:,.0f} / s"],
        [f"latency at {figures.latency_rate:g} / s, p50", _milliseconds(figures.latency_p50)],
        [f"latency at {figures.latency_rate:g} / s, p99", _milliseconds(figures.latency_p99)],
    ]
    out = console()
    out.print(plain(f"{figures.road}, {figures.messages:,} messages a phase"), markup=False)
    out.print(table(("measure", "value"), rows, right=("value",)))


def _milliseconds(duration: timedelta) -> str:
    return f"{duration.total_seconds() * 1000:.1f} ms"
