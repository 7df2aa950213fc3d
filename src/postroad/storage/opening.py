"""From a URL to the database that it names; a kind's driver is imported on first use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from postroad.errors import InvalidURLError, MissingExtraError
from postroad.storage.place import Place

SCHEMES = ("sqlite", "postgresql", "mysql")
"""URLs that name a database."""


def place_of(url: str) -> Place:
    """The database of a URL. Nothing is opened.

    Raises:
        InvalidURLError: it names none, or has a parameter that is not known.
        MissingExtraError: the driver is not installed.
    """
    scheme = urlsplit(url).scheme
    if scheme == "sqlite":
        from postroad.storage.sqlite.url import parse

        return parse(url)
    if scheme == "postgresql":
        with _extra("postgresql"):
            from postroad.storage.postgresql.url import parse as parse_postgresql
        return parse_postgresql(url)
    if scheme == "mysql":
        with _extra("mysql"):
            from postroad.storage.mysql.url import parse as parse_mysql
        return parse_mysql(url)
    known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
    raise InvalidURLError(f"{scheme}:// is no database; these are: {known}")


@contextmanager
def _extra(name: str) -> Iterator[None]:
    """Say which extra brings a driver that is missing."""
    try:
        yield
    except ImportError as error:
        raise MissingExtraError(
            f"{name}:// needs {error.name}: pip install 'postroad[{name}]'"
        ) from None
