"""Native filters: each declared dialect keeps what passes and counts what does not."""

from __future__ import annotations

import pytest

from postroad.core import filters
from postroad.core.filters import Filter
from postroad.core.transport import Plan
from postroad.errors import PostroadError
from postroad.testing.conformance.bench import Workbench, ids

_EXACT = filters.Exact("tenant", "eu")
_PREFIX = filters.Prefix("subject", "order/")
SAMPLES: dict[str, tuple[Filter, ...]] = {
    "exact": (_EXACT, filters.Exact("id", "no such id")),
    "prefix": (_PREFIX,),
    "suffix": (filters.Suffix("subject", "/paid"),),
    "all": (_EXACT & _PREFIX,),
    "any": (_EXACT | _PREFIX,),
    "not": (~_EXACT,),
}


class Filtering:
    """What `Plan.filter` does."""

    async def test_each_declared_dialect_filters(self, bench: Workbench) -> None:
        bench.need_groups()
        declared = bench.capabilities.filters
        bench.need(declared, "a filter")
        topic, _ = await bench.setup()
        samples = [one for name in sorted(declared) for one in SAMPLES.get(name, ())]
        for number, sample in enumerate(samples):
            if not filters.dialects(sample) <= declared:
                continue
            group = f"filtered-{number}"
            wish = bench.subscription(topic, group, "latest")
            consumer = await bench.source().subscribe(wish, Plan(filter=sample))
            sent = [
                bench.message(topic, subject=subject, headers=headers)
                for subject in (None, "order/paid", "order/open", "invoice/paid")
                for headers in ({}, {"tenant": "eu"}, {"tenant": "us"})
            ]
            await bench.send(topic, sent)
            expected = [message.id for message in sent if sample.matches(message)]
            found = await bench.consume(consumer, len(expected))
            assert sorted(ids(found)) == sorted(expected), sample
            await bench.nothing(consumer, f"the others do not pass {sample}")
            if bench.capabilities.audit == "exact":
                outcomes = (await bench.account(topic, group)).outcomes
                assert outcomes.get("filtered", 0) == len(sent) - len(expected)
            await consumer.close()

    async def test_a_filter_is_refused_where_undeclared(self, bench: Workbench) -> None:
        bench.need_groups()
        if "exact" in bench.capabilities.filters:
            bench.skip("it is declared")
        _, subscription = await bench.setup()
        with pytest.raises(PostroadError):
            await bench.source().subscribe(subscription, Plan(filter=_EXACT))
