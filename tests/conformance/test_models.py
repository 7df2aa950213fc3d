"""The model transports under the conformance suite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from postroad.core.transport import Transport
from postroad.testing.conformance import SEED, Road, TransportConformance
from postroad.testing.models import (
    AtomicModel,
    Broker,
    CumulativeModel,
    LeasedModel,
    LossyModel,
    PushModel,
)


def broker() -> Broker[Any]:
    return Broker(seed=SEED)


async def disconnect(road: Transport) -> None:
    assert isinstance(road, PushModel)
    road.disconnect()


class TestModelCumulative(TransportConformance):
    name = "model-cumulative"

    def road(self, scratch: Path) -> Road:
        server = broker()
        return Road(make=lambda: CumulativeModel(server), model=True)


class TestModelPush(TransportConformance):
    name = "model-push"

    def road(self, scratch: Path) -> Road:
        server = broker()
        return Road(make=lambda: PushModel(server), model=True, disconnect=disconnect)


class TestModelLossy(TransportConformance):
    name = "model-lossy"

    def road(self, scratch: Path) -> Road:
        server = broker()
        return Road(make=lambda: LossyModel(server), model=True, backlog=3_500)


class TestModelLossyUncounted(TransportConformance):
    name = "model-lossy-uncounted"

    def road(self, scratch: Path) -> Road:
        server = broker()
        return Road(make=lambda: LossyModel(server, counts=False), model=True, backlog=3_500)


class TestModelLeased(TransportConformance):
    name = "model-leased"

    def road(self, scratch: Path) -> Road:
        server = broker()
        return Road(make=lambda: LeasedModel(server), model=True)


class TestModelAtomic(TransportConformance):
    name = "model-atomic"

    def road(self, scratch: Path) -> Road:
        server = broker()
        return Road(make=lambda: AtomicModel(server), model=True)
