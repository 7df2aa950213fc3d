"""PostgreSQL, durable as in production, without a password on the loopback address."""

from __future__ import annotations

import signal
import socket
import struct
from collections.abc import Sequence

from tests.services.harness.debian import Debian
from tests.services.harness.instance import Instance
from tests.services.harness.local import Local
from tests.services.harness.ports import LOOPBACK
from tests.services.harness.service import Service

USER = "postgres"


class PostgreSQL(Service):
    name = "postgresql"
    finders = (
        Local(("initdb", "postgres"), ("/usr/lib/postgresql/*/bin",)),
        Debian(
            ("postgresql",),
            ("usr/lib/postgresql/*/bin/initdb", "usr/lib/postgresql/*/bin/postgres"),
        ),
    )
    # A fast shutdown: the default waits until every client has left.
    stop_signal = signal.SIGINT

    def url(self, instance: Instance) -> str:
        return f"postgresql://{USER}@{LOOPBACK}:{instance.port}/{USER}"

    def prepare(self, instance: Instance) -> None:
        instance.run(
            [
                instance.program["initdb"],
                f"--pgdata={instance.directory}/data",
                f"--username={USER}",
                "--auth=trust",
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
                "--no-instructions",
            ]
        )

    def command(self, instance: Instance) -> Sequence[str]:
        settings = {
            "listen_addresses": LOOPBACK,
            "port": str(instance.port),
            "unix_socket_directories": "",
            "max_connections": "200",
            "shared_buffers": "64MB",
            "max_prepared_transactions": "20",
            "wal_level": "logical",
            "log_min_messages": "warning",
        }
        words = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        return [instance.program["postgres"], "-D", f"{instance.directory}/data", *words]

    def ready(self, instance: Instance) -> bool:
        """Log in without a client library: ready is when the server asks for the first query."""
        try:
            with socket.create_connection((LOOPBACK, instance.port), timeout=1) as connection:
                connection.settimeout(1)
                connection.sendall(_startup_packet())
                answer = b""
                while not answer.endswith(_READY_FOR_QUERY):
                    chunk = connection.recv(4096)
                    if not chunk:
                        return False
                    answer += chunk
                return True
        except OSError:
            return False


_READY_FOR_QUERY = b"Z\x00\x00\x00\x05I"
_PROTOCOL_3_0 = 196_608


def _startup_packet() -> bytes:
    parameters = f"user\0{USER}\0database\0{USER}\0\0".encode()
    return struct.pack("!ii", len(parameters) + 8, _PROTOCOL_3_0) + parameters


SERVICE = PostgreSQL()
