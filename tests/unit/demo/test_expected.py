"""What the demo expects of itself, against figures counted from the raw file in another way."""

import csv
import gzip
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from postroad.demo import flights
from postroad.demo.expected import Expected, expect
from postroad.demo.insurer import refusals

Row = dict[str, str]
DATA = Path(flights.__file__).parent / "data"


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    with gzip.open(DATA / "flights-2013-02.csv.gz", "rt", encoding="utf-8", newline="") as text:
        return list(csv.DictReader(text))


@pytest.fixture(scope="module")
def known() -> set[str]:
    with (DATA / "airports.csv").open(encoding="utf-8", newline="") as text:
        return {row["faa"] for row in csv.DictReader(text)}


@pytest.fixture(scope="module")
def expected() -> Expected:
    return expect(flights.load())


def name(row: Row) -> str:
    day = f"{row['year']}{int(row['month']):02}{int(row['day']):02}"
    return f"{row['carrier']}-{row['flight']}-{day}-{row['origin']}"


def euros(row: Row) -> int:
    # 1,500 and 3,500 km are 932.06 and 2,174.8 miles; distances are whole miles.
    return 250 if int(row["distance"]) <= 932 else 400 if int(row["distance"]) <= 2174 else 600


def is_cancelled(row: Row) -> bool:
    return row["dep_time"] == "NA"


def test_departures_and_announcements(expected: Expected, rows: list[Row]) -> None:
    assert expected.departures == len(rows) == 12_222
    told = [row for row in rows if is_cancelled(row) or int(row["dep_delay"]) >= 30]
    assert expected.announcements == len(told) == 2_511


def test_claims(expected: Expected, rows: list[Row], known: set[str]) -> None:
    entitled = [
        row
        for row in rows
        if is_cancelled(row) or (row["arr_delay"] != "NA" and int(row["arr_delay"]) >= 180)
    ]
    payable = [row for row in entitled if row["tailnum"] != "NA" and row["dest"] in known]
    assert expected.claims == {name(row): euros(row) for row in payable}
    assert len(payable) == 738


def test_dead_letters(expected: Expected, rows: list[Row], known: set[str]) -> None:
    without_aircraft = [row for row in rows if row["tailnum"] == "NA"]
    diverted = [row for row in rows if not is_cancelled(row) and row["arr_delay"] == "NA"]
    late = [row for row in rows if row["arr_delay"] != "NA" and int(row["arr_delay"]) >= 180]
    stranded = [row for row in rows if is_cancelled(row) and row["tailnum"] != "NA"]
    unknown = [row for row in (*late, *stranded) if row["dest"] not in known]
    assert (len(without_aircraft), len(diverted), len(unknown)) == (392, 38, 15)
    assert expected.dead == Counter(rejected=392 + 38, exception=15)


def test_carriers(expected: Expected, rows: list[Row]) -> None:
    of_carrier: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        of_carrier[row["carrier"]].append(row)
    assert expected.carriers.keys() == of_carrier.keys()
    for carrier, flown in of_carrier.items():
        delays = [int(row["dep_delay"]) for row in flown if not is_cancelled(row)]
        sums = expected.carriers[carrier]
        assert sums.departures == len(flown)
        assert sums.cancelled == len(flown) - len(delays)
        assert sums.late == sum(delay >= 30 for delay in delays)
        assert sums.minutes == sum(delay for delay in delays if delay > 0)


def test_board(expected: Expected, rows: list[Row]) -> None:
    newest: dict[tuple[str, str], tuple[int, int, str]] = {}
    for row in rows:
        place = (int(row["day"]), int(row["sched_dep_time"]), name(row))
        route = (row["origin"], row["dest"])
        newest[route] = max(newest.get(route, place), place)
    assert expected.board == {route: place[-1] for route, place in newest.items()}


def test_the_insurer_refuses_some_claims_once_and_a_few_twice(expected: Expected) -> None:
    counts = Counter(map(refusals, expected.claims))
    assert counts.keys() == {0, 1, 2}
    assert counts[0] > counts[1] > counts[2] > 0
