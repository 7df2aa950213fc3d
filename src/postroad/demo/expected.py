"""The right results, computed from the data alone: no message, no group, no database."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from postroad.core.clock import EPOCH
from postroad.demo import books, rules
from postroad.demo.books import CarrierDelays
from postroad.demo.flights import Departure, airports


@dataclass
class Expected:
    """What has to be there when everything is handled.

    Attributes:
        first, last: the scheduled times that the replay starts and ends with.
        departures: messages on `departures.recorded`.
        announcements: messages on `delays.announced`.
        claims: flight → euros.
        dead: reason → dead letters of `compensation`.
        carriers: carrier → sums.
        board: (origin, destination) → flight on its line.
    """

    first: datetime = EPOCH
    last: datetime = EPOCH
    departures: int = 0
    announcements: int = 0
    claims: dict[str, int] = field(default_factory=dict)
    dead: Counter[str] = field(default_factory=Counter)
    carriers: dict[str, CarrierDelays] = field(default_factory=dict)
    board: dict[tuple[str, str], str] = field(default_factory=dict)


def expect(departures: Iterable[Departure]) -> Expected:
    """Compute it; departures come in event time."""
    expected = Expected()
    known = airports()
    for departure in departures:
        if expected.departures == 0:
            expected.first = departure.scheduled
        expected.last = departure.scheduled
        expected.departures += 1
        expected.announcements += rules.announcement(departure) is not None
        # The last one in event time wins its line.
        expected.board[departure.origin, departure.destination] = departure.flight_id
        _add_carrier(expected.carriers, departure)
        if rules.entitled(departure):
            _add_claim(expected, departure, departure.destination in known)
    return expected


def _add_claim(expected: Expected, departure: Departure, known: bool) -> None:
    if departure.tail_number is None or departure.diverted:
        expected.dead["rejected"] += 1
    elif not known:
        expected.dead["exception"] += 1
    else:
        expected.claims[departure.flight_id] = rules.amount(departure)


def _add_carrier(carriers: dict[str, CarrierDelays], departure: Departure) -> None:
    before = carriers.get(departure.carrier, CarrierDelays(0, 0, 0, 0))
    _, cancelled, late, minutes = books.carrier_row(departure)
    carriers[departure.carrier] = CarrierDelays(
        departures=before.departures + 1,
        cancelled=before.cancelled + cancelled,
        late=before.late + late,
        minutes=before.minutes + minutes,
    )
