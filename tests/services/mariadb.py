"""MariaDB, durable as in production: a commit is on the disk before it is answered."""

from __future__ import annotations

import hashlib
import shlex
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.services.harness.debian import Debian
from tests.services.harness.instance import Instance
from tests.services.harness.local import Local
from tests.services.harness.ports import LOOPBACK
from tests.services.harness.sql import Login, Row, SqlService, StatementFailed, receive_exactly

USER = "postroad"
PASSWORD = "only-for-tests"


class MariaDB(SqlService):
    name = "mariadb"
    finders = (
        Local(("mariadbd",), ("/usr/sbin", "/usr/local/mariadb/bin")),
        # What mariadb-server runs; the rest of it are clients, scripts and clustering.
        Debian(("mariadb-server-core",), ("usr/sbin/mariadbd",)),
    )
    create_database = ("CREATE DATABASE {database}",)
    drop_database = "DROP DATABASE IF EXISTS {database}"
    create_role = ("CREATE USER {role} IDENTIFIED BY '{role}'",)
    drop_role = "DROP USER IF EXISTS {role}"

    def url(self, instance: Instance) -> str:
        return f"mysql://{USER}:{PASSWORD}@{LOOPBACK}:{instance.port}/mysql"

    def prepare(self, instance: Instance) -> None:
        """Do what mariadb-install-db does, which needs programs of other packages."""
        folder = _share(instance)
        scripts = [
            next(folder.glob(f"m*_{name}.sql"))
            for name in ("system_tables", "performance_tables", "system_tables_data")
        ]
        (instance.directory / "before.sql").write_text(_BEFORE, encoding="utf-8")
        (instance.directory / "after.sql").write_text(_AFTER, encoding="utf-8")
        read = shlex.join(["cat", "before.sql", *map(str, scripts), "after.sql"])
        load = shlex.join(
            [
                instance.program["mariadbd"],
                *_common(instance),
                "--bootstrap",
                "--innodb-flush-log-at-trx-commit=0",
                "--enforce-storage-engine=",
                "--log-warnings=0",
            ]
        )
        instance.run(["/bin/sh", "-c", f"mkdir data && {read} | {load}"])

    def command(self, instance: Instance) -> Sequence[str]:
        settings = {
            "bind-address": LOOPBACK,
            "port": str(instance.port),
            "socket": "",
            "pid-file": f"{instance.directory}/server.pid",
            "max-connections": "200",
            "skip-name-resolve": "ON",
            "performance-schema": "OFF",
        }
        words = [f"--{key}={value}" for key, value in settings.items()]
        return [instance.program["mariadbd"], *_common(instance), *words]

    def ready(self, instance: Instance) -> bool:
        try:
            with _logged_in(self.url(instance), seconds=1):
                return True
        except (OSError, StatementFailed):
            return False

    def query(self, url: str, statement: str) -> list[Row]:
        with _logged_in(url, seconds=30) as connection:
            _send(connection, 0, _COM_QUERY + statement.encode())
            return _read_rows(connection)


def _common(instance: Instance) -> list[str]:
    """Return the settings of the bootstrap and of the server. `--no-defaults` must be first."""
    share = _share(instance)
    settings = {
        "basedir": str(share.parents[1]),
        "lc-messages-dir": str(share),
        "character-sets-dir": str(share / "charsets"),
        "datadir": f"{instance.directory}/data",
        "tmpdir": str(instance.directory),
        "character-set-server": "utf8mb4",
        "innodb-flush-log-at-trx-commit": "1",
        "innodb-buffer-pool-size": "64M",
        "innodb-log-file-size": "32M",
        "aria-pagecache-buffer-size": "8M",
        "key-buffer-size": "1M",
    }
    return ["--no-defaults", *(f"--{key}={value}" for key, value in settings.items())]


