"""Redis, persistent: every write is in the append-only file before it is answered."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from tests.services.harness.debian import Debian
from tests.services.harness.instance import Instance
from tests.services.harness.local import Local
from tests.services.harness.ports import LOOPBACK
from tests.services.harness.service import Service


class Redis(Service):
    name = "redis"
    finders = (
        Local(("redis-server",)),
        Debian(("redis-server",), ("usr/bin/redis-server",)),
    )

    def url(self, instance: Instance) -> str:
        return f"redis://{LOOPBACK}:{instance.port}/0"

    def command(self, instance: Instance) -> Sequence[str]:
        settings = {
            "bind": LOOPBACK,
            "port": str(instance.port),
            "dir": str(instance.directory),
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
            "databases": "64",
            "daemonize": "no",
        }
        words = [word for key, value in settings.items() for word in (f"--{key}", value)]
        return [instance.program["redis-server"], *words]

    def ready(self, instance: Instance) -> bool:
        try:
            with socket.create_connection((LOOPBACK, instance.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False


SERVICE = Redis()
