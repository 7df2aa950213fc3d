"""The conformance suite: what every transport has to keep of what it declares. Public.

A transport joins it in a few lines::

    from pathlib import Path

    from postroad.testing.conformance import Road, TransportConformance


    class TestMine(TransportConformance):
        name = "mine"

        def road(self, scratch: Path) -> Road:
            return Road(make=lambda: MyTransport(f"mine://{scratch}/data"))

Needs pytest and pytest-asyncio (the `test` extra). Random choices come from one seed, which each
test prints and `POSTROAD_TEST_SEED` repeats.
"""

import pytest

_WITH_ASSERTIONS = (
    *(
        "actors",
        "auditing",
        "bench",
        "closing",
        "cumulative",
        "dead_letters",
        "durability",
        "filtering",
        "gaps",
        "groups",
    ),
    *("history", "lag", "leases", "ordering", "parking", "patterns", "processes", "revoking"),
    *("roundtrip", "settling", "timing", "transactions", "waiting"),
)
# Before they are imported, so that a failure shows its values.
pytest.register_assert_rewrite(*(f"{__name__}.{module}" for module in _WITH_ASSERTIONS))

from postroad.testing.conformance.bench import SEED, Workbench  # noqa: E402
from postroad.testing.conformance.road import Road  # noqa: E402
from postroad.testing.conformance.suite import TransportConformance, run_test  # noqa: E402
from postroad.testing.conformance.waiting import eventually  # noqa: E402

__all__ = ["SEED", "Road", "TransportConformance", "Workbench", "eventually", "run_test"]
