"""Every command, end to end, on a road in an SQLite file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import IO, Any

import pytest

from postroad.cli.exits import ExitCode
from postroad.cli.options import VARIABLE
from postroad.cli.program import run

URL = "sqlite:///shop.db"
APP = "cli_shop:road"
SHOP = """
import asyncio
import os
from datetime import timedelta

from msgspec import Struct

from postroad import Postroad, Retention, Retry, Topic


class Order(Struct):
    number: int
    customer: str
    seconds: float = 0


orders = Topic("orders.created", Order, key="number", owner="shop")
mails = Topic("mails.wanted", dict, retention=Retention(consumed=True))
road = Postroad("sqlite:///shop.db")


@road.subscribe(
    orders,
    group="payment",
    start="earliest",
    retry=Retry(attempts=2, backoff="immediate"),
)
async def charge(order: Order) -> None:
    if order.customer == "bad":
        raise ValueError("card refused")
    if order.customer == "poison" and not os.path.exists("antidote"):
        open("antidote", "w").close()
        os._exit(9)
    print(f"began {order.number}", flush=True)
    await asyncio.sleep(order.seconds)
    print(f"charged {order.number}", flush=True)


@road.subscribe(mails, group="post")
def send(mail: dict) -> None:
    print("sent", flush=True)
"""


@dataclass
class Said:
    """What a command ended with and said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output, which is JSON and nothing else."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """Standard output, a JSON value a line."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def error(self) -> dict[str, Any]:
        """Standard error, which is one JSON error."""
        found: dict[str, Any] = json.loads(self.err)["error"]
        return found


Cli = Callable[..., Said]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs a command line in a directory with an app, as a new process would."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "cli_shop.py").write_text(SHOP)

    def cli(*words: str, stdin: str = "") -> Said:
        monkeypatch.delitem(sys.modules, "cli_shop", raising=False)
        monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(stdin.encode())))
        capsys.readouterr()
        code = run(words)
        said = capsys.readouterr()
        return Said(code, said.out, said.err)

    return cli


@pytest.fixture
def shop(cli: Cli) -> Cli:
    """The same, on a road that holds two good orders and a bad one."""
    lines = "\n".join(
        json.dumps({"number": number, "customer": customer})
        for number, customer in ((1, "ada"), (2, "bad"), (3, "alan"))
    )
    assert cli("publish", APP, "orders.created", "--lines", "-", stdin=lines).code == 0
    return cli


@pytest.fixture
def handled(shop: Cli) -> Cli:
    """The same, after the app has run."""
    with Running(APP) as process:
        _until(lambda: shop("lag", URL, "orders.created", "--json").json[0]["messages"] == 0)
        assert process.stop() == 0
    return shop


