"""mysql:// URLs: which server, and how it is used."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from postroad.core.url import place_of
from postroad.errors import InvalidURLError
from postroad.storage.mysql.place import MysqlPlace
from postroad.storage.settings import settings_of

_TLS = ("ssl_ca", "ssl_cert", "ssl_key", "ssl_verify_cert", "ssl_verify_identity")
_SWITCHES = {"on": True, "true": True, "1": True, "off": False, "false": False, "0": False}


def parse(url: str) -> MysqlPlace:
    """The place that a URL names. `ssl_…` parameters are those of the driver.

    Raises:
        InvalidURLError: no database, or a parameter that nobody knows.
    """
    parts = urlsplit(url)
    if parts.scheme != "mysql":
        raise InvalidURLError(f"{parts.scheme}:// is not mysql://")
    database = unquote(parts.path).strip("/")
    if not database:
        raise InvalidURLError("a mysql URL names a database: mysql://user:password@host:3306/shop")
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    login: dict[str, Any] = {name: _tls(name, given.pop(name)) for name in _TLS if name in given}
    login |= {
        "host": parts.hostname or "localhost",
        "port": parts.port or 3306,
        "user": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
        "database": database,
    }
    return MysqlPlace(login, place_of(url), settings_of("mysql", given))


def _tls(name: str, value: str) -> Any:
    if not name.startswith("ssl_verify"):
        return value
    if value not in _SWITCHES:
        raise InvalidURLError(f"mysql:// with {name}={value}: on or off is needed")
    return _SWITCHES[value]
