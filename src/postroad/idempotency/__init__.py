"""Five kinds of idempotency: an effect that happens once, however often it is asked for.

- `unique.once`: a unique constraint of the business table says that it was done already.
- `processed.first_time`: a table of the messages that were handled.
- `Keys`, and `IdempotencyMiddleware` for HTTP: a key that the client chooses, with its response.
- `guard.by_state`, `guard.by_version`: an update that only fits the row it was decided for.
- `tokens.issue`, `tokens.redeem`: a token that can be redeemed once, until it expires.

Each name is imported at its first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from postroad.idempotency import guard, processed, tokens, unique
    from postroad.idempotency.keys import Claim, Keys
    from postroad.idempotency.middleware import HttpPolicy, IdempotencyMiddleware

_HOMES = {
    "Claim": "keys",
    "HttpPolicy": "middleware",
    "IdempotencyMiddleware": "middleware",
    "Keys": "keys",
}
_MODULES = ("guard", "processed", "tokens", "unique")

__all__ = [
    "Claim",
    "HttpPolicy",
    "IdempotencyMiddleware",
    "Keys",
    "guard",
    "processed",
    "tokens",
    "unique",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
