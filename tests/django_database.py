"""Django inside a test: its connections, without a project around them."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import django
from django.conf import settings


@contextmanager
def django_connection(engine: str, **database: object) -> Iterator[Any]:
    """A connection under an alias of its own, closed and forgotten at the end."""
    if not settings.configured:
        settings.configure(DATABASES={}, USE_TZ=True)
        django.setup()
    from django.db import connections

    alias = f"test_{secrets.token_hex(4)}"
    defaults = dict(connections.settings["default"])
    connections.settings[alias] = {
        **defaults,
        "ENGINE": f"django.db.backends.{engine}",
        **database,
    }
    try:
        yield connections[alias]
    finally:
        connections[alias].close()
        del connections[alias]
        del connections.settings[alias]
