"""RFC 3339 timestamps, as CloudEvents writes and reads them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from postroad.core.clock import from_us, to_us
from postroad.errors import DecodeError, EncodeError

_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d):(\d\d)(?:\.(\d+))?(?:([Zz])|([+-]\d\d:\d\d))", re.ASCII
)


def timestamp(microseconds: int) -> str:
    """The instant in UTC with `Z`, and with a fraction only where it has one.

    Raises:
        EncodeError: before year 1 or after year 9999.
    """
    try:
        text = from_us(microseconds).isoformat()
    except OverflowError:
        raise EncodeError(f"{microseconds} µs is no instant of the years 1 … 9999") from None
    return text.removesuffix("+00:00") + "Z"


def instant_us(name: str, text: str) -> int:
    """Microseconds since the epoch; digits beyond the microsecond are dropped, and a leap second
    is the first instant of the next minute.

    Raises:
        DecodeError: not RFC 3339, or no such instant.
    """
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise DecodeError(f"CloudEvents {name}: not an RFC 3339 timestamp")
    day, minute, second, fraction, zulu, offset = match.groups()
    leap = second == "60"
    plain = f"{day}T{minute}:{'59' if leap else second}{'+00:00' if zulu else offset}"
    try:
        found = to_us(datetime.fromisoformat(plain).astimezone(UTC) + timedelta(seconds=leap))
    except (ValueError, OverflowError):
        raise DecodeError(f"CloudEvents {name}: no such instant") from None
    return found if leap else found + int((fraction or "0")[:6].ljust(6, "0"))
