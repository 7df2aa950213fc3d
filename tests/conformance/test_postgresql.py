"""The PostgreSQL road under the conformance suite, on a real server that is killed, too."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from postroad.core.transport import Transport
from postroad.testing.conformance import Road, TransportConformance
from postroad.transports.sql import SqlTransport
from tests.services.harness.instance import Instance
from tests.services.harness.sql import Database
from tests.services.plugin import Server


class TestPostgresql(TransportConformance):
    name = "postgresql"

    @pytest.fixture(autouse=True)
    def _server(self, postgresql_server: Server, postgresql_database: Database) -> None:
        self.server = postgresql_server
        self.database = postgresql_database

    def road(self, scratch: Path) -> Road:
        url = self.database.url
        return Road(
            make=lambda: SqlTransport(url),
            process=("postroad.transports.sql:SqlTransport", url),
            restart=self.restart if isinstance(self.server, Instance) else None,
            disconnect=self.disconnect,
            parameter="$1",
        )

    async def restart(self) -> None:
        assert isinstance(self.server, Instance)
        await asyncio.to_thread(self.server.kill)
        await asyncio.to_thread(self.server.start)

    async def disconnect(self, transport: Transport) -> None:
        """Every connection to the test's database ends, as after a failover."""
        await asyncio.to_thread(
            self.database.query,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