class Running:
    """A process of `postroad run`."""

    def __init__(self, *words: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "postroad", "run", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()

    def until(self, wanted: str) -> list[str]:
        """Read standard output up to a line with this text."""
        return self._read(wanted, self.process.stdout)

    def until_said(self, wanted: str) -> list[str]:
        """The same of standard error."""
        return self._read(wanted, self.process.stderr)

    def _read(self, wanted: str, stream: IO[str] | None) -> list[str]:
        lines = []
        for line in stream or ():
            lines.append(line)
            if wanted in line:
                return lines
        raise AssertionError(f"it ended without {wanted!r}: {''.join(lines)}")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to end, once it can be asked; its exit code."""
        self.process.send_signal(number)
        return self.process.wait(30)


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not happen within 30 seconds"
        time.sleep(0.05)


# --- publish ---------------------------------------------------------------------------------


def test_publish_through_an_app(cli: Cli) -> None:
    said = cli("publish", APP, "orders.created", '{"number": 1, "customer": "ada"}')
    assert said.code == 0
    assert said.out.startswith("published on orders.created, at ")
    said = cli("publish", APP, "orders.created", "-", "--json", stdin='{"number":1,"customer":""}')
    assert said.json["topic"] == "orders.created"
    (shown,) = [line for line in _tail(cli) if line["id"] == said.json["id"]]
    assert shown["position"] == said.json["position"]
    assert shown["key"] == "1"


def test_publish_with_options(shop: Cli) -> None:
    words = ("--key", "k", "--id", "mine", "--header", "a=b", "--priority", "3")
    payload = '{"number": 9, "customer": "ada"}'
    said = shop("publish", URL, "orders.created", payload, *words, "--correlation-id", "c")
    assert said.code == 0
    (shown,) = [line for line in _tail(shop) if line["id"] == "mine"]
    assert shown["key"] == "k"
    assert shown["headers"] == {"a": "b"}
    assert shown["priority"] == 3
    assert shown["correlation_id"] == "c"


def test_publish_later(shop: Cli) -> None:
    payload = '{"number": 9, "customer": "ada"}'
    said = shop("publish", APP, "orders.created", payload, "--delay", "1h", "--json")
    assert said.code == 0
    assert _account(shop)["scheduled"] == 1


def test_a_payload_that_does_not_fit_is_refused_and_not_repeated(shop: Cli) -> None:
    said = shop("publish", APP, "orders.created", '{"number": "secret"}', "--json")
    assert said.code == ExitCode.FAILURE
    assert said.out == ""
    assert said.error["type"] == "WrongTypeError"
    assert "secret" not in said.err
    said = shop("publish", URL, "orders.created", "not JSON")
    assert said.code == ExitCode.FAILURE
    assert "not JSON" in said.err
    assert len(_tail(shop)) == 3


def test_a_bad_line_is_named(shop: Cli) -> None:
    lines = '{"number": 1, "customer": "ada"}\n\n{"number": 2}\n'
    said = shop("publish", APP, "orders.created", "--lines", "-", stdin=lines)
    assert said.code == ExitCode.FAILURE
    assert "payload 2 on 'orders.created'" in said.err
    assert "the 0 lines before this batch are published" in said.err
    assert len(_tail(shop)) == 3


def test_a_url_leaves_a_topics_settings_as_they_are(shop: Cli, tmp_path: Path) -> None:
    import sqlite3

    def settings() -> list[tuple[Any, ...]]:
        with sqlite3.connect(tmp_path / "shop.db") as connection:
            rows = connection.execute("SELECT * FROM postroad_topics ORDER BY name").fetchall()
        connection.close()
        return rows

    before = settings()
    assert shop("publish", URL, "mails.wanted", "{}").code == 0
    assert settings() == before


def test_a_url_makes_a_topic_only_if_told_to(cli: Cli) -> None:
    said = cli("publish", URL, "orders.created", "{}")
    assert said.code == ExitCode.FAILURE
    assert "no road at shop.db yet" in said.err
    assert cli("publish", URL, "orders.created", "{}", "--create").code == 0
    said = cli("publish", URL, "orders.craeted", "{}")
    assert said.code == ExitCode.FAILURE
    assert "did you mean 'orders.created'?" in said.err
    assert cli("publish", URL, "no topic", "{}").code == ExitCode.USAGE


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("orders.created",),
        ("orders.created", "{}", "--lines", "-"),
        ("orders.created", "--lines", "no-such-file"),
        ("orders.created", "--lines", "-", "--id", "x"),
        ("orders.created", "{}", "--delay", "soon"),
        ("orders.created", "{}", "--header", "x"),
        ("orders.created", "{}", "--priority", "10"),
        ("orders.created", "{}", "more"),
    ],
)
def test_wrong_arguments_of_publish(shop: Cli, words: tuple[str, ...]) -> None:
    said = shop("publish", APP, *words)
    assert said.code == ExitCode.USAGE
    assert "Usage: postroad publish" in said.err


# --- looking ---------------------------------------------------------------------------------


def _tail(cli: Cli, *words: str) -> list[Any]:
    return cli("tail", URL, "#", "--from", "earliest", "--no-follow", "--json", *words).lines


def test_tail_prints_what_is_kept(shop: Cli) -> None:
    said = shop("tail", URL, "orders.*", "--from", "earliest", "--no-follow")
    assert said.code == 0
    assert len(said.out.splitlines()) == 3
    assert "key=1" in said.out
    assert "ada" not in said.out
    assert sorted(line["key"] for line in _tail(shop)) == ["1", "2", "3"]
    assert len(_tail(shop, "--limit", "2")) == 2
    assert "ada" in shop("tail", URL, "--from", "earliest", "--no-follow", "--payload").out
    assert _tail(shop, "--payload")[0]["data"] == {"number": 1, "customer": "ada", "seconds": 0.0}


def test_tail_follows(shop: Cli) -> None:
    said = shop("tail", APP, "orders.created", "--from", "earliest", "-n", "3", "--json")
    assert sorted(line["key"] for line in said.lines) == ["1", "2", "3"]


def test_tail_makes_control_characters_visible(shop: Cli) -> None:
    shop("publish", URL, "orders.created", '{"customer": "x"}', "--key", "\x1b[2J")
    said = shop("tail", URL, "--from", "earliest", "--no-follow")
    assert "\x1b" not in said.out
    assert "\\x1b[2J" in said.out


def test_tail_of_no_such_topic(shop: Cli) -> None:
    said = shop("tail", URL, "orders.craeted", "--json")
    assert said.code == ExitCode.FAILURE
    assert said.error["type"] == "NotFoundError"
    assert "orders.created" in said.error["message"]


def test_topics(shop: Cli) -> None:
    found = {topic["topic"]: topic for topic in shop("topics", APP, "--json").json}
    assert found["orders.created"] == {
        "topic": "orders.created",
        "partitions": 16,
        "messages": 3,
        "groups": ["payment"],
        "type": "Order",
        "owner": "shop",
    }
    assert shop("topics", URL, "orders.#", "--json").json[0]["type"] is None
    assert "Order" in shop("topics", APP).out
    assert "payment" in shop("topics", URL).out
    assert shop("topics", URL, "none.*").out == "no topic fits\n"


def test_the_environment_may_name_the_road(shop: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, APP)
    assert shop("topics", "orders.*", "--json").json[0]["type"] == "Order"


def test_lag(shop: Cli) -> None:
    (lag,) = shop("lag", URL, "orders.created", "--json").json
    assert (lag["topic"], lag["group"], lag["messages"]) == ("orders.created", "payment", 3)
    assert lag["seconds"] > 0
    assert sum(part["messages"] for part in lag["partitions"]) == 3
    assert "payment" in shop("lag", APP).out
    assert shop("lag", URL, "--partitions").out.count("payment") == 16
    assert shop("lag", URL, "--group", "post", "--json").json[0]["messages"] == 0


def _account(cli: Cli) -> dict[str, Any]:
    (group,) = cli("audit", URL, "orders.created", "--json").json["groups"]
    account: dict[str, Any] = group["account"]
    return account


def test_audit(handled: Cli) -> None:
    said = handled("audit", URL, "orders.created", "--json")
    assert said.code == 0
    assert said.json["verdict"] == "balanced"
    account = _account(handled)
    assert account["accepted"] == 3
    assert account["outcomes"] == {"handled": 2, "dead": 1}
    printed = handled("audit", URL).out
    assert "verdict: balanced" in printed
    assert "0 everywhere: " in printed
    assert handled("audit", URL, "orders.created", "--group", "nobody").code == ExitCode.FAILURE


def test_an_audit_that_does_not_balance_ends_with_3(handled: Cli, tmp_path: Path) -> None:
    import sqlite3

    with sqlite3.connect(tmp_path / "shop.db") as connection:
        connection.execute(
            "UPDATE postroad_counters SET count = count - 1 WHERE outcome = 'handled'"
        )
    connection.close()
    said = handled("audit", URL)
    assert said.code == ExitCode.CHECK
    assert "1 unaccounted for of 3 accepted" in said.out
    assert "verdict: unbalanced" in said.out
    said = handled("audit", URL, "--json")
    assert (said.code, said.json["verdict"]) == (ExitCode.CHECK, "unbalanced")


@pytest.mark.parametrize(
    "words",
    [
        ("topics", URL, "orders.craeted"),
        ("lag", URL, "orders.craeted"),
        ("tail", URL, "orders.craeted"),
        ("audit", URL, "orders.craeted"),
        ("dead-letters", "list", URL, "orders.craeted"),
        ("dead-letters", "redrive", URL, "--topic", "orders.craeted"),
        ("lag", URL, "--group", "paymnt"),
        ("audit", URL, "--group", "paymnt"),
    ],
    ids=" ".join,
)
def test_a_mistyped_name_is_no_empty_answer(shop: Cli, words: tuple[str, ...]) -> None:
    said = shop(*words, "--json")
    assert (said.code, said.out) == (ExitCode.FAILURE, "")
    assert said.error["type"] == "NotFoundError"


# --- dead letters and replay -------------------------------------------------------------------


def test_dead_letters_are_listed_and_shown(handled: Cli) -> None:
    (dead,) = handled("dead-letters", "list", URL, "--json").json
    assert (dead["topic"], dead["group"], dead["attempts"]) == ("orders.created", "payment", 2)
    assert "data" not in dead["message"]
    assert "exception" in handled("dead-letters", "list", URL).out
    shown = handled("dead-letters", "show", URL, dead["id"]).out
    assert shown.count("ValueError: card refused") == 2
    assert "attempt 2" in shown
    assert '"bad"' not in shown
    assert '"bad"' in handled("dead-letters", "show", URL, dead["id"], "--payload").out
    (whole,) = handled("dead-letters", "show", URL, dead["id"], "--json", "--payload").json
    assert whole["message"]["data"]["customer"] == "bad"
    assert "Traceback" in whole["failures"][0]["traceback"]


def test_a_redriven_dead_letter_is_pending_again(handled: Cli) -> None:
    (dead,) = handled("dead-letters", "list", URL, "--json").json
    said = handled("dead-letters", "redrive", URL, dead["id"], "--json")
    assert said.json == {"redriven": 1}
    assert handled("lag", URL, "orders.created", "--json").json[0]["messages"] == 1
    assert handled("dead-letters", "list", URL).out == "no dead letters\n"
    assert handled("audit", URL).code == 0


def test_dead_letters_are_redriven_by_topic_and_group(handled: Cli) -> None:
    redrive = ("dead-letters", "redrive", URL)
    assert handled(*redrive, "--topic", "mails.*").out == "redriven 0 dead letters\n"
    assert handled(*redrive, "--group", "payment").out == "redriven 1 dead letter\n"


def test_discarding_has_to_be_confirmed(handled: Cli) -> None:
    said = handled("dead-letters", "discard", URL, "--all")
    assert said.code == ExitCode.USAGE
    assert "--yes" in said.err
    assert handled("dead-letters", "discard", URL, "--all", "--yes", "--json").json == {
        "discarded": 1
    }
    assert _account(handled)["outcomes"]["discarded"] == 1


def test_dead_letters_that_are_not_there(handled: Cli) -> None:
    for action in (("show",), ("redrive",), ("discard", "--yes")):
        said = handled("dead-letters", action[0], URL, "4711", *action[1:])
        assert said.code == ExitCode.FAILURE
        assert "no dead letter 4711" in said.err
        said = handled("dead-letters", action[0], URL, *action[1:])
        assert said.code == ExitCode.USAGE
    said = handled("dead-letters", "redrive", URL, "1", "--all")
    assert said.code == ExitCode.USAGE


def test_replay_moves_a_group(handled: Cli) -> None:
    said = handled(
        "replay", URL, "orders.created", "--group", "payment", "--from", "earliest", "--json"
    )
    assert said.json == {
        "topic": "orders.created",
        "group": "payment",
        "from": "earliest",
        "before": 0,
        "after": 3,
    }
    for place in ("latest", "2020-01-01T00:00:00Z"):
        said = handled("replay", APP, "orders.created", "-g", "payment", "--from", place)
        assert said.code == 0
        assert f"reads on from {place}" in said.out
    assert handled("lag", URL, "orders.created", "--json").json[0]["messages"] == 3


def test_replay_refuses_a_group_at_work(shop: Cli) -> None:
    with Running(APP) as process:
        process.until("charged 3")
        said = shop("replay", URL, "orders.created", "-g", "payment", "--from", "earliest")
        assert said.code == ExitCode.FAILURE
        assert process.stop() == 0


def test_wrong_arguments_of_replay(shop: Cli) -> None:
    replay = ("replay", URL, "orders.created", "--group", "payment", "--from")
    assert shop(*replay, "tomorrow").code == ExitCode.USAGE
    assert shop(*replay[:3]).code == ExitCode.USAGE
    said = shop("replay", URL, "orders.craeted", "-g", "payment", "--from", "latest")
    assert "did you mean 'orders.created'?" in said.err
    said = shop("replay", URL, "orders.created", "-g", "paymnt", "--from", "latest")
    assert "its groups: payment" in said.err


# --- explain, doctor, bench ------------------------------------------------------------------


def test_explain(cli: Cli, tmp_path: Path) -> None:
    said = cli("explain", APP, "--json")
    assert said.code == 0
    subjects = [contract["subject"] for contract in said.json["contracts"]]
    assert "orders.created → payment" in subjects
    assert all(contract["kept"] for contract in said.json["contracts"])
    assert "✓ road" in cli("explain", APP).out
    assert not (tmp_path / "shop.db").exists()


def test_explain_ends_with_3_where_nobody_keeps_it(cli: Cli, tmp_path: Path) -> None:
    gap = SHOP.replace('group="payment",', 'group="payment", order="total",')
    (tmp_path / "cli_shop.py").write_text(gap)
    said = cli("explain", APP)
    assert said.code == ExitCode.CHECK
    assert "✗ nobody" in said.out
    assert cli("explain", APP, "--json").code == ExitCode.CHECK
    said = cli("run", APP)
    assert said.code == ExitCode.USAGE
    assert "order total" in said.err


def test_explain_knows_every_road(cli: Cli) -> None:
    roads = cli("explain", "--capabilities", "--json").json
    assert roads["sqlite://"]["durable"] is True
    assert roads["memory://"]["durable"] is False
    assert "sqlite://" in cli("explain", "--capabilities").out
    assert cli("explain", URL, "--json").json[URL]["durable"] is True


def test_doctor(shop: Cli) -> None:
    said = shop("doctor", URL, "--json")
    assert said.code == 0
    assert said.json["healthy"] is True
    assert "nothing is at fault" in shop("doctor").out
    said = shop("doctor", "nope://x")
    assert said.code == ExitCode.CHECK
    assert "1 at fault" in said.out


def test_bench(cli: Cli) -> None:
    said = cli("bench", "-n", "20", "--json")
    assert said.code == 0
    assert said.json["consume_per_second"] > 0
    assert said.json["latency_p99_seconds"] > 0


# --- what is no road -------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["topics", "lag", "tail", "audit"])
@pytest.mark.parametrize(
    ("reference", "code", "kind"),
    [
        ("nope://x", ExitCode.USAGE, "UnknownTransportError"),
        ("sqlite://x", ExitCode.USAGE, "InvalidURLError"),
        ("sqlite:///none.db", ExitCode.FAILURE, "NotFoundError"),
        ("memory://", ExitCode.USAGE, "DeclarationError"),
        ("cli_shpo:road", ExitCode.USAGE, "DeclarationError"),
        ("cli_shop:raod", ExitCode.USAGE, "DeclarationError"),
        ("cli_shop:orders", ExitCode.USAGE, "DeclarationError"),
    ],
)
def test_a_wrong_road(cli: Cli, command: str, reference: str, code: int, kind: str) -> None:
    said = cli(command, reference, "--json")
    assert (said.code, said.out) == (code, "")
    assert (said.error["type"], said.error["exit_code"]) == (kind, code)


def test_a_file_that_is_no_database(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "shop.db").write_bytes(b"no database at all, however long " * 200)
    said = cli("lag", URL, "--json")
    assert said.code == ExitCode.FAILURE
    assert said.error["type"] in ("StorageCorruptError", "StorageVersionError")


# --- run -------------------------------------------------------------------------------------


def _events(lines: list[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_drains_when_told_to_stop(shop: Cli, number: int) -> None:
    shop("publish", APP, "orders.created", '{"number": 7, "customer": "ada", "seconds": 0.5}')
    with Running(APP) as process:
        process.until("began 7")
        process.process.send_signal(number)
        process.until("charged 7")
        assert process.process.wait(30) == 0
        errors = process.process.stderr.read() if process.process.stderr else ""
    assert "orders.created → payment" in errors
    assert "draining, up to 30.0 s" in errors
    assert "… done after" in errors
    assert shop("audit", URL).code == 0


def test_run_gives_back_what_does_not_end_in_time(shop: Cli) -> None:
    shop("publish", APP, "orders.created", '{"number": 7, "customer": "ada", "seconds": 60}')
    with Running(APP, "--drain", "100ms") as process:
        process.until("began 7")
        assert process.stop() == 0
    account = _account(shop)
    assert account["outcomes"].get("handled", 0) + account["outcomes"].get("dead", 0) <= 3
    assert account["leased"] == 0
    assert shop("lag", URL, "orders.created", "--json").json[0]["messages"] >= 1


def test_a_second_wish_ends_it_at_once(shop: Cli) -> None:
    shop("publish", APP, "orders.created", '{"number": 7, "customer": "ada", "seconds": 60}')
    with Running(APP, "--json") as process:
        process.until_said("began 7")
        process.process.send_signal(signal.SIGINT)
        process.until('"draining"')
        time.sleep(0.7)  # a second signal right behind the first one is the same wish
        process.process.send_signal(signal.SIGINT)
        assert process.process.wait(30) == ExitCode.INTERRUPTED


def test_workers_share_the_work_and_a_killed_one_is_replaced(shop: Cli) -> None:
    with Running(APP, "--workers", "2", "--json") as process:
        started = _events(process.until('"worker":2'))
        assert started[0]["event"] == "starting"
        assert started[0]["workers"] == 2
        pids = {event["pid"] for event in started if event["event"] == "worker-started"}
        assert len(pids) == 2
        process.until_said("charged")
        shop("publish", APP, "orders.created", '{"number": 8, "customer": "poison"}')
        (exited,) = _events(process.until('"worker-exited"')[-1:])
        assert exited["code"] == 9
        assert exited["restart_in"] == 0.5
        process.until('"worker-started"')
        _until(lambda: shop("lag", URL, "orders.created", "--json").json[0]["messages"] == 0)
        assert process.stop() == 0
    assert shop("audit", URL).code == 0


def test_workers_end_with_their_supervisor(shop: Cli) -> None:
    with Running(APP, "--workers", "2", "--json") as process:
        started = _events(process.until('"worker":2'))
        pids = [event["pid"] for event in started if event["event"] == "worker-started"]
        process.until_said("charged")
        process.process.kill()
        for pid in pids:
            _until(lambda pid=pid: not _alive(pid))  # type: ignore[misc]


def test_workers_are_not_for_a_road_inside_one_process(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "cli_shop.py").write_text(SHOP.replace("sqlite:///shop.db", "memory://"))
    said = cli("run", APP, "--workers", "2")
    assert said.code == ExitCode.USAGE
    assert "lives inside one process" in said.err


def test_reload_starts_workers_with_the_new_code(shop: Cli, tmp_path: Path) -> None:
    with Running(APP, "--reload", "--json") as process:
        process.until_said("charged")
        (tmp_path / "cli_shop.py").write_text(SHOP.replace("charged", "newly charged"))
        assert _events(process.until('"reloading"')[-1:])[0]["files"] == ["cli_shop.py"]
        process.until('"worker-started"')
        shop("publish", APP, "orders.created", '{"number": 8, "customer": "ada"}')
        process.until_said("newly charged 8")
        assert process.stop() == 0


def test_an_app_that_cannot_be_imported_shows_its_own_frames_only(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "cli_shop.py").write_text("import no_such_module_of_the_app\n")
    said = cli("run", APP)
    assert said.code == ExitCode.BUG
    assert "cli_shop.py" in said.err
    assert "loading.py" not in said.err


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
