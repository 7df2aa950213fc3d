"""The tables that the handlers write, and how they are read back.

Claims and the carriers' sums are in the road's own database, where `tx` reaches them. The board
is a file of its own beside it: another team's database, which commits by itself.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import unquote, urlsplit

from postroad.demo import rules
from postroad.demo.flights import Departure

Row: TypeAlias = tuple[Any, ...]

_TABLES = """
CREATE TABLE claims (
    flight_id TEXT NOT NULL,
    tail_number TEXT NOT NULL,
    destination TEXT NOT NULL,
    euros INTEGER NOT NULL
);
CREATE TABLE carriers (
    carrier TEXT PRIMARY KEY,
    departures INTEGER NOT NULL,
    cancelled INTEGER NOT NULL,
    late INTEGER NOT NULL,
    minutes INTEGER NOT NULL
) WITHOUT ROWID;
"""
# No flight_id is unique up there, on purpose: nothing but Postroad keeps a claim from being
# filed twice, and the check at the end would see it.

FILE_CLAIM = "INSERT INTO claims (flight_id, tail_number, destination, euros) VALUES (?, ?, ?, ?)"
ADD_TO_CARRIER = """
INSERT INTO carriers (carrier, departures, cancelled, late, minutes) VALUES (?, 1, ?, ?, ?)
ON CONFLICT (carrier) DO UPDATE SET
    departures = departures + 1,
    cancelled = cancelled + excluded.cancelled,
    late = late + excluded.late,
    minutes = minutes + excluded.minutes
"""

_BOARD = """
CREATE TABLE board (
    origin TEXT NOT NULL,
    destination TEXT NOT NULL,
    scheduled REAL NOT NULL,
    flight_id TEXT NOT NULL,
    status TEXT NOT NULL,
    PRIMARY KEY (origin, destination)
) WITHOUT ROWID;
"""
_SHOW = """
INSERT INTO board (origin, destination, scheduled, flight_id, status) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (origin, destination) DO UPDATE SET
    scheduled = excluded.scheduled, flight_id = excluded.flight_id, status = excluded.status
WHERE (excluded.scheduled, excluded.flight_id) > (board.scheduled, board.flight_id)
"""


@dataclass(frozen=True)
class Line:
    """A line of the board: the newest departure of one route."""

    origin: str
    destination: str
    scheduled: datetime
    flight_id: str
    status: str


@dataclass(frozen=True)
class CarrierDelays:
    """One carrier's sums. `late` departures left half an hour late or later; `minutes` is the
    sum of all delays at departure, early ones as zero."""

    departures: int
    cancelled: int
    late: int
    minutes: int


def claim_row(departure: Departure, destination: str) -> Row:
    """The parameters of `FILE_CLAIM`."""
    euros = rules.amount(departure)
    return departure.flight_id, departure.tail_number, destination, euros


def carrier_row(departure: Departure) -> Row:
    """The parameters of `ADD_TO_CARRIER`."""
    delay = max(departure.departure_delay or 0, 0)
    return departure.carrier, int(departure.cancelled), int(delay >= rules.TOLD), delay


def status(departure: Departure) -> str:
    """What the board says about a departure."""
    if departure.departure_delay is None:
        return "cancelled"
    late = departure.departure_delay
    return f"{late} min late" if late > 0 else "on time"


class Books:
    """The tables in the road's database."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def create(self) -> None:
        """Create the tables, in the database that the road has created by now."""
        with connected(self._path) as connection:
            connection.executescript(_TABLES)

    def claims(self) -> Sequence[tuple[str, int]]:
        """(flight, euros) of every claim ever filed."""
        with connected(self._path) as connection:
            return connection.execute("SELECT flight_id, euros FROM claims").fetchall()

    def carriers(self) -> dict[str, CarrierDelays]:
        """The sums by carrier."""
        with connected(self._path) as connection:
            rows = connection.execute(
                "SELECT carrier, departures, cancelled, late, minutes FROM carriers"
            ).fetchall()
        return {carrier: CarrierDelays(*sums) for carrier, *sums in rows}


class Board:
    """The departures board."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def beside(cls, url: str) -> "Board":
        """The board beside the database that a road's URL names."""
        return cls(Path(unquote(urlsplit(url).path).removeprefix("/")).with_name("board.db"))

    def create(self) -> None:
        """Create the file and its table."""
        with connected(self._path) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(_BOARD)

    def show(self, departures: Sequence[Departure]) -> None:
        """Show the newest of each route. Idempotent, and in any order."""
        with connected(self._path) as connection, connection:
            connection.executemany(_SHOW, map(_board_row, departures))

    def newest(self, limit: int | None = None) -> Sequence[Line]:
        """The newest lines first; all of them without a limit."""
        with connected(self._path) as connection:
            rows = connection.execute(
                "SELECT * FROM board ORDER BY scheduled DESC, flight_id LIMIT ?",
                (-1 if limit is None else limit,),
            ).fetchall()
        return [_line(row) for row in rows]


@contextmanager
def connected(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that waits for others, and is closed afterwards."""
    with closing(sqlite3.connect(path, timeout=10)) as connection:
        connection.execute("PRAGMA synchronous = NORMAL")
        yield connection


def _board_row(departure: Departure) -> Row:
    scheduled = departure.scheduled.timestamp()
    route = (departure.origin, departure.destination)
    return *route, scheduled, departure.flight_id, status(departure)


def _line(row: Row) -> Line:
    origin, destination, scheduled, flight_id, status = row
    when = datetime.fromtimestamp(scheduled, UTC)
    return Line(origin, destination, when, flight_id, status)
