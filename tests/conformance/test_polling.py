"""Polled tables under the conformance suite."""

from __future__ import annotations

from pathlib import Path

import pytest

from postroad.testing.conformance import Road, TransportConformance
from tests.conformance.polled import PolledRoad
from tests.services.harness.sql import Database


class TestPolledSqlite(TransportConformance):
    name = "polled sqlite"

    def road(self, scratch: Path) -> Road:
        url = f"sqlite:///{scratch}/shop.db?durability=normal"
        return Road(
            make=lambda: PolledRoad(url),
            process=("tests.conformance.polled:make", url),
            burst=1_000,
        )


class TestPolledPostgresql(TransportConformance):
    name = "polled postgresql"
    url: str

    @pytest.fixture(autouse=True)
    def _database(self, postgresql_database: Database) -> None:
        self.url = postgresql_database.url

    def road(self, scratch: Path) -> Road:
        return Road(
            make=lambda: PolledRoad(self.url),
            process=("tests.conformance.polled:make", self.url),
            burst=1_000,
        )


class TestPolledMariadb(TransportConformance):
    name = "polled mariadb"
    url: str

    @pytest.fixture(autouse=True)
    def _database(self, mariadb_database: Database) -> None:
        self.url = mariadb_database.url

    def road(self, scratch: Path) -> Road:
        return Road(
            make=lambda: PolledRoad(self.url),
            process=("tests.conformance.polled:make", self.url),
            burst=1_000,
        )
