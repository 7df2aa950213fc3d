"""The MySQL road under the conformance suite, on a real MariaDB that is killed, too."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from postroad.testing.conformance import Road, TransportConformance
from postroad.transports.sql import SqlTransport
from tests.services.harness.instance import Instance
from tests.services.harness.sql import Database
from tests.services.plugin import Server


class TestMysql(TransportConformance):
    name = "mysql"

    @pytest.fixture(autouse=True)
    def _server(self, mariadb_server: Server, mariadb_database: Database) -> None:
        self.server = mariadb_server
        self.database = mariadb_database

    def road(self, scratch: Path) -> Road:
        url = self.database.url
        return Road(
            make=lambda: SqlTransport(url),
            process=("postroad.transports.sql:SqlTransport", url),
            restart=self.restart if isinstance(self.server, Instance) else None,
            parameter="%s",
            define=self.define,
        )

    async def define(self, statement: str) -> None:
        await asyncio.to_thread(self.database.query, statement)

    async def restart(self) -> None:
        assert isinstance(self.server, Instance)
        await asyncio.to_thread(self.server.kill)
        await asyncio.to_thread(self.server.start)
