"""What the demo shows fits where it is shown, and says what happened."""

import io
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from postroad.demo.books import CarrierDelays, Line
from postroad.demo.display import PlainLines, Scene, Screen, display_on, draw, line
from postroad.demo.fault import Kill
from postroad.demo.flights import carriers
from postroad.demo.observer import Snapshot, Standing
from postroad.demo.topics import GROUPS

NOON = datetime(2013, 2, 8, 17, 0, tzinfo=UTC)
KILL = Kill(4711, {"board": 200, "carriers": 40, "compensation": 12, "notifications": 90})
STANDING = Standing("", 336_000, 4_445, 12_345, timedelta(seconds=12.345), 1_234, 1_234, 2_345.6)
SCENE = Scene(
    seconds=12.3,
    speed=60_000,
    now=NOON,
    departures=336_776,
    snapshot=Snapshot(123_456, 712.4, [replace(STANDING, group=group) for group in GROUPS]),
    board=[Line("JFK", "BOS", NOON, f"B6-{n}-20130208-JFK", "1013 min late") for n in range(16)],
    carriers={code: CarrierDelays(58_665, 9_999, 2_817, 999_999) for code in carriers()},
    carrier_names=carriers(),
    workers=2,
    kills=[replace(KILL, recovered_after=timedelta(seconds=2.5))],
)


def drawn(width: int, height: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=False)
    with console.capture() as captured:
        console.print(draw(SCENE, max(3, min(16, height - 20)), width))
    return captured.get().splitlines()


@pytest.mark.parametrize(("width", "height"), [(80, 24), (100, 40), (200, 60)])
def test_fits_the_screen(width: int, height: int) -> None:
    lines = drawn(width, height)
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    assert "…" not in "".join(lines)


def test_both_tables_where_there_is_room() -> None:
    wide = "\n".join(drawn(100, 40))
    assert "JetBlue Airways" in wide
    assert "B6 15" in wide
    assert "JetBlue Airways" not in "\n".join(drawn(80, 40))


def test_nothing_has_happened_yet() -> None:
    scene = replace(SCENE, now=None, snapshot=Snapshot(0, 0, []), board=[], carriers={}, kills=[])
    assert "before the first departure" in line(scene)
    assert "lag 0 / unknown" in line(scene)
    draw(scene)


def test_a_scene_in_one_line() -> None:
    assert line(SCENE) == (
        " 12.3 s  Fri 08 Feb 12:00  published 123,456 of 336,776 (712/s)  settled 1,680,000 "
        "(11,728/s)  lag 61,725 / 12.35 s  retries 6,170  dead 22,225  duplicates 6,170"
    )


def test_plain_lines_tell_a_kill_and_its_recovery_once() -> None:
    output = io.StringIO()
    display = PlainLines(Console(file=output, width=100))
    for _ in range(3):
        display.show(replace(SCENE, kills=[KILL]))
    for _ in range(3):
        display.show(SCENE)
    told = [text for text in output.getvalue().splitlines() if "published" not in text]
    assert told == [
        (
            " 12.3 s  SIGKILL to worker 4711, which held 342 messages "
            "(board 200, carriers 40, compensation 12, notifications 90)"
        ),
        " 12.3 s  everything accepted until then was settled 2.50 s later",
    ]


def test_the_display_suits_the_console(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(display_on(Console(force_terminal=True)), Screen)
    assert isinstance(display_on(Console(force_terminal=False)), PlainLines)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(display_on(Console(force_terminal=True)), PlainLines)
