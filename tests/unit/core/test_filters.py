"""Filters: what each dialect says, how they combine, and how they split."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroad.core.filters import (
    All,
    Any,
    Exact,
    Filter,
    Not,
    Prefix,
    Suffix,
    Where,
    attribute,
    dialects,
    split,
)
from postroad.core.message import Message


def message(**fields: object) -> Message:
    values: dict[str, object] = {
        "id": "1",
        "type": "orders.created",
        "source": "shop",
        "data": b"{}",
        "time_us": 0,
    }
    return Message(**(values | fields))  # type: ignore[arg-type]


MESSAGE = message(key="ada", subject="order/7", headers={"region": "eu"})


@pytest.mark.parametrize(
    ("filter", "expected"),
    [
        (Exact("type", "orders.created"), True),
        (Exact("type", "orders"), False),
        (Exact("region", "eu"), True),
        (Exact("missing", ""), False),
        (Prefix("type", "orders."), True),
        (Prefix("subject", "order/8"), False),
        (Prefix("missing", ""), False),
        (Suffix("type", ".created"), True),
        (Suffix("type", ".paid"), False),
        (Suffix("missing", ""), False),
        (Not(Exact("missing", "x")), True),
        (All(()), True),
        (Any(()), False),
        (Where(lambda found: len(found.data) == 2), True),
    ],
)
def test_each_dialect(filter: Filter, expected: bool) -> None:  # noqa: A002
    assert filter.matches(MESSAGE) is expected


def test_a_where_gives_a_bool() -> None:
    assert Where(lambda _: "yes").matches(MESSAGE) is True  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("id", "1"),
        ("type", "orders.created"),
        ("source", "shop"),
        ("subject", "order/7"),
        ("datacontenttype", "application/json"),
        ("dataschema", None),
        ("partitionkey", "ada"),
        ("key", "ada"),
        ("correlationid", None),
        ("region", "eu"),
        ("missing", None),
    ],
)
def test_attributes_have_their_cloudevents_names(name: str, value: str | None) -> None:
    assert attribute(MESSAGE, name) == value


def test_operators_flatten() -> None:
    a, b, c = Exact("id", "1"), Exact("id", "2"), Exact("id", "3")
    assert a & b & c == All((a, b, c))
    assert a & (b & c) == All((a, b, c))
    assert a | b | c == Any((a, b, c))
    assert ~(a | b) == Not(Any((a, b)))
    assert (a | b) & c == All((Any((a, b)), c))


def test_dialects_are_found_at_any_depth() -> None:
    deep = ~(Exact("id", "1") & (Prefix("id", "1") | Where(lambda _: True)))
    assert dialects(deep) == {"not", "all", "exact", "any", "prefix", "where"}
    assert dialects(Exact("id", "1")) == {"exact"}


def test_split_takes_a_conjunction_apart() -> None:
    exact, prefix = Exact("type", "a"), Prefix("key", "b")
    custom = Where(lambda _: True)
    assert split(None, frozenset({"exact"})) == (None, None)
    assert split(exact, frozenset({"exact"})) == (exact, None)
    assert split(exact, frozenset()) == (None, exact)
    assert split(exact & custom, frozenset({"exact", "all"})) == (exact, custom)
    assert split(exact & prefix & custom, frozenset({"exact", "prefix", "all"})) == (
        All((exact, prefix)),
        custom,
    )
    assert split(exact | custom, frozenset({"exact", "any"})) == (None, exact | custom)
    assert split(~exact, frozenset({"exact"})) == (None, ~exact)


def test_a_road_without_all_never_gets_one() -> None:
    """The native part must be in the road's dialects, however many conjuncts it could take."""
    native = frozenset({"exact"})
    first, second = Exact("type", "a"), Exact("key", "b")
    assert split(first & second, native) == (first, second)


leaves = st.one_of(
    st.builds(Exact, st.sampled_from(["type", "key", "region"]), st.sampled_from("abc")),
    st.builds(Prefix, st.sampled_from(["type", "key", "region"]), st.sampled_from(["", "a", "b"])),
    st.builds(Suffix, st.sampled_from(["type", "key"]), st.sampled_from(["", "a"])),
)
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(All, st.lists(inner, max_size=3).map(tuple)),
        st.builds(Any, st.lists(inner, max_size=3).map(tuple)),
    ),
    max_leaves=8,
)
ALL_DIALECTS = ["exact", "prefix", "suffix", "all", "any", "not"]


@given(
    trees,
    st.frozensets(st.sampled_from(ALL_DIALECTS)),
    st.sampled_from("abc"),
    st.sampled_from(["a", "b", None]),
)
def test_both_parts_together_are_the_whole(
    tree: Filter, native: frozenset[str], kind: str, key: str | None
) -> None:
    found = message(type=kind, key=key, headers={"region": "a"})
    there, here = split(tree, native)
    both = all(part is None or part.matches(found) for part in (there, here))
    assert both is tree.matches(found)
    assert there is None or dialects(there) <= native
