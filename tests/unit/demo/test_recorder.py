"""A worker's counts outlive it."""

import subprocess
import sys
from pathlib import Path

from postroad import Delivery, Failure, Message, Subscription
from postroad.demo import recorder
from postroad.demo.recorder import Record, Recorder

BOARD = Subscription(source="t", group="board")
DELIVERY = Delivery(message=Message(id="1", type="t", source="s", data=b"", time_us=0), topic="t")
FAILURE = Failure(reason="exception", detail="")


def test_counts_by_group(tmp_path: Path) -> None:
    hooks = Recorder()
    hooks.write_to(tmp_path / "record")
    hooks.received(BOARD, 10)
    hooks.failed(BOARD, DELIVERY, FAILURE)
    hooks.failed(BOARD, DELIVERY, FAILURE)
    hooks.settled(BOARD, {"handled": 5, "dead": 1})
    counted = recorder.read(tmp_path / "record")
    assert counted["board"] == Record(received=10, answered=6, failed=2, dead=1)
    assert counted["board"].in_flight == 4
    assert counted["board"].retries == 1
    assert counted["texts"] == Record(0, 0, 0, 0)


def test_other_groups_are_not_counted() -> None:
    Recorder().received(Subscription(source="t", group="somebody else"), 1)


def test_nothing_was_counted_yet(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for name in ("missing", "empty"):
        assert set(recorder.read(tmp_path / name).values()) == {Record(0, 0, 0, 0)}


def test_several_workers_together() -> None:
    one = {"board": Record(5, 4, 3, 2)}
    assert recorder.total([one, one], "board") == Record(10, 8, 6, 4)


def test_outlives_a_sigkill(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from postroad import Subscription\n"
        "from postroad.demo.recorder import Recorder\n"
        "hooks = Recorder()\n"
        "hooks.write_to(Path(sys.argv[1]))\n"
        "hooks.received(Subscription(source='t', group='board'), 7)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "record")], check=False)
    assert recorder.read(tmp_path / "record")["board"].in_flight == 7
