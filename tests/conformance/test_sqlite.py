"""The SQLite road under the conformance suite."""

from __future__ import annotations

from pathlib import Path

from postroad.testing.conformance import Road, TransportConformance
from postroad.transports.sql import SqlTransport


class TestSqlite(TransportConformance):
    name = "sqlite"

    def road(self, scratch: Path) -> Road:
        url = f"sqlite:///{scratch}/road.db"
        return Road(
            make=lambda: SqlTransport(url),
            process=("postroad.transports.sql:SqlTransport", url),
        )
