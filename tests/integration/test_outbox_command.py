"""`postroad relay`, as a process."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

APP = """
from msgspec import Struct
from postroad import Outbox, OutboxTable, Postroad, Topic

class Order(Struct):
    number: int

orders = Topic("orders.created", Order, key="number")
road = Postroad("sqlite:///road.db", database="sqlite:///business.db", name="shop")
outbox = Outbox()
books = OutboxTable.textbook()

@road.subscribe(orders, group="mail")
async def mail(order: Order) -> None:
    print("mailed", order.number, flush=True)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shop_app.py").write_text(APP)
    assert relay(tmp_path, "--once")[0] == 0  # makes the tables
    return tmp_path


def relay(folder: Path, *options: str) -> tuple[int, list[Any]]:
    """(exit code, what it printed as JSON) of `postroad relay --json`."""
    done = subprocess.run(
        [sys.executable, "-m", "postroad", "relay", "shop_app:road", "--json", *options],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    lines = done.stdout.strip() or done.stderr.strip()
    if lines.startswith(("{\n", "[")):
        return done.returncode, [json.loads(lines)]
    return done.returncode, [json.loads(line) for line in lines.splitlines()]


def add(folder: Path, *numbers: int, topic: str = "orders.created") -> None:
    connection = sqlite3.connect(folder / "business.db")
    connection.executemany(
        "INSERT INTO postroad_outbox (id, aggregatetype, aggregateid, type, payload) "
        "VALUES (?, ?, ?, 'OrderCreated', ?)",
        [(f"m{n}", topic, str(n), b'{"number": %d}' % n) for n in numbers],
    )
    connection.commit()
    connection.close()


def test_once_publishes_what_waits(folder: Path) -> None:
    add(folder, 1, 2, 3)
    code, (depth,) = relay(folder, "--depth")
    assert (code, depth["pending"], depth["parked"]) == (0, 3, 0)
    assert depth["age"] >= 0
    code, events = relay(folder, "--once")
    assert code == 0
    assert [event["event"] for event in events] == ["starting", "stopped"]
    assert events[-1] == {
        "event": "stopped",
        "published": 3,
        "duplicates": 0,
        "parked": 0,
        "deleted": 0,
    }
    assert relay(folder, "--depth")[1][0]["pending"] == 0


def test_what_is_parked_is_named_and_let_go(folder: Path) -> None:
    add(folder, 1, topic="no topic!")
    add(folder, 2)
    _, events = relay(folder, "--once")
    parked = next(event for event in events if event["event"] == "parked")
    assert (parked["id"], parked["reason"]) == ("m1", "undeclared")
    _, (rows,) = relay(folder, "--parked")
    assert [(row["id"], row["poison"]) for row in rows] == [("m1", True)]
    code, (error,) = relay(folder, "--unpark", "m2")
    assert code == 1
    assert "no row of message 'm2' is parked" in json.dumps(error)
    connection = sqlite3.connect(folder / "business.db")
    connection.execute("UPDATE postroad_outbox SET aggregatetype = 'orders.created'")
    connection.commit()
    connection.close()
    assert relay(folder, "--unpark", "m1") == (0, [{"outbox": "postroad_outbox", "unparked": 1}])
    assert relay(folder, "--once")[1][-1]["published"] == 1


def test_another_table_is_named_by_the_app(folder: Path) -> None:
    connection = sqlite3.connect(folder / "business.db")
    connection.execute(
        "CREATE TABLE outbox (id TEXT PRIMARY KEY, aggregate_type TEXT, aggregate_id TEXT, "
        "event_type TEXT, payload TEXT, created_at TEXT, processed BOOLEAN, processed_at TEXT)"
    )
    connection.execute(
        "INSERT INTO outbox VALUES ('a', 'order', '1', 'orders.created', '{\"number\": 1}', "
        "CURRENT_TIMESTAMP, FALSE, NULL)"
    )
    connection.commit()
    connection.close()
    assert relay(folder, "--outbox", "shop_app:books", "--once")[1][-1]["published"] == 1
    code, (error,) = relay(folder, "--outbox", "shop_app:nothing", "--once")
    assert code == 2
    assert "is no outbox" in json.dumps(error)


def test_it_runs_until_it_is_told_to_stop_and_the_handlers_get_it(folder: Path) -> None:
    """In a process of its own, and inside `postroad run`."""
    for number, command in enumerate(("relay", "run")):
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", "postroad", command, "shop_app:road"],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            add(folder, number)
            deadline = time.monotonic() + 30
            connection = sqlite3.connect(folder / "business.db")
            count = "SELECT count(*) FROM postroad_outbox WHERE processed_at IS NULL"
            while connection.execute(count).fetchone()[0]:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            connection.close()
            if command == "run":
                assert process.stdout is not None
                heard = {process.stdout.readline(), process.stdout.readline()}
                assert heard == {"mailed 0\n", "mailed 1\n"}
        finally:
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=30)
        assert process.returncode == 0, (out, err)
