"""Topic patterns: `*` stands for one word, a last `#` for any number of words."""

from __future__ import annotations

import re
from functools import lru_cache

from postroad.errors import DeclarationError

_PATTERN = re.compile(r"(\*|[A-Za-z0-9_-]+)(\.(\*|[A-Za-z0-9_-]+))*(\.#)?|#")


def is_pattern(name: str) -> bool:
    """Whether a name stands for more than one topic."""
    return "*" in name or "#" in name


def check_pattern(pattern: str) -> None:
    """Refuse a malformed pattern.

    Raises:
        DeclarationError: it is not words, `*` and at most one `#`, which comes last.
    """
    if not _PATTERN.fullmatch(pattern):
        raise DeclarationError(
            f"{pattern!r} is not a topic pattern: dotted words, * for one word, "
            "# at the end for any number (orders.*, orders.#)"
        )


def matches(pattern: str, name: str) -> bool:
    """Whether a topic's name fits the pattern (AMQP's topic rules: `orders.#` fits `orders`)."""
    return _compiled(pattern).fullmatch(name) is not None


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    if pattern == "#":
        return re.compile(r".*")
    head, hash_, _ = pattern.partition(".#")
    words = [r"[^.]+" if word == "*" else re.escape(word) for word in head.split(".")]
    return re.compile(r"\.".join(words) + (r"(\..+)?" if hash_ else ""))
