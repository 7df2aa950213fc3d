"""The verdicts on an account."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from postroad.core.capabilities import Capabilities
from postroad.core.reports import Account
from postroad.delivery.audit import Audit, Entry, audit, judge
from postroad.errors import NotFoundError


def account(accepted: int = 100, group: str = "g", **figures: Any) -> Account:
    values: dict[str, Any] = {
        "backlog": 10,
        "leased": 5,
        "waiting": 3,
        "scheduled": 2,
        "outcomes": {
            "handled": 60,
            "dead": 5,
            "discarded": 4,
            "expired": 3,
            "shed": 2,
            "filtered": 1,
        },
        "trimmed": 5,
        "duplicates": 50,
        "since_us": 0,
    }
    return Account(topic="orders", group=group, accepted=accepted, **{**values, **figures})


def test_every_message_in_exactly_one_state_is_balanced() -> None:
    entry = judge(account(), exact=True)
    assert (entry.verdict, entry.reason, entry.pending) == ("balanced", "", 20)


@pytest.mark.parametrize(
    ("accepted", "words"), [(103, "3 unaccounted for of 103"), (98, "2 counted twice of 98")]
)
def test_any_difference_is_named(accepted: int, words: str) -> None:
    entry = judge(account(accepted), exact=True)
    assert entry.verdict == "unbalanced"
    assert words in entry.reason


def test_counters_beside_the_settlement_prove_nothing() -> None:
    assert judge(account(), exact=False).verdict == "unknown"


def test_the_worst_entry_is_the_verdict() -> None:
    def verdict(*verdicts: Any) -> str:
        return Audit(tuple(Entry("t", "g", None, one) for one in verdicts)).verdict

    assert verdict() == "balanced"
    assert verdict("balanced", "unknown") == "unknown"
    assert verdict("unknown", "unbalanced", "balanced") == "unbalanced"


class Road:
    capabilities = Capabilities(settling="each", order="none", backlog="kept", audit="exact")

    async def account(self, topic: str, group: str) -> Account:
        return account(100 if group == "g" else 101, group)

    async def groups(self, pattern: str) -> Sequence[tuple[str, str]]:
        return [("orders", "g"), ("orders", "h")] if pattern in ("orders", "#") else []


async def test_a_road_is_asked_for_what_fits() -> None:
    road: Any = Road()
    assert (await audit(road, "orders", "g")).verdict == "balanced"
    assert [entry.group for entry in (await audit(road, "#", None)).entries] == ["g", "h"]
    assert (await audit(road, "#", None)).verdict == "unbalanced"
    assert (await audit(road, "other.*", None)).entries == ()
    for pattern, group in (("orders", "missing"), ("other", None)):
        with pytest.raises(NotFoundError):
            await audit(road, pattern, group)


async def test_a_road_that_does_not_count_is_unknown() -> None:
    road: Any = object()
    found = await audit(road, "orders", None)
    assert found.verdict == "unknown"
    assert found.entries[0].reason
    assert found.entries[0].pending == 0


async def test_what_waits_elsewhere_is_accepted_and_scheduled_for_every_group() -> None:
    road: Any = Road()
    found = await audit(road, "orders", delayed={"orders": 7, "other": 1}.__getitem__)
    assert [one.account and one.account.scheduled for one in found.entries] == [9, 9]
    assert [one.account and one.account.accepted for one in found.entries] == [107, 108]
    assert [one.pending for one in found.entries] == [27, 27]
    assert [one.verdict for one in found.entries] == ["balanced", "unbalanced"], "hides nothing"
