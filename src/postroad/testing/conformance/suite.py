"""The suite as one class to derive from, and a way to run one of its tests without pytest."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar

import pytest
import pytest_asyncio

from postroad.testing.conformance.auditing import Auditing
from postroad.testing.conformance.bench import Workbench
from postroad.testing.conformance.closing import Closing
from postroad.testing.conformance.cumulative import Positions
from postroad.testing.conformance.dead_letters import DeadLettering
from postroad.testing.conformance.durability import Durability
from postroad.testing.conformance.filtering import Filtering
from postroad.testing.conformance.gaps import Gaps
from postroad.testing.conformance.groups import Groups
from postroad.testing.conformance.history import History
from postroad.testing.conformance.lag import Lags
from postroad.testing.conformance.leases import Leases
from postroad.testing.conformance.ordering import Ordering
from postroad.testing.conformance.parking import Parking
from postroad.testing.conformance.patterns import Patterns
from postroad.testing.conformance.revoking import Revocations
from postroad.testing.conformance.road import Road
from postroad.testing.conformance.roundtrip import RoundTrip
from postroad.testing.conformance.settling import Settling
from postroad.testing.conformance.timing import Timing
from postroad.testing.conformance.transactions import Transactions


class TransportConformance(
    RoundTrip,
    Groups,
    Settling,
    Positions,
    Leases,
    Ordering,
    Revocations,
    Gaps,
    History,
    Lags,
    Timing,
    DeadLettering,
    Parking,
    Durability,
    Filtering,
    Patterns,
    Transactions,
    Auditing,
    Closing,
):
    """Derive a class named `Test…`, set `name`, say how to make a `Road`: pytest does the rest.

    Every declared capability is tested; every undeclared one has to be refused. What cannot
    apply is skipped with the capability that is missing as the reason. At the end of each test
    the audit has to balance, where the road says that its audit is exact.
    """

    name: ClassVar[str]
    """The road's name, for messages; name the module or class so that `-k` finds it too."""

    pytestmark: ClassVar[list[pytest.MarkDecorator]] = [pytest.mark.asyncio]

    @abstractmethod
    def road(self, scratch: Path) -> Road:
        """A road over empty data; `scratch` is an empty folder of this test's own."""

    @pytest_asyncio.fixture
    async def bench(self, tmp_path: Path) -> AsyncIterator[Workbench]:
        """The workbench of one test."""
        async with workbench(self, tmp_path) as bench:
            yield bench


@asynccontextmanager
async def workbench(suite: TransportConformance, scratch: Path) -> AsyncIterator[Workbench]:
    """A workbench over the suite's road; its audit is checked on leaving."""
    bench = Workbench(suite.name, suite.road(scratch))
    try:
        yield bench
    except BaseException:
        await bench.close_all()
        raise
    await bench.finish()


async def run_test(suite: TransportConformance, test: str, scratch: Path) -> None:
    """Run one test of the suite by name, in a folder that is empty.

    Raises:
        AssertionError: the road does not keep what the test holds it to.
        pytest.skip.Exception: it does not declare it.
    """
    async with workbench(suite, scratch) as bench:
        await getattr(suite, test)(bench)
