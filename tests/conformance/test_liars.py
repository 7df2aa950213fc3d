"""The suite finds lies: for each liar a test that fails, and the same tests pass without it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from postroad.core.transport import Transport
from postroad.testing import liars
from postroad.testing.conformance import SEED, Road, TransportConformance, run_test
from postroad.testing.models import (
    AtomicModel,
    Broker,
    CumulativeModel,
    LeasedModel,
    LossyModel,
)
from postroad.transports.sql import SqlTransport

LIES: dict[str, tuple[Callable[[], liars.Disguise], tuple[str, ...]]] = {
    "drops one in 1,000": (
        liars.Drops,
        ("test_a_burst_of_concurrent_publishes_loses_nothing",),
    ),
    "reorders inside a key": (
        liars.Reorders,
        (
            "test_one_consumer_gets_each_key_in_order",
            "test_several_consumers_keep_the_order_of_a_key",
            "test_redelivery_keeps_the_order_of_a_key",
        ),
    ),
    "ignores nacks": (
        liars.IgnoresNacks,
        (
            "test_a_nack_brings_it_again",
            "test_a_hand_back_costs_no_attempt",
            "test_a_batch_can_be_settled_in_parts",
        ),
    ),
    "breaks its delays": (
        liars.BreaksDelays,
        ("test_a_delayed_message_is_not_early", "test_a_delay_is_kept_for_every_group"),
    ),
    "miscounts deliveries": (
        liars.Miscounts,
        ("test_a_nack_brings_it_again", "test_what_a_failure_says_is_kept"),
    ),
    "obeys zombies": (liars.ObeysZombies, ("test_a_zombie_settles_nothing",)),
    "shares partitions": (
        liars.SharesPartitions,
        ("test_joining_and_leaving_keep_the_order_of_a_key",),
    ),
    "never ends a lease": (
        liars.KeepsLeases,
        ("test_a_lease_that_ends_gives_the_message_to_another",),
    ),
    "settles on close": (
        liars.SettlesOnClose,
        ("test_closing_hands_back_without_an_attempt",),
    ),
    "commits past gaps": (
        liars.CommitsPastGaps,
        ("test_an_ack_settles_nothing_before_it",),
    ),
}
CASES = [
    pytest.param(disguise, test, id=f"{name}-{test}")
    for name, (disguise, tests) in LIES.items()
    for test in tests
]

Model = Callable[[Broker[Any]], Transport]
MODEL_LIES: dict[str, tuple[Model, Callable[[], liars.Disguise], tuple[str, ...]]] = {
    "commits what it read": (
        CumulativeModel,
        liars.CommitsWhatItRead,
        (
            "test_a_position_settles_nothing_after_it",
            "test_a_position_settles_what_stands_before_it",
            "test_closing_gives_the_next_one_the_same_order",
            "test_the_new_owner_goes_on_after_what_was_settled",
        ),
    ),
    "hides its gaps": (LossyModel, liars.HidesGaps, ("test_a_slow_reader_is_told_its_gap",)),
    "publishes whatever comes of it": (
        AtomicModel,
        liars.PublishesAnyway,
        (
            "test_settling_atomically_twice_publishes_once",
            "test_a_lost_partition_publishes_nothing",
        ),
    ),
    "obeys zombies": (
        LeasedModel,
        liars.ObeysZombies,
        ("test_a_zombie_settles_nothing", "test_an_unanswered_revocation_ends_at_its_deadline"),
    ),
    "keeps revocations to itself": (
        CumulativeModel,
        liars.HidesRevocations,
        ("test_a_revocation_comes_to_one_that_does_not_receive",),
    ),
}
MODEL_CASES = [
    pytest.param(model, disguise, test, id=f"model-{name}-{test}")
    for name, (model, disguise, tests) in MODEL_LIES.items()
    for test in tests
]


class Disguised(TransportConformance):
    """A transport behind a disguise: SQLite, or a model."""

    name = "disguised"

    def __init__(self, disguise: liars.Disguise, model: Model | None = None) -> None:
        self._disguise = disguise
        self._model = model

    def road(self, scratch: Path) -> Road:
        broker: Broker[Any] = Broker(seed=SEED)
        url = f"sqlite:///{scratch}/road.db"

        def make() -> Transport:
            return SqlTransport(url) if self._model is None else self._model(broker)

        return Road(make=lambda: self._disguise.wrap(make()), backlog=3_500, patience=2.0)


@pytest.mark.parametrize(("disguise", "test"), CASES)
async def test_a_lie_is_found(
    disguise: Callable[[], liars.Disguise], test: str, tmp_path: Path
) -> None:
    with pytest.raises(AssertionError):
        await run_test(Disguised(disguise()), test, tmp_path)


@pytest.mark.parametrize(("model", "disguise", "test"), MODEL_CASES)
async def test_a_lie_of_a_model_is_found(
    model: Model, disguise: Callable[[], liars.Disguise], test: str, tmp_path: Path
) -> None:
    with pytest.raises(AssertionError):
        await run_test(Disguised(disguise(), model), test, tmp_path)


@pytest.mark.parametrize("test", sorted({test for _, tests in LIES.values() for test in tests}))
async def test_without_the_lie_it_passes(test: str, tmp_path: Path) -> None:
    await run_test(Disguised(liars.Disguise()), test, tmp_path)


@pytest.mark.parametrize(("model", "disguise", "test"), MODEL_CASES)
async def test_without_its_lie_a_model_passes(
    model: Model, disguise: Callable[[], liars.Disguise], test: str, tmp_path: Path
) -> None:
    await run_test(Disguised(liars.Disguise(), model), test, tmp_path)
