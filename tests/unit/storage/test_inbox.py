"""What identifies a message in the inbox."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from postroad.core.message import Message, new_id
from postroad.storage.inbox import name_of

TEXT = st.text(alphabet="ab #:1\n\u00e9", min_size=1, max_size=4)


def name(id_: str, source: str) -> str:
    return name_of(Message(id=id_, type="t", source=source, data=b"", time_us=0))


@given(st.lists(st.tuples(TEXT, TEXT), unique=True, min_size=2, max_size=8))
def test_two_messages_never_share_a_name(identities: list[tuple[str, str]]) -> None:
    for one, other in combinations(identities, 2):
        assert name(*one) != name(*other)


def test_the_usual_name_is_readable_and_sorts_by_time() -> None:
    first, second = new_id(), new_id()
    assert name(first, "/shop") == f"{first} /shop"
    assert name(first, "z") < name(second, "a")


def test_a_name_fits_its_column_on_every_database() -> None:
    """255 characters, nothing that is invisible, no blank at the end that MySQL would drop."""
    odd = ["x" * 1000, "\0", "a\ud800", "tab\t", "trailing ", "#" * 64]
    for id_ in odd:
        for source in odd:
            made = name(id_, source)
            assert len(made) <= 255
            assert made.isprintable()
            assert made == made.strip()
            made.encode()
    names = {name(id_, source) for id_ in odd for source in odd}
    assert len(names) == len(odd) ** 2
