"""The contract of effectively-once: where it is kept, for how long, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from postroad.core.capabilities import Capabilities
from postroad.core.contract import check, draft
from postroad.core.retry import Retry
from postroad.core.subscription import Subscription
from postroad.core.terms import Business, Setting, Term
from postroad.core.topic import Topic
from postroad.errors import GuaranteeError

ROAD = Capabilities(
    settling="each", order="key-group", backlog="kept", groups=True, dead_letters=True
)
FILE = Business("/data/shop.db", 1, outbox=True)
SERVER = Business("postgresql://db/shop", 10, outbox=True)


def wish(**options: Any) -> Subscription:
    topic = Topic("orders", dict, key="id")
    return Subscription(source=topic, group="g", delivery="effectively-once", **options)


def terms(subscription: Subscription, able: Capabilities, **setting: Any) -> dict[str, Term]:
    contract = draft(subscription, able, Setting(wants_tx=True, **setting))
    return {term.subject: term for term in contract.terms}


def test_without_a_database_it_is_refused_with_the_remedy() -> None:
    with pytest.raises(GuaranteeError, match=r'Postroad\(…, database="postgresql://…"\)'):
        check(wish(), ROAD, Setting(wants_tx=True))


def test_a_database_keeps_it_for_any_road_that_settles() -> None:
    found = terms(wish(), ROAD, database=SERVER)
    assert (found["delivery"].keeper, found["inbox"].keeper) == ("database", "database")
    assert "up to 10 transactions at once" in found["delivery"].detail
    assert "postgresql://db/shop" in found["delivery"].detail
    assert "postgresql://db/shop" in found["inbox"].detail
    setting = Setting(wants_tx=True, database=SERVER)
    with pytest.raises(GuaranteeError, match="at-most-once"):
        check(wish(), replace(ROAD, settling="none"), setting)


def test_on_a_file_handlers_take_turns_and_explain_says_so() -> None:
    found = terms(wish(), ROAD, database=FILE)
    turns = "opens at the first statement and transactional handlers take turns"
    assert turns in found["delivery"].detail
    own = terms(wish(), replace(ROAD, transactions=True), road=FILE)
    assert own["delivery"].keeper == "road"
    assert turns in own["delivery"].detail


def test_a_server_that_is_the_road_settles_after_the_commit() -> None:
    found = terms(wish(), replace(ROAD, transactions=True), road=SERVER)
    assert "is settled after that; up to 10 transactions" in found["delivery"].detail
    assert found["inbox"].keeper == "road"


def test_tx_publishes_through_the_outbox_or_not_at_all() -> None:
    assert "through the outbox" in terms(wish(), ROAD, database=FILE)["delivery"].detail
    without = replace(FILE, outbox=False)
    assert "refused" in terms(wish(), ROAD, database=without)["delivery"].detail


@pytest.mark.parametrize(
    ("window", "lease", "kept"), [(119, 30, False), (120, 30, True), (0.4, 0.1, True)]
)
def test_the_window_covers_what_a_crash_brings_back(
    window: float, lease: float, kept: bool
) -> None:
    subscription = wish(inbox_window=timedelta(seconds=window), lease=timedelta(seconds=lease))
    term = terms(subscription, ROAD, database=FILE)["inbox"]
    assert (term.keeper != "nobody") is kept
    if not kept:
        assert "at least 2 min" in term.detail


def test_what_may_wait_behind_retries_for_longer_than_the_window_is_named() -> None:
    patient = Retry(attempts=100, longest=timedelta(hours=10))
    ordered = terms(wish(order="key", retry=patient), ROAD, database=FILE)["inbox"]
    assert "stood behind a key's retries, which can take 41.2 days" in ordered.detail
    assert "retries" not in terms(wish(retry=patient), ROAD, database=FILE)["inbox"].detail


def test_the_alias_says_what_it_means() -> None:
    subscription = replace(wish(), delivery="exactly-once")
    detail = terms(subscription, ROAD, database=FILE)["delivery"].detail
    assert detail.startswith("exactly-once means effectively-once")
