"""Conservation: every message accepted is in exactly one state, and the sums prove it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from msgspec.structs import replace

from postroad.core.delivery import Outcome
from postroad.core.pattern import is_pattern
from postroad.core.reports import Account
from postroad.core.transport import Audited, Transport
from postroad.errors import NotFoundError

Verdict = Literal["balanced", "unbalanced", "unknown"]

ENDS: tuple[Outcome | Literal["dead"], ...] = (
    "handled",
    "dead",
    "discarded",
    "expired",
    "shed",
    "filtered",
    "moved",
)


@dataclass(frozen=True)
class Entry:
    """The verdict on one group of one topic.

    Attributes:
        account: what the road counted; None where it does not count.
        verdict: see `Audit`.
        reason: why it is not balanced.
    """

    topic: str
    group: str
    account: Account | None
    verdict: Verdict
    reason: str = ""

    @property
    def pending(self) -> int:
        """Accepted and not settled: backlog, leased, waiting, scheduled."""
        account = self.account
        if account is None:
            return 0
        return account.backlog + account.leased + account.waiting + account.scheduled


@dataclass(frozen=True)
class Audit:
    """The verdict on all that was asked about: the worst of its entries.

    `balanced`: the sums agree. `unbalanced`: they do not, a message was lost or counted twice.
    `unknown`: the road's counters do not commit with its settlements, so nobody can say.
    """

    entries: tuple[Entry, ...]

    @property
    def verdict(self) -> Verdict:
        """The worst of all entries; balanced if there are none."""
        verdicts = {entry.verdict for entry in self.entries}
        if "unbalanced" in verdicts:
            return "unbalanced"
        return "unknown" if "unknown" in verdicts else "balanced"


async def audit(
    transport: Transport,
    pattern: str = "#",
    group: str | None = None,
    *,
    delayed: Callable[[str], int] = lambda _: 0,
) -> Audit:
    """Audit every group on every topic that fits.

    Args:
        delayed: topic → how many of its messages were accepted and wait elsewhere for the time to
            publish them here; scheduled, for each of its groups.

    Raises:
        NotFoundError: a topic or group was named and the road has none such.
    """
    if not isinstance(transport, Audited) or transport.capabilities.audit == "none":
        reason = "this road counts nothing"
        return Audit((Entry(pattern, group or "", None, "unknown", reason),))
    found: Sequence[tuple[str, str]] = await transport.groups(pattern)
    wanted = [(topic, name) for topic, name in found if group in (None, name)]
    if not wanted and (group is not None or not is_pattern(pattern)):
        raise NotFoundError(f"no group {group or ''} on {pattern!r}; `postroad topics` lists them")
    exact = transport.capabilities.audit == "exact"
    accounts = [await transport.account(*pair) for pair in wanted]
    return Audit(tuple(judge(_with(one, delayed(one.topic)), exact) for one in accounts))


def _with(account: Account, delayed: int) -> Account:
    """The account of a road that keeps its scheduled messages elsewhere."""
    return replace(
        account, accepted=account.accepted + delayed, scheduled=account.scheduled + delayed
    )


def judge(account: Account, exact: bool) -> Entry:
    """The verdict on one account; `exact` says whether its counters commit with settlements."""
    settled = sum(account.outcomes.get(end, 0) for end in ENDS)
    pending = account.backlog + account.leased + account.waiting + account.scheduled
    total = settled + pending + account.trimmed
    names = (account.topic, account.group)
    if not exact:
        return Entry(*names, account, "unknown", "this road counts outside its settlements")
    if total == account.accepted:
        return Entry(*names, account, "balanced")
    missing = account.accepted - total
    word = f"{missing} unaccounted for" if missing > 0 else f"{-missing} counted twice"
    return Entry(*names, account, "unbalanced", f"{word} of {account.accepted} accepted")
