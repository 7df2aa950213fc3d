"""Compiling guarantees: what is kept, by whom, and what is refused, all gaps at once."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from postroad.core.capabilities import ANY_DELAY, Capabilities
from postroad.core.contract import (
    PLAIN,
    Setting,
    check,
    check_delay,
    check_topic,
    draft,
    draft_topic,
)
from postroad.core.delivery import Position
from postroad.core.filters import Exact, Where
from postroad.core.subscription import Batch, Subscription
from postroad.core.topic import Retention, Topic
from postroad.errors import GuaranteeError

KEYED: Topic[dict[str, Any]] = Topic("orders", dict, key="id")
SINGLE: Topic[dict[str, Any]] = Topic("journal", dict)
FULL = Capabilities(
    settling="each",
    order="key-group",
    backlog="kept",
    durable=True,
    shared=True,
    groups=True,
    ephemeral=True,
    history=True,
    audit="exact",
    delay=ANY_DELAY,
    redelivery_delay=True,
    attempts=True,
    dead_letters=True,
    transactions=True,
    patterns=True,
    retention=frozenset({"age", "size", "consumed"}),
    lease=True,
    risk="a flood takes all",
)
POOR = Capabilities(settling="none", order="none", backlog="dropped")
TX = Setting(wants_tx=True)


def wish(source: Topic[Any] | str = KEYED, **settings: Any) -> Subscription:
    return Subscription(source=source, **{"group": "g", **settings})


def keepers(subscription: Subscription, road: Capabilities, setting: Setting = PLAIN) -> Any:
    return {term.subject: term.keeper for term in draft(subscription, road, setting).terms}


def test_an_able_road_keeps_everything_and_says_how() -> None:
    contract = check(wish(order="key"), FULL)
    assert contract.gaps == ()
    assert contract.plan.ordered
    assert {term.keeper for term in contract.terms} <= {"road", "engine"}
    assert any("a flood takes all" in term.detail for term in contract.terms)
    assert all(term.detail for term in contract.terms)


def test_every_gap_is_named_at_once_with_the_roads_that_could() -> None:
    subscription = wish(order="key", start="earliest")
    with pytest.raises(GuaranteeError) as caught:
        check(subscription, POOR, catalog=lambda: {"full://": FULL, "poor://": POOR})
    error = caught.value
    subjects = {gap.split()[0] for gap in error.gaps}
    assert {"group", "start", "delivery", "order", "dead"} <= subjects
    assert error.roads == ("full://",)
    assert "full://" in str(error)
    assert all(gap in str(error) for gap in error.gaps)


def test_a_wish_that_nobody_keeps_names_no_road() -> None:
    with pytest.raises(GuaranteeError) as caught:
        check(wish(delivery="effectively-once"), FULL, catalog=lambda: {"full://": FULL})
    assert caught.value.roads == ()


@pytest.mark.parametrize(
    ("change", "settings", "setting", "word"),
    [
        ({"groups": False}, {}, Setting(), "group=None works here"),
        ({"ephemeral": False}, {"group": None}, Setting(), "give one"),
        ({"history": False}, {"start": "earliest"}, Setting(), "latest"),
        ({"history": False}, {"start": Position(0, 3)}, Setting(), "latest"),
        ({"settling": "none"}, {}, Setting(), "at-most-once"),
        ({}, {}, TX, "effectively-once"),
        ({}, {"delivery": "effectively-once"}, Setting(), "tx: Transaction"),
        ({}, {"delivery": "effectively-once", "group": None}, TX, "named group"),
        ({}, {"delivery": "effectively-once", "batch": Batch()}, TX, "batch"),
        ({"transactions": False}, {"delivery": "effectively-once"}, TX, "database"),
        (
            {},
            {"delivery": "effectively-once"},
            Setting(wants_tx=True, is_async=False),
            "async def",
        ),
        ({"order": "none"}, {"order": "key"}, Setting(), "no order"),
        ({"order": "key-consumer"}, {"order": "key"}, Setting(), "one consumer only"),
        ({}, {"order": "key", "source": SINGLE}, Setting(), "no key"),
        ({}, {"order": "total"}, Setting(), "partitions=1"),
        ({}, {"order": "total", "source": "orders.*"}, Setting(), "patterns"),
        ({"patterns": False}, {"source": "orders.*"}, Setting(), "one by one"),
        ({"dead_letters": False}, {}, Setting(), "no store"),
        ({}, {"timeout": timedelta(seconds=1)}, Setting(is_async=False), "async def"),
    ],
)
def test_what_cannot_be_kept_is_a_gap_with_its_remedy(
    change: dict[str, Any], settings: dict[str, Any], setting: Setting, word: str
) -> None:
    contract = draft(wish(**settings), replace(FULL, **change), setting)
    assert len(contract.gaps) == 1, contract.gaps
    assert word in contract.gaps[0]


def test_order_inside_one_process_is_the_engines() -> None:
    road = replace(FULL, order="key-consumer", shared=False)
    assert keepers(wish(order="key"), road)["order"] == "engine"
    assert keepers(wish(order="key"), road, Setting(peers=2))["order"] == "nobody"
    assert not check(wish(order="key"), road).plan.ordered


def test_total_order_needs_one_partition_only() -> None:
    assert check(wish(SINGLE, order="total"), FULL).plan.ordered
    assert not check(wish(SINGLE, order="total", group=None), FULL).plan.ordered


def test_retries_are_kept_where_the_road_can() -> None:
    assert keepers(wish(), FULL)["retry"] == "road"
    assert keepers(wish(), replace(FULL, attempts=False))["retry"] == "engine"
    assert keepers(wish(order="key"), FULL)["retry"] == "engine"
    assert keepers(wish(delivery="at-most-once"), FULL)["retry"] == "engine"


def test_at_most_once_is_kept_everywhere() -> None:
    road = replace(FULL, settling="none", dead_letters=False)
    contract = check(wish(delivery="at-most-once"), road)
    assert "counted loss" in next(t for t in contract.terms if t.subject == "delivery").detail


def test_exactly_once_is_an_alias_that_says_what_it_means() -> None:
    contract = check(wish(delivery="exactly-once"), FULL, TX)
    (term,) = (term for term in contract.terms if term.subject == "delivery")
    assert "exactly-once means effectively-once" in term.detail


def test_a_filter_is_split_between_road_and_engine() -> None:
    native, residual = Exact("type", "x"), Where(lambda message: True)
    contract = check(wish(filter=native & residual), replace(FULL, filters=frozenset({"exact"})))
    kept = [(term.asked, term.keeper) for term in contract.terms if term.subject == "filter"]
    assert kept == [(repr(native), "road"), (repr(residual), "engine")]
    assert contract.plan.filter == native
    assert check(wish(filter=native), FULL).plan.filter is None


def test_a_topics_publishing_side_is_checked_too() -> None:
    topic: Topic[Any] = Topic(
        "t", dict, max_payload=5000, retention=Retention(age=timedelta(days=1), consumed=True)
    )
    road = replace(FULL, max_payload=1000, retention=frozenset({"age"}))
    contract = draft_topic(topic, road)
    assert [gap.split()[0] for gap in contract.gaps] == ["max_payload", "retention"]
    with pytest.raises(GuaranteeError) as caught:
        check_topic(topic, road)
    assert caught.value.gaps == contract.gaps
    assert check_topic(topic, FULL).gaps == ()
    forgetful: Topic[Any] = Topic("f", dict, publish="fire-and-forget")
    assert check_topic(forgetful, FULL).terms[0].asked == "fire-and-forget"


def test_delays_up_to_what_the_road_keeps() -> None:
    road = replace(FULL, delay=timedelta(minutes=15))
    check_delay(timedelta(minutes=15), road)
    with pytest.raises(GuaranteeError, match="0:15:00"):
        check_delay(timedelta(minutes=16), road)
    with pytest.raises(GuaranteeError, match="no native"):
        check_delay(timedelta(seconds=1), POOR)
