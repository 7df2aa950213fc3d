"""The demo, from its options to its exit code, over worker processes and a real database."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from postroad.demo import flights, run
from postroad.demo.crew import Crew, WorkerFailedError
from postroad.demo.expected import Expected, expect
from postroad.demo.flights import Departure, FlightDataError
from postroad.demo.run import DATABASE, DemoOptions, main
from postroad.demo.waiting import until
from postroad.errors import DeclarationError

pytestmark = pytest.mark.timeout(180)

FAST = DemoOptions(speed=1e9, json=True)
SHORT = 2_000


@pytest.fixture
def blizzard(monkeypatch: pytest.MonkeyPatch) -> Expected:
    """Replay the blizzard only, and return what is to be expected of it."""

    def load(year: bool = False) -> Iterator[Departure]:
        return islice(flights.load(year), 6_400, 6_400 + SHORT)

    monkeypatch.setattr(run, "load", load)
    return expect(load())


@pytest.fixture
def result(capsys: pytest.CaptureFixture[str]) -> Callable[[], dict[str, Any]]:
    """What the demo has printed as JSON."""
    return lambda: json.loads(capsys.readouterr().out)


def test_the_blizzard_holds(blizzard: Expected, result: Callable[[], dict[str, Any]]) -> None:
    assert main(FAST) == 0
    said = result()
    assert said["verdict"] == "holds"
    assert said["unfinished"] is None
    assert said["departures"] == SHORT
    assert said["kills"] == []
    assert all(check["holds"] for check in said["checks"])
    entries = {entry["group"]: entry for entry in said["audit"]}
    assert entries["texts"]["accepted"] == blizzard.announcements > 0
    dead = blizzard.dead.total()
    assert entries["compensation"]["outcomes"] == {"handled": SHORT - dead, "dead": dead}
    assert {entry["verdict"] for entry in said["audit"]} == {"balanced"}
    assert {entry["pending"] for entry in said["audit"]} == {0}
    assert said["retries"] > 0


def test_a_kill_changes_nothing(blizzard: Expected, result: Callable[[], dict[str, Any]]) -> None:
    assert main(replace(FAST, kill=True, workers=3)) == 0
    said = result()
    assert said["verdict"] == "holds"
    last = said["kills"][-1]
    assert last["in_flight"] == sum(last["held"].values()) > 0
    assert last["recovered_after"] > 0
    assert said["duplicates"] >= 0


def test_a_kill_that_hits_nobody_proves_nothing(
    result: Callable[[], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "load", lambda year: iter(()))
    assert main(replace(FAST, kill=True)) == 3
    wrong = [check["what"] for check in result()["checks"] if not check["holds"]]
    assert wrong == ["workers killed with messages in flight"]


def test_a_wrong_result_is_told(
    blizzard: Expected,
    result: Callable[[], dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    blizzard.claims["never-flown"] = 250
    monkeypatch.setattr(run, "expect", lambda departures: blizzard)
    assert main(FAST) == 3
    said = result()
    assert said["verdict"] == "broken"
    wrong = {check["what"] for check in said["checks"] if not check["holds"]}
    assert wrong == {
        "claims filed",
        "flights without their claim",
        "euros claimed, for one seat each",
    }


def test_for_people(blizzard: Expected, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    place = tmp_path / "a road" / "here"
    assert main(replace(FAST, json=False, directory=place)) == 0
    text = capsys.readouterr().out
    assert re.search(r"^ +[\d.]+ s  .*published .* settled .* lag ", text, re.MULTILINE)
    for title in ("explain: ", "dead letters: ", "audit: ", "results: "):
        assert f"\n{title}" in text
    assert "\nHOLDS: 2,000 departures, " in text
    assert (place / DATABASE).exists()
    with pytest.raises(DeclarationError, match="holds a demo already"):
        main(replace(FAST, directory=place))


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_stops_with_its_workers(sent: signal.Signals, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from postroad.demo.run import *;"
        "sys.exit(main(DemoOptions(directory=Path(sys.argv[1]))))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "place")],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as demo:
        assert demo.stdout is not None
        lines = iter(demo.stdout.readline, "")
        assert any("published" in line for line in lines)
        assert len(workers_of(tmp_path)) == 2
        demo.send_signal(sent)
        said = demo.stdout.read()
        assert demo.wait(30) == 130
    assert "Stopped" in said
    assert workers_of(tmp_path) == []


def test_workers_end_when_the_demo_is_killed(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from postroad.demo.crew import Crew;"
        "Crew(Path(sys.argv[1]), sys.argv[2]).start(); print('started', flush=True); input()"
    )
    url = f"sqlite:///{tmp_path / DATABASE}"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path), url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as starter:
        assert starter.stdout is not None
        assert starter.stdout.readline() == b"started\n"
        assert len(workers_of(tmp_path)) == 1
        starter.kill()
    eventually(lambda: not workers_of(tmp_path))


def test_a_worker_that_cannot_work_is_told(tmp_path: Path) -> None:
    (tmp_path / DATABASE).write_bytes(b"this is no database, and long enough to tell" * 100)
    crew = Crew(tmp_path, f"sqlite:///{tmp_path / DATABASE}")
    worker = crew.start()
    eventually(lambda: worker.ended)
    with pytest.raises(WorkerFailedError, match="StorageCorruptError"):
        crew.check()
    asyncio.run(crew.stop())


def test_a_directory_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DeclarationError, match="cannot be a directory"):
        main(replace(FAST, directory=tmp_path / "file" / "place"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"speed": 0.0}, "speed must be positive"),
        ({"speed": -1.0}, "speed must be positive"),
        ({"speed": float("nan")}, "speed must be positive"),
        ({"workers": 0}, "at least one worker"),
    ],
)
def test_impossible_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        DemoOptions(**options)


def test_a_year_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flights, "DISTRIBUTION", "postroad-test-not-there")
    with pytest.raises(FlightDataError, match="pip install"):
        main(replace(FAST, year=True))


def eventually(holds: Callable[[], bool]) -> None:
    """Wait for other processes; a broken promise ends at the deadline."""

    async def wait() -> None:
        async with asyncio.timeout(30):
            await until(holds)

    asyncio.run(wait())


def workers_of(place: Path) -> list[str]:
    """The command lines of all workers that count in a directory."""
    listed = subprocess.run(["ps", "-ewwo", "args"], capture_output=True, text=True, check=True)
    return [
        line
        for line in listed.stdout.splitlines()
        if "postroad.demo.worker" in line and str(place) in line
    ]
