"""postgresql:// URLs: which server, and how it is used."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from postroad.core.url import place_of
from postroad.errors import InvalidURLError
from postroad.storage.postgresql.place import PostgresqlPlace
from postroad.storage.settings import Settings, parameter_error, settings_of

_OURS = {
    "schema": "where the tables are, e.g. postroad",
    "notify": "on (default) or off: listen for news, or only look now and then",
}
_SCHEMA = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_LIBPQ = {
    "sslmode", "sslrootcert", "sslcert", "sslkey", "connect_timeout", "target_session_attrs",
    "application_name", "keepalives", "keepalives_idle", "keepalives_interval",
    "keepalives_count", "tcp_user_timeout", "channel_binding", "gssencmode", "host", "port",
    "passfile", "service",
}  # fmt: skip


def parse(url: str) -> PostgresqlPlace:
    """The place that a URL names. Parameters that are not ours are libpq's.

    Raises:
        InvalidURLError: no database, or a parameter that nobody knows.
    """
    parts = urlsplit(url)
    if parts.scheme != "postgresql":
        raise InvalidURLError(f"{parts.scheme}:// is not postgresql://")
    if not parts.path.strip("/"):
        raise InvalidURLError(
            "a postgresql URL names a database: postgresql://user:password@host:5432/shop"
        )
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    libpq = {name: value for name, value in given.items() if name in _LIBPQ}
    ours = {name: value for name, value in given.items() if name not in _LIBPQ}
    schema = ours.pop("schema", "")
    if schema and not _SCHEMA.fullmatch(schema):
        raise InvalidURLError(f"schema={schema}: a plain name is needed, as in ?schema=postroad")
    notify = ours.pop("notify", "on")
    if notify not in ("on", "off"):
        raise parameter_error("postgresql", "notify", notify, "on or off")
    settings: Settings = settings_of("postgresql", ours, _OURS)
    conninfo = urlunsplit(parts._replace(query=urlencode(libpq)))
    return PostgresqlPlace(conninfo, place_of(url), settings, schema=schema, notify=notify == "on")
