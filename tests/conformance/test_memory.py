"""The in-process road under the conformance suite."""

from __future__ import annotations

from pathlib import Path

from postroad.testing.conformance import Road, TransportConformance
from postroad.transports.memory import MemoryTransport


class TestMemory(TransportConformance):
    name = "memory"

    def road(self, scratch: Path) -> Road:
        return Road(make=MemoryTransport)


class TestMemoryRefusing(TransportConformance):
    name = "memory?when_full=refuse"

    def road(self, scratch: Path) -> Road:
        url = "memory://?capacity=1000&when_full=refuse"
        return Road(make=lambda: MemoryTransport(url), burst=900)
