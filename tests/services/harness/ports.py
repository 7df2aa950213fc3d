"""Free loopback ports."""

from __future__ import annotations

import secrets
import socket

LOOPBACK = "127.0.0.1"

# Below the range from which Linux takes the local ports of outgoing connections, so that
# a server which restarts finds its port still free.
_FIRST, _LAST = 20_000, 32_000

_handed_out: set[int] = set()


def free_port() -> int:
    """Return a loopback port that nothing listens on and that this process has not returned.

    Another process may take it before it is bound, so a start that fails with the address
    in use is worth a second try with another port.
    """
    while True:
        # Not `random`: a test that seeds it must not make two runs choose the same ports.
        port = _FIRST + secrets.randbelow(_LAST - _FIRST)
        if port not in _handed_out and is_free(port):
            _handed_out.add(port)
            return port


def is_free(port: int) -> bool:
    """Tell whether a server could listen on a loopback port now."""
    with socket.socket() as probe:
        # A port whose last connections linger in TIME_WAIT is free for a server.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def accepts_connections(port: int, *, host: str = LOOPBACK, seconds: float = 1.0) -> bool:
    """Tell whether something accepts connections on a port."""
    try:
        socket.create_connection((host, port), timeout=seconds).close()
    except OSError:
        return False
    return True
