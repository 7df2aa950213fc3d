"""The header field: an Item of RFC 8941 that is a String, and nothing else."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroad.idempotency.fields import LONGEST, parse

PRINTABLE = "".join(chr(code) for code in range(0x20, 0x7F))


@pytest.mark.parametrize(
    ("value", "key"),
    [
        (b'"8e03978e-40d5-43e8-bc93-6894a57f9324"', "8e03978e-40d5-43e8-bc93-6894a57f9324"),
        (b'  "a"\t', "a"),
        (rb'"say \"hi\" \\"', 'say "hi" \\'),
        (b'"a";version=1', "a"),
        (b'"a"; x; y=?1;z="q";b=:YQ==:;t=tok/en;n=-1.5', "a"),
        (b'"' + b"k" * LONGEST + b'"', "k" * LONGEST),
        (b'" "', " "),
    ],
)
def test_a_string_is_taken(value: bytes, key: str) -> None:
    assert parse([value]) == key


@pytest.mark.parametrize(
    "value",
    [
        b"8e03978e-40d5-43e8-bc93-6894a57f9324",
        b"token",
        b"1",
        b"?1",
        b":YQ==:",
        b"'a'",
        b"",
        b'""',
        b'"a',
        b'a"',
        b'"a" "b"',
        b'"a", "b"',
        b'"a";',
        b'"a";A=1',
        b'"a";x= 1',
        b'"a" ;x',
        rb'"\a"',
        b'"\x00"',
        b'"\x7f"',
        '"ä"'.encode(),
        b'"' + b"k" * (LONGEST + 1) + b'"',
    ],
)
def test_anything_else_is_refused(value: bytes) -> None:
    with pytest.raises(ValueError, match="the Idempotency-Key"):
        parse([value])


def test_two_fields_are_no_item() -> None:
    with pytest.raises(ValueError, match="more than one"):
        parse([b'"a"', b'"a"'])


def test_a_bare_key_is_taken_where_that_is_declared() -> None:
    assert parse([b"8e03978e-40d5"], bare=True) == "8e03978e-40d5"
    assert parse([b'"a"'], bare=True) == "a"
    for wrong in (b'"a', b"a b", b"a, b", b"a;b", b"\xe4", b"k" * (LONGEST + 1)):
        with pytest.raises(ValueError, match="the Idempotency-Key"):
            parse([wrong], bare=True)


@given(st.text(PRINTABLE, min_size=1, max_size=LONGEST))
def test_every_key_is_read_as_it_was_written(key: str) -> None:
    escaped = key.replace("\\", "\\\\").replace('"', '\\"')
    assert parse([f'"{escaped}"'.encode()]) == key


@given(st.binary(max_size=60) | st.text(string.printable + '"\\;=', max_size=60).map(str.encode))
def test_it_is_read_or_refused_and_nothing_else(value: bytes) -> None:
    try:
        key = parse([value], bare=True)
    except ValueError:
        return
    assert 0 < len(key) <= LONGEST
    assert set(key) <= set(PRINTABLE)
