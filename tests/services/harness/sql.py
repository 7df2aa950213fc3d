"""What SQL servers have in common: a database of a test's own, and roles that may do little."""

from __future__ import annotations

import secrets
import socket
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar
from urllib.parse import SplitResult, unquote, urlsplit

from tests.services.harness.service import Service

Row = tuple[str | None, ...]


class StatementFailed(Exception):
    """The server refused a login or a statement; `code` is its SQLSTATE or its error number."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


@dataclass(frozen=True)
class Login:
    """Where and as whom to log in: the parts of a URL."""

    host: str
    port: int
    user: str
    password: str
    database: str

    @classmethod
    def of(cls, url: str) -> Login:
        """Take a URL apart."""
        parts = urlsplit(url)
        if parts.hostname is None or parts.port is None or parts.username is None:
            raise ValueError("the URL of an SQL server must name a host, a port and a user")
        return cls(
            host=parts.hostname,
            port=parts.port,
            user=unquote(parts.username),
            password=unquote(parts.password or ""),
            database=unquote(parts.path.lstrip("/")),
        )


class SqlService(Service):
    """A server that speaks SQL. The harness talks to it without a client library."""

    # Run by the administrator, those of roles in the database; a role's password is its name.
    create_database: ClassVar[tuple[str, ...]]
    drop_database: ClassVar[str]
    create_role: ClassVar[tuple[str, ...]]
    drop_role: ClassVar[str]

    @abstractmethod
    def query(self, url: str, statement: str) -> list[Row]:
        """Log in, run one statement, commit, log out; return its rows, or raise StatementFailed."""


@dataclass
class Database:
    """A database of a test's own on a server, made by `make` and gone after `drop`."""

    service: SqlService
    server_url: str
    name: str
    _roles: list[str] = field(default_factory=list)

    @classmethod
    def make(cls, service: SqlService, server_url: str) -> Database:
        """Create an empty database; `server_url` must be its administrator's."""
        database = cls(service, server_url, f"postroad_{secrets.token_hex(6)}")
        for statement in service.create_database:
            service.query(server_url, statement.format(database=database.name))
        return database

    @property
    def url(self) -> str:
        """The URL with which the server's administrator uses this database."""
        return urlsplit(self.server_url)._replace(path=f"/{self.name}").geturl()

    def query(self, statement: str) -> list[Row]:
        """Run one statement in it as the administrator, and return its rows as text."""
        return self.service.query(self.url, statement)

    def add_role(self, *grants: str) -> str:
        """Make a role that may log in and nothing else; return its URL.

        The role gets what the grants say, such as "GRANT SELECT ON orders TO {role}".
        """
        name = f"role_{secrets.token_hex(6)}"
        self._roles.append(name)
        for statement in (*self.service.create_role, *grants):
            self.query(statement.format(role=name, database=self.name))
        return _as_user(urlsplit(self.url), name).geturl()

    def drop(self) -> None:
        """Remove the database and its roles, whoever is connected. Idempotent."""
        self.service.query(self.server_url, self.service.drop_database.format(database=self.name))
        for name in self._roles:
            self.service.query(self.server_url, self.service.drop_role.format(role=name))
        self._roles.clear()


def _as_user(url: SplitResult, name: str) -> SplitResult:
    return url._replace(netloc=f"{name}:{name}@{url.netloc.rpartition('@')[2]}")


def receive_exactly(connection: socket.socket, size: int) -> bytes:
    """Read so many bytes; ConnectionError if the server ends before."""
    data = b""
    while len(data) < size:
        chunk = connection.recv(size - len(data))
        if not chunk:
            raise ConnectionError("the server closed the connection")
        data += chunk
    return data
