"""A mail provider as they are: it fails now and then, and for some it fails always."""

from __future__ import annotations

import asyncio
from pathlib import Path
from zlib import crc32

import msgspec

from examples.shop.settings import MAILS

UNREACHABLE = "@unreachable.example"
"""For addresses that end so, it is always down."""


class MailProviderDown(Exception):
    """Try again later."""


class Mail(msgspec.Struct, frozen=True):
    """A mail, with a key that is the same whenever it is sent again."""

    key: str
    to: str
    order_id: int
    subject: str


class FlakyMailProvider:
    """Writes what it sends to a file, one line each. It fails on the first try of every third
    mail."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._failed: set[str] = set()

    async def send(self, mail: Mail) -> None:
        """Send one.

        Raises:
            MailProviderDown: it was not sent.
        """
        await asyncio.sleep(0.005)  # it is far away
        if mail.to.endswith(UNREACHABLE) or self._has_a_bad_moment(mail.key):
            raise MailProviderDown("503 from the mail provider")
        with self._file.open("ab") as file:
            file.write(msgspec.json.encode(mail) + b"\n")

    def _has_a_bad_moment(self, key: str) -> bool:
        if crc32(key.encode()) % 3 or key in self._failed:
            return False
        self._failed.add(key)
        return True


provider = FlakyMailProvider(MAILS)