def _share(instance: Instance) -> Path:
    """Return the folder of messages and scripts; its name is that of the project, old or new."""
    root = Path(instance.program["mariadbd"]).resolve().parents[1]
    return next(path for path in root.glob("share/m*") if (path / "english/errmsg.sys").exists())


_BEFORE = """
CREATE DATABASE mysql;
USE mysql;
SET @auth_root_socket=NULL;
"""

_AFTER = f"""
FLUSH PRIVILEGES;
CREATE USER {USER} IDENTIFIED BY '{PASSWORD}';
GRANT ALL ON *.* TO {USER} WITH GRANT OPTION;
"""


# ------------------------------------------------------------ the protocol

_COM_QUIT, _COM_QUERY = b"\x01", b"\x03"
_UTF8MB4_GENERAL_CI = 45
# PROTOCOL_41, SECURE_CONNECTION, PLUGIN_AUTH, CONNECT_WITH_DB
_CAPABILITIES = 0x200 | 0x8000 | 0x80000 | 0x8
_OK, _END, _ERROR = 0x00, 0xFE, 0xFF


@contextmanager
def _logged_in(url: str, *, seconds: float) -> Iterator[socket.socket]:
    login = Login.of(url)
    with socket.create_connection((login.host, login.port), timeout=seconds) as connection:
        _log_in(connection, login)
        yield connection
        _send(connection, 0, _COM_QUIT)


def _log_in(connection: socket.socket, login: Login) -> None:
    """Log in with mysql_native_password."""
    greeting = _checked(_receive(connection))
    rest = greeting[greeting.index(b"\0", 1) + 1 :]
    salt = rest[4:12] + rest[31:43]
    answer = struct.pack("<IIB23x", _CAPABILITIES, 2**24 - 1, _UTF8MB4_GENERAL_CI)
    proof = _scrambled(login.password.encode(), salt)
    answer += login.user.encode() + b"\0" + bytes([len(proof)]) + proof
    answer += login.database.encode() + b"\0" + b"mysql_native_password\0"
    _send(connection, 1, answer)
    if _checked(_receive(connection))[0] != _OK:
        raise StatementFailed("login", "the server wants another method than a native password")


def _scrambled(password: bytes, salt: bytes) -> bytes:
    if not password:
        return b""
    once = hashlib.sha1(password).digest()
    twice = hashlib.sha1(once).digest()
    mask = hashlib.sha1(salt + twice).digest()
    return bytes(a ^ b for a, b in zip(once, mask, strict=True))


def _read_rows(connection: socket.socket) -> list[Row]:
    if _checked(_receive(connection))[0] == _OK:
        return []
    for _ in _until_end(connection):
        pass  # The columns' names and types.
    return [tuple(_values(packet)) for packet in _until_end(connection)]


def _until_end(connection: socket.socket) -> Iterator[bytes]:
    while True:
        packet = _checked(_receive(connection))
        if packet[0] == _END and len(packet) < 9:
            return
        yield packet


def _values(packet: bytes) -> Iterator[str | None]:
    at = 0
    while at < len(packet):
        size, at = packet[at], at + 1
        if size == 0xFB:
            yield None
            continue
        if size > 0xFB:
            width = {0xFC: 2, 0xFD: 3, 0xFE: 8}[size]
            size, at = int.from_bytes(packet[at : at + width], "little"), at + width
        yield packet[at : at + size].decode()
        at += size


def _checked(packet: bytes) -> bytes:
    if packet[0] == _ERROR:
        (code,) = struct.unpack_from("<H", packet, 1)
        raise StatementFailed(str(code), packet[3:].decode(errors="replace"))
    return packet


def _send(connection: socket.socket, number: int, payload: bytes) -> None:
    connection.sendall(len(payload).to_bytes(3, "little") + bytes([number]) + payload)


def _receive(connection: socket.socket) -> bytes:
    header = receive_exactly(connection, 4)
    return receive_exactly(connection, int.from_bytes(header[:3], "little"))


SERVICE = MariaDB()
