"""From a URL to the database that it names; a kind's driver is imported on first use."""

from __future__ import annotations

from urllib.parse import urlsplit

from postroad.errors import InvalidURLError
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
    known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
    raise InvalidURLError(f"{scheme}:// is no database; these are: {known}")
