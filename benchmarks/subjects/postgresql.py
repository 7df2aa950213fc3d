"""The PostgreSQL server of a benchmark, and an empty database on it for each measurement."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from tests.services.harness.registry import Servers, known_services
from tests.services.harness.sql import Database, SqlService

_NAME = "postgresql"


@contextmanager
def server() -> Iterator[str]:
    """The URL of a server of our own, durable as in production, or of the one that
    POSTROAD_TEST_POSTGRESQL_URL names."""
    servers = Servers(known_services())
    try:
        yield servers.shared(_NAME).url
    finally:
        servers.close(keep_logs_in=None)


@contextmanager
def database(server_url: str) -> Iterator[str]:
    """The URL of an empty database; it is gone afterwards."""
    service = known_services()[_NAME]
    assert isinstance(service, SqlService)
    made = Database.make(service, server_url)
    try:
        yield made.url
    finally:
        made.drop()


def settled(url: str) -> None:
    """What was prepared is vacuumed and on the disk before a clock starts: no subject pays for what
    came before it."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")


def settings(server_url: str) -> dict[str, str]:
    """What a reader of the figures wants to know about the server."""
    names = ("server_version", "fsync", "synchronous_commit", "shared_buffers", "max_wal_size")
    with psycopg.connect(server_url, autocommit=True) as connection:
        found = {}
        for name in names:
            row = connection.execute(f"SHOW {name}").fetchone()
            found[name] = str(row[0]) if row else ""
    return found
