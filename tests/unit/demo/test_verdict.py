"""The demo's verdict sees what is lost, repeated or wrong."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from postroad import Audit, DeadLetter, Failure, Message
from postroad.core.reports import Account
from postroad.delivery.audit import judge
from postroad.demo.books import CarrierDelays, Line
from postroad.demo.expected import Expected
from postroad.demo.fault import Kill
from postroad.demo.verdict import Found, checks

EXPECTED = Expected(
    departures=10,
    announcements=4,
    claims={"AA-1": 250, "AA-2": 600},
    carriers={"AA": CarrierDelays(10, 1, 2, 90)},
    board={("JFK", "BOS"): "AA-1"},
)
EXPECTED.dead.update({"rejected": 1})


def account(group: str, accepted: int, dead: int = 0, backlog: int = 0) -> Account:
    return Account(
        topic="t",
        group=group,
        accepted=accepted,
        backlog=backlog,
        leased=0,
        waiting=0,
        scheduled=0,
        outcomes={"handled": accepted - dead - backlog, "dead": dead},
        trimmed=0,
        duplicates=0,
        since_us=0,
    )


def audit(*changed: Account) -> Audit:
    accounts = {group: account(group, 10) for group in ("board", "carriers", "notifications")} | {
        "compensation": account("compensation", 10, dead=1),
        "texts": account("texts", 4),
    }
    accounts |= {one.group: one for one in changed}
    return Audit(tuple(judge(one, exact=True) for one in accounts.values()))


def dead_letter(reason: str) -> DeadLetter:
    return DeadLetter(
        id="1",
        message=Message(id="1", type="t", source="s", data=b"", time_us=0),
        topic="t",
        group="compensation",
        position=None,
        failures=[Failure(reason=reason, detail="")],
        died_us=0,
    )


GOOD = Found(
    audit=audit(),
    dead_letters=[dead_letter("rejected")],
    claims=[("AA-1", 250), ("AA-2", 600)],
    carriers=EXPECTED.carriers,
    board=[Line("JFK", "BOS", datetime(2013, 2, 1, tzinfo=UTC), "AA-1", "on time")],
    kills=None,
)


def broken(found: Found) -> list[str]:
    return [check.what for check in checks(EXPECTED, found) if not check.holds]


def test_everything_holds() -> None:
    assert broken(GOOD) == []


@pytest.mark.parametrize(
    ("found", "what"),
    [
        (replace(GOOD, claims=[*GOOD.claims, ("AA-1", 250)]), "claims filed twice"),
        (replace(GOOD, claims=GOOD.claims[:1]), "flights without their claim"),
        (replace(GOOD, claims=[("AA-1", 250), ("AA-3", 600)]), "flights without their claim"),
        (replace(GOOD, claims=[("AA-1", 251), ("AA-2", 600)]), "euros claimed, for one seat each"),
        (replace(GOOD, carriers={}), "carriers whose sums are exact"),
        (replace(GOOD, board=[]), "board lines that show the newest departure"),
        (
            replace(GOOD, dead_letters=[dead_letter("timeout")]),
            "dead letters: rejected at once by the handler",
        ),
        (replace(GOOD, dead_letters=[dead_letter("timeout")]), "dead letters: timeout"),
        (replace(GOOD, audit=audit(account("board", 10, backlog=1))), "messages still pending"),
        (replace(GOOD, audit=audit(account("board", 9))), "handled by board"),
        (replace(GOOD, audit=Audit(audit().entries[1:])), "groups whose audit is balanced"),
        (replace(GOOD, kills=[Kill(1, {})]), "workers killed with messages in flight"),
        (replace(GOOD, kills=[]), "workers killed with messages in flight"),
    ],
)
def test_what_is_wrong_is_seen(found: Found, what: str) -> None:
    assert what in broken(found)


def test_a_kill_that_hit_somebody_holds() -> None:
    assert broken(replace(GOOD, kills=[Kill(1, {}), Kill(2, {"board": 3})])) == []
