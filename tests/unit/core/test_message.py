"""The envelope and its identity."""

from __future__ import annotations

import re
import time
import uuid
from datetime import UTC, datetime

from postroad.core.message import Message, new_id

_TEXT = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def test_an_id_is_a_uuid_of_version_7() -> None:
    for _ in range(1000):
        text = new_id()
        assert _TEXT.fullmatch(text)
        found = uuid.UUID(text)
        assert str(found) == text
        assert found.variant == uuid.RFC_4122
        assert found.version == 7


def test_an_id_holds_its_time_in_milliseconds() -> None:
    before = time.time_ns() // 1_000_000
    milliseconds = uuid.UUID(new_id()).int >> 80
    assert before <= milliseconds <= time.time_ns() // 1_000_000


def test_the_fraction_of_the_millisecond_follows_the_version() -> None:
    # RFC 9562 §6.2 method 3: 12 bits of the fraction, about 244 ns each.
    before = time.time_ns()
    value = uuid.UUID(new_id()).int
    after = time.time_ns()
    fraction = (value >> 64) & 0xFFF
    stamped = (value >> 80) * 1_000_000 + fraction * 1_000_000 // 4096
    assert before - 245 <= stamped <= after


def test_ids_sort_by_time_to_the_microsecond() -> None:
    ids = []
    for _ in range(200):
        ids.append(new_id())
        until = time.time_ns() + 1000
        while time.time_ns() < until:
            pass
    assert ids == sorted(ids)


def test_ids_never_repeat() -> None:
    assert len({new_id() for _ in range(100_000)}) == 100_000


def test_the_random_bits_are_all_used() -> None:
    seen_one = seen_zero = 0
    mask = (1 << 62) - 1
    for _ in range(500):
        value = uuid.UUID(new_id()).int & mask
        seen_one |= value
        seen_zero |= ~value & mask
    assert seen_one == seen_zero == mask


def test_instants_are_aware_datetimes() -> None:
    message = Message(
        id="1", type="t", source="s", data=b"", time_us=1_000_000, expires_at_us=2_500_000
    )
    assert message.time == datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)
    assert message.expires_at == datetime(1970, 1, 1, 0, 0, 2, 500_000, tzinfo=UTC)
    assert message.deliver_at is None


def test_its_repr_holds_neither_payload_nor_headers() -> None:
    message = Message(
        id="1",
        type="t",
        source="s",
        data=b"secret",
        time_us=0,
        key="ada",
        headers={"authorization": "hunter2"},
    )
    assert repr(message) == "Message(id='1', type='t', key='ada', 6 bytes)"
