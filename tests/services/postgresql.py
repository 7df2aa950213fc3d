"""PostgreSQL, durable as in production, without a password on the loopback address."""

from __future__ import annotations

import signal
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tests.services.harness.debian import Debian
from tests.services.harness.instance import Instance
from tests.services.harness.local import Local
from tests.services.harness.ports import LOOPBACK
from tests.services.harness.sql import Login, Row, SqlService, StatementFailed, receive_exactly

USER = "postgres"


class PostgreSQL(SqlService):
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
    create_database = (
        "CREATE DATABASE {database}",
        "REVOKE ALL ON DATABASE {database} FROM PUBLIC",
    )
    drop_database = "DROP DATABASE IF EXISTS {database} WITH (FORCE)"
    create_role = (
        "CREATE ROLE {role} LOGIN PASSWORD '{role}'",
        "GRANT CONNECT ON DATABASE {database} TO {role}",
    )
    drop_role = "DROP ROLE IF EXISTS {role}"

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
        try:
            with _logged_in(self.url(instance), seconds=1):
                return True
        except (OSError, StatementFailed):
            return False

    def query(self, url: str, statement: str) -> list[Row]:
        with _logged_in(url, seconds=30) as connection:
            _send(connection, b"Q", statement.encode() + b"\0")
            return [_values(body) for kind, body in _until_ready(connection) if kind == b"D"]


# ------------------------------------------------------------ the protocol

_PROTOCOL_3_0 = 196_608


@contextmanager
def _logged_in(url: str, *, seconds: float) -> Iterator[socket.socket]:
    """Log in without a password: trust is what a server of ours, and of compose.yaml, asks for."""
    login = Login.of(url)
    with socket.create_connection((login.host, login.port), timeout=seconds) as connection:
        parameters = f"user\0{login.user}\0database\0{login.database}\0\0".encode()
        _send(connection, b"", struct.pack("!i", _PROTOCOL_3_0) + parameters)
        for kind, body in _until_ready(connection):
            if kind == b"R" and body != bytes(4):
                raise StatementFailed("28000", "the server wants another login than trust")
        yield connection
        _send(connection, b"X", b"")


def _until_ready(connection: socket.socket) -> list[tuple[bytes, bytes]]:
    """Return the server's messages up to where it waits for the next query."""
    messages: list[tuple[bytes, bytes]] = []
    while True:
        kind = receive_exactly(connection, 1)
        (size,) = struct.unpack("!i", receive_exactly(connection, 4))
        body = receive_exactly(connection, size - 4)
        if kind == b"E":
            raise _failure(body)
        if kind == b"Z":
            return messages
        messages.append((kind, body))
        if kind == b"R" and body != bytes(4):
            return messages  # It waits for a password.


def _failure(body: bytes) -> StatementFailed:
    fields = {part[:1]: part[1:].decode(errors="replace") for part in body.split(b"\0") if part}
    return StatementFailed(fields.get(b"C", ""), fields.get(b"M", ""))


def _values(body: bytes) -> Row:
    values: list[str | None] = []
    at = 2
    while at < len(body):
        (size,) = struct.unpack_from("!i", body, at)
        at += 4
        values.append(None if size < 0 else body[at : at + size].decode())
        at += max(size, 0)
    return tuple(values)


def _send(connection: socket.socket, kind: bytes, body: bytes) -> None:
    connection.sendall(kind + struct.pack("!i", len(body) + 4) + body)


SERVICE = PostgreSQL()
