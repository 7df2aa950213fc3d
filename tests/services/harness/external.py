"""A server that somebody else runs, named by POSTROAD_TEST_<NAME>_URL."""

from __future__ import annotations

import os
from dataclasses import dataclass
from urllib.parse import urlsplit

from tests.services.harness.instance import ServiceFailed
from tests.services.harness.ports import accepts_connections


@dataclass(frozen=True)
class External:
    """A server that the tests use and leave running. They cannot restart it."""

    name: str
    url: str

    def log_tail(self) -> str:
        """Return nothing: its log is its owner's."""
        return ""


def url_variable(name: str) -> str:
    """Return the name of the environment variable with a server's URL."""
    return f"POSTROAD_TEST_{name.upper()}_URL"


def external_server(name: str) -> External | None:
    """Return the server that the environment names, or None.

    One that is named and does not answer is ServiceFailed, never skipped: it was asked for.
    """
    variable = url_variable(name)
    url = os.environ.get(variable)
    if not url:
        return None
    address = urlsplit(url)
    if not address.hostname or not address.port:
        raise ServiceFailed(f"{variable} must name a host and a port")
    if not accepts_connections(address.port, host=address.hostname, seconds=5.0):
        raise ServiceFailed(f"nothing answers at {address.hostname}:{address.port} ({variable})")
    return External(name, url)
